"""Erasure from a small feature store: afterwards no file of it names the entity, and everything else is there."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from sqlalchemy import select

from fti.contract.feature_service import read_interface
from fti.contract.predictions import PREDICTIONS, create, open_log
from fti.features import erase as erasure
from fti.stores.repository import open_repository
from fti.times import utc
from fti.training.dataset import labelled_rows, pin_versions, store_rows, training_sets
from tests.small_repo import JULY, frames, read_raw, succeed, tables, write_raw

WHO = "N2AB"
START, AS_OF = utc("2013-06-01"), utc("2013-07-03")
SERVICE = "arrival_delay_v1"


def kept_training_set(folder: Path) -> tuple[str, dict[str, int]]:
    """Keep a training set of what is published now; its hash, and the versions of the tables it was made of."""
    store = open_repository(folder / "feature_repo")
    interface = read_interface(store, SERVICE)
    versions = pin_versions(store, interface)
    rows = labelled_rows(store, interface, START, AS_OF)
    store_rows(rows, training_sets(store, SERVICE))
    return rows.sha256, versions


@pytest.fixture(scope="module")
def flown(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Trained once before the aircraft was seen and once after it, and asked about both aircraft."""
    folder = Path(shutil.copytree(built, tmp_path_factory.mktemp("flown") / "copy"))
    succeed(folder, "apply")
    trainings = [kept_training_set(folder)]
    flights = read_raw(folder, "flights.csv.zip")
    flights.loc[[2, 5, 9], ["tailnum", "arr_delay"]] = [WHO, 300.0]
    write_raw(folder, "flights.csv.zip", flights)
    succeed(folder, "ingest", *JULY)
    succeed(folder, "publish", *JULY)
    succeed(folder, "materialize", *JULY, "--as-of", "2013-07-03")
    trainings.append(kept_training_set(folder))
    interface = read_interface(open_repository(folder / "feature_repo"), SERVICE)
    contracts = [
        SimpleNamespace(
            training_set=SimpleNamespace(sha256=sha256, delta_versions=versions),
            interface=interface, example_request={"tailnum": tail},
        )
        for (sha256, versions), tail in zip(trainings, ("N1AB", WHO), strict=True)
    ]  # fmt: skip
    engine = open_log(log_of(folder))
    create(engine)
    about = dict.fromkeys(("model_name", "model_version", "contract_sha256", "feature_service"), "-") | {
        "row": 0, "role": "champion", "predicted_at": datetime.now(UTC), "as_of": AS_OF, "features": "{}", "ages": "{}",
        "prediction": 0.5,
    }  # fmt: skip
    asked = {"a": {"tailnum": WHO}, "b": {"tailnum": "N1AB"}, "c": {"dest": WHO}, "d": {"tailnum": None}}
    with engine.begin() as connection:
        rows = [about | {"request_id": name, "request": json.dumps(one)} for name, one in asked.items()]
        connection.execute(PREDICTIONS.insert(), rows)
    engine.dispose()
    return folder, contracts


def log_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'data' / 'predictions.db'}"


@pytest.fixture
def folder(flown: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, with both versions registered."""
    found = {f"delay version {number}": one for number, one in enumerate(flown[1], 1)}
    monkeypatch.setattr(erasure, "registered", lambda repo: found)
    monkeypatch.setattr(erasure, "tracking_uri", lambda repo, was_applied: None)
    return Path(shutil.copytree(flown[0], tmp_path / "copy"))


def run(folder: Path, *more: str) -> int:
    return erasure.main([f"tailnum={WHO}", "--repo", str(folder / "feature_repo"), "--url", log_of(folder), *more])


def naming(folder: Path) -> list[str]:
    """Every file under data/ that says the value, but the log of training sets."""
    found = []
    for file in (folder / "data").rglob("*"):
        if not file.is_file() or ("training_sets" in file.parts and "_delta_log" in file.parts):
            continue
        said = WHO.encode() in file.read_bytes()
        if file.suffix == ".parquet":
            said |= WHO in str(pq.read_table(file, partitioning=None).to_pydict())
        found += [str(file.relative_to(folder))] if said else []
    return found


def test_a_dry_run_says_what_would_go_and_deletes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows by place, and the version that was fitted to them; not the one from before."""
    before = tables(folder)
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert "raw/schedule: 3 rows to delete" in out
    assert "online store: 2 rows" in out or "online store: 1 rows" in out
    assert "log of predictions: 1 rows to delete" in out
    assert "delay version 2 was fitted to such rows" in out
    assert "delay version 1 was" not in out
    assert "delay version 2 has such a row as its example request" in out
    assert "Nothing was deleted" in out
    assert tables(folder) == before
    assert not (folder / "data" / "erasures").exists()


def test_nothing_under_data_names_the_entity_afterwards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No data file, old or new, no log, no database as a key; all other rows are there, and a receipt of what went."""
    before = frames(folder)
    assert len(naming(folder)) > 5
    assert run(folder, "--yes") == 0
    assert naming(folder) == ["data/predictions.db"]  # where a request says so as its destination
    assert (folder / "data" / "predictions.db").read_bytes().count(WHO.encode()) == 1
    for name, frame in frames(folder).items():
        kept = before[name]
        kept = kept[kept.tailnum != WHO] if "tailnum" in kept else kept
        assert frame.reset_index(drop=True).equals(kept.reset_index(drop=True)), name
    with open_log(log_of(folder)).connect() as connection:
        assert sorted(connection.execute(select(PREDICTIONS.c.request_id)).scalars()) == ["b", "c", "d"]
    (file,) = (folder / "data" / "erasures").iterdir()
    receipt = json.loads(file.read_text())
    assert receipt["deleted"]
    assert receipt["rows"]["raw/schedule"] == 3
    assert receipt["fitted_to_it"] == ["delay version 2"]
    assert WHO not in file.read_text()
    capsys.readouterr()
    assert run(folder) == 0
    assert capsys.readouterr().out == "delay version 2 has such a row as its example request\n"


def test_the_copy_of_a_training_set_without_the_entity_stays(folder: Path, flown: tuple[Path, list[Any]]) -> None:
    """So a version that was not fitted to it is still rebuilt from its copy."""
    run(folder, "--yes")
    sets = DeltaTable(str(folder / "data" / "training_sets" / SERVICE))
    first = flown[1][0].training_set.sha256
    (version,) = (one["version"] for one in sets.history() if one.get("sha256") == first)
    rows = DeltaTable(sets.table_uri, version=version).to_pyarrow_table()
    assert rows.num_rows > 0
    assert set(rows["tailnum"].to_pylist()) == {"N1AB"}


def test_publishing_afterwards_computes_what_others_have_without_it(folder: Path) -> None:
    """As a store in which it never was."""
    run(folder, "--yes")
    other = folder.parent / "other"
    flights = read_raw(folder, "flights.csv.zip")
    write_raw(folder, "flights.csv.zip", flights[flights.tailnum != WHO])
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("data"))
    succeed(folder, "publish", *JULY)
    succeed(other, "ingest", *JULY)
    succeed(other, "publish", *JULY)
    wanted = frames(other)
    for name, frame in frames(folder).items():
        if name.startswith("features/"):
            columns = [column for column in frame if column != "created_timestamp"]
            assert frame[columns].equals(wanted[name][columns]), name
