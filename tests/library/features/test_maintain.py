"""Upkeep of a small feature store: what a registered model was trained on stays, to the last cell."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deltalake import DeltaTable
from upath import UPath

from fti.contract.feature_service import read_interface
from fti.features import maintain as maintenance
from fti.features.maintain import MaintenanceSettings, maintain, needed_by
from fti.stores.repository import open_repository
from fti.times import utc
from fti.training.dataset import labelled_rows, pin_versions
from tests.small_repo import JULY, frames, read_raw, succeed, write_raw

AT_ONCE = MaintenanceSettings(keep_files_days=0, keep_log_days=0, keep_expired_hours=0)
START, AS_OF = utc("2013-06-01"), utc("2013-07-03")


def training_set(folder: Path, versions: dict[str, int] | None = None) -> tuple[str, dict[str, int]]:
    """The hash of a training set, of these versions of the tables, by default the newest, and which those are."""
    store = open_repository(folder / "feature_repo")
    interface = read_interface(store, "arrival_delay_v1")
    pinned = versions or pin_versions(store, interface)
    store.config.offline_store.delta_versions.update(pinned)
    return labelled_rows(store, interface, START, AS_OF).sha256, pinned


@pytest.fixture(scope="module")
def trained(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, int]]:
    """A store that was trained on, and in which every landing was restated three times since."""
    folder = Path(shutil.copytree(built, tmp_path_factory.mktemp("trained") / "copy"))
    succeed(folder, "apply")
    sha256, versions = training_set(folder)
    flights = read_raw(folder, "flights.csv.zip")
    for delay in range(1, 4):
        write_raw(folder, "flights.csv.zip", flights.assign(arr_delay=delay * 20, dep_delay=delay))
        succeed(folder, "ingest", *JULY)
        succeed(folder, "publish", *JULY)
    succeed(folder, "materialize", *JULY, "--as-of", "2013-07-03")
    return folder, sha256, versions


@pytest.fixture
def folder(trained: tuple[Path, str, dict[str, int]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "copy"))


def registered(monkeypatch: pytest.MonkeyPatch, *versions: dict[str, int]) -> None:
    """Let models be registered that were trained on these versions of the tables."""
    found = {
        f"delay version {number}": SimpleNamespace(training_set=SimpleNamespace(delta_versions=one))
        for number, one in enumerate(versions, 1)
    }
    monkeypatch.setattr(maintenance, "registered", lambda repo: found)


def test_what_a_registered_model_was_trained_on_is_rebuilt_to_the_last_cell(trained, folder, monkeypatch) -> None:
    """After everything else went: old files, and the log. What no model was trained on cannot be read any more."""
    _, sha256, versions = trained
    assert training_set(folder)[0] != sha256
    before = frames(folder)
    registered(monkeypatch, versions)
    maintain(folder / "feature_repo", AS_OF, AT_ONCE)
    assert training_set(folder, versions)[0] == sha256
    for name, frame in frames(folder).items():
        assert frame.equals(before[name])
    registered(monkeypatch)
    lines = maintain(folder / "feature_repo", AS_OF, AT_ONCE)
    assert any("old files" in line and not line.split("; ")[1].startswith("0 ") for line in lines)
    with pytest.raises(Exception, match=r"cannot be read|are gone"):
        training_set(folder, versions)


def test_publishing_after_upkeep_writes_what_it_would_have_written_without(trained, folder, monkeypatch) -> None:
    """Late events are seen, and rows that they touch computed anew; again it changes nothing."""
    other = Path(shutil.copytree(folder, folder.parent / "other"))
    registered(monkeypatch, trained[2])
    maintain(folder / "feature_repo", AS_OF, MaintenanceSettings())
    for one in (folder, other):
        flights = read_raw(one, "flights.csv.zip")
        flights.loc[[3, 4], "arr_delay"] = 77
        write_raw(one, "flights.csv.zip", flights)
        succeed(one, "ingest", *JULY)
        succeed(one, "publish", "--start", "2013-07-02", "--end", "2013-07-03")
    wanted = frames(other)
    for name, frame in frames(folder).items():
        assert frame.equals(wanted[name]), name


def test_of_a_table_that_no_view_has_nothing_goes_while_a_model_may_need_it(folder, monkeypatch) -> None:
    """The view was retired, its table is still there, and a model names a source that nobody knows."""
    registered(monkeypatch, {"retired": 0})
    orphan = folder / "data" / "features" / "retired"
    shutil.copytree(folder / "data" / "features" / "route_profile", orphan)
    versions = DeltaTable(str(orphan)).version()
    lines = maintain(folder / "feature_repo", AS_OF, AT_ONCE)
    (line,) = (line for line in lines if line.startswith("features/retired"))
    assert "nothing deleted" in line
    for version in range(versions + 1):
        assert DeltaTable(str(orphan), version=version).version() == version


def test_online_rows_past_their_ttl_go_and_no_others(folder, monkeypatch) -> None:
    """As of the moment that their view was materialized to, however late it is by the clock."""
    registered(monkeypatch)
    store: Any = open_repository(folder / "feature_repo")
    online = store._get_provider().online_store

    def rows(view: str) -> int:
        (count,) = online._connection(store.config).execute(f'SELECT count(*) FROM "{store.project}.{view}"').fetchone()
        return int(count)

    with_ttl = [view for view in store.list_feature_views() if view.online and view.ttl]
    short = min(with_ttl, key=lambda view: view.ttl)
    maintain(folder / "feature_repo", None, AT_ONCE)
    before = {view.name: rows(view.name) for view in store.list_feature_views() if view.online}
    assert sum(before.values())
    online._connection(store.config).execute(f'UPDATE "{store.project}.{short.name}" SET event_us = 0')
    lines = maintain(folder / "feature_repo", utc("2030-01-01"), AT_ONCE)
    assert lines[-1] == f"online: {before[short.name]} rows past their ttl deleted"
    assert {name: rows(name) for name in before} == before | {short.name: 0}


def test_while_nothing_lands_the_newest_rows_stay_online(folder, monkeypatch) -> None:
    """However far the store is filled: a service that starts anew has something to start on."""
    registered(monkeypatch)
    succeed(folder, "materialize", *JULY[:2], "--as-of", "2013-09-30", "--force")
    store: Any = open_repository(folder / "feature_repo")
    con = store._get_provider().online_store._connection(store.config)

    def newest() -> dict[str, int | None]:
        asked = 'SELECT max(event_us) FROM "{}.{}"'
        views = [view.name for view in store.list_feature_views() if view.online]
        return {name: con.execute(asked.format(store.project, name)).fetchone()[0] for name in views}

    before = newest()
    assert any(before.values())
    maintain(folder / "feature_repo", utc("2013-09-30"), AT_ONCE)
    assert newest() == before


def test_needed_are_the_versions_of_every_registered_model(folder) -> None:
    """By the tables that the sources of the applied views have."""
    store = open_repository(folder / "feature_repo")
    view = store.get_feature_view("route_profile")
    source = view.batch_source.name
    contracts: Any = {
        name: SimpleNamespace(training_set=SimpleNamespace(delta_versions=versions))
        for name, versions in {"a": {source: 1}, "b": {source: 3, "nowhere": 2}}.items()
    }
    needed = needed_by(store, contracts)
    assert needed.of(UPath(folder / "data" / "features" / "route_profile")) == {1, 3}
    assert needed.of(UPath(folder / "data" / "features" / "flight_outcome")) == frozenset()
    assert needed.of(UPath(folder / "data" / "raw" / "arrivals")) is None
    assert needed.unknown == {"nowhere"}
    without = needed_by(store, {"a": contracts["a"]})
    assert without.of(UPath(folder / "data" / "raw" / "arrivals")) == frozenset()
    assert without.of(UPath(folder / "data" / "features" / "of_no_view")) is None
