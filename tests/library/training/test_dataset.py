"""Training sets of a small feature store: without what a late feed brought later, and kept when its tables are not."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from upath import UPath

from fti.contract.feature_contract import FeatureContract, TrainingSet
from fti.contract.feature_service import read_interface
from fti.contract.interface import FeatureInterface
from fti.contract.registered import ERASED_TAG
from fti.contract.spine import row_key_of, rows_due, spine_rows, view_moments, view_rows
from fti.times import utc
from fti.training import dataset
from fti.training.config import load_config
from fti.training.dataset import LabelledRows, labelled_rows, pin_versions, store_rows, training_sets
from fti.training.evaluate import Forecast, NotComparable, on_common_rows
from fti.training.reproduce import NotReproduced, Rebuilt, reproduce
from fti.training.reproduce import _rows as reproduce_rows
from fti.training.train import split
from tests.small_repo import JULY, read_raw, succeed, write_raw

RECEIVED, BEFORE, AFTER = utc("2013-09-01"), utc("2013-08-31"), utc("2013-09-01")
START = utc("2013-06-01")
LATE_OUTCOMES, LATE_ENTRIES = [3, 4, 5], [7, 8]


@pytest.fixture(scope="module")
def restated(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three landings and two schedule entries were restated by what came in September."""
    folder = Path(shutil.copytree(built, tmp_path_factory.mktemp("late") / "copy"))
    flights = read_raw(folder, "flights.csv.zip")
    flights.loc[LATE_OUTCOMES, "arr_delay"] = 20
    flights.loc[LATE_ENTRIES, "tailnum"] = "N2AB"
    write_raw(folder, "flights.csv.zip", flights)
    succeed(folder, "ingest", *JULY, "--received-at", f"{RECEIVED:%Y-%m-%d}")
    succeed(folder, "publish", *JULY)
    succeed(folder, "apply")
    return folder


def open_store(folder: Path) -> Any:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(folder / "feature_repo"))


@pytest.fixture(scope="module")
def store(restated: Path) -> Any:
    return open_store(restated)


@pytest.fixture(scope="module")
def interface(store: Any) -> FeatureInterface:
    return read_interface(store, "arrival_delay_v1")


def hours(*numbers: int) -> set[pd.Timestamp]:
    """When the flights of these lines of the raw file were to leave."""
    return {pd.Timestamp("2013-07-01", tz="UTC") + pd.Timedelta(hours=number) for number in numbers}


ALL = set(range(48))
LANDED = set(range(28))  # by the end of JULY: flights are to land at 03:59Z, those of the evening on the 3rd
LATE = {BEFORE: {*LATE_OUTCOMES}, AFTER: set()}
RESTATED = {BEFORE: {*LATE_ENTRIES}, AFTER: set()}


@pytest.mark.parametrize("as_of", [BEFORE, AFTER])
def test_a_training_set_has_what_was_learnt_by_its_as_of(store, interface, as_of: datetime):
    """Neither an outcome nor an entry that came later; as of the very moment that it came, all, with what it says."""
    rows = labelled_rows(store, interface, START, as_of).frame
    assert set(rows.scheduled_departure) == hours(*(LANDED - LATE[as_of] - RESTATED[as_of]))
    late = rows[rows.is_late == 1]
    assert set(late.scheduled_departure) == (hours(*LATE_OUTCOMES) if as_of == AFTER else set())


@pytest.mark.parametrize("as_of", [BEFORE, AFTER])
def test_rows_of_a_view_are_those_learnt_by_then(store, interface, as_of: datetime):
    """Labels, which monitoring scores by, and the moments that volume is counted by: as many, and of the same rows."""
    labels = view_rows(store, interface.label_view, as_of)
    assert len(labels) == len(LANDED - LATE[as_of])
    assert len(view_moments(store, interface.label_view, START, as_of)) == len(labels)
    assert (labels.arr_delay_minutes == 20).sum() == (len(LATE_OUTCOMES) if as_of == AFTER else 0)


def test_what_is_due_is_told_by_what_was_learnt_by_the_end_or_by_known_by(store, interface):
    """A batch does not predict an entry that came in September; who looks back from September finds it."""
    due = rows_due(store, interface, utc("2013-06-30"), utc("2013-07-03"))
    assert set(due.scheduled_departure) == hours(*(ALL - RESTATED[BEFORE]))
    back = rows_due(store, interface, utc("2013-06-30"), utc("2013-07-03"), known_by=AFTER)
    assert set(back.scheduled_departure) == hours(*ALL)
    assert set(spine_rows(store, interface, AFTER)[row_key_of(store, interface)]) == set(
        back[row_key_of(store, interface)]
    )


def test_a_training_set_outlives_the_table_versions_that_it_was_read_from(restated, tmp_path):
    """A VACUUM removes the files of the recorded versions: the kept copy takes their place; without one, it says so."""
    folder = Path(shutil.copytree(restated, tmp_path / "copy"))
    store, config = open_store(folder), load_config({"as_of": "2013-10-01"})
    interface = read_interface(store, config.feature_service)
    versions = pin_versions(store, interface)
    rows = split(labelled_rows(store, interface, config.start, config.as_of), config)[0]
    assert len(rows) == len(LANDED)
    recorded = TrainingSet(
        as_of=config.as_of, start=config.start, end=config.fit_end, rows=len(rows), sha256=rows.sha256,
        delta_versions=versions,
    )  # fmt: skip
    contract = FeatureContract(interface=interface, known_values={}, training_set=recorded, example_request={})
    kept = training_sets(store, config.feature_service)
    store_rows(rows, kept)
    table = DeltaTable(str(folder / "data" / "features" / "flight_outcome"))
    table.update({"is_late": "is_late"})
    assert table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)

    found = Rebuilt()
    again = reproduce_rows(open_store(folder), contract, config, found)
    pd.testing.assert_frame_equal(again.frame[rows.frame.columns], rows.frame)
    assert (len(found.same), found.differs) == (1, [])
    assert "kept copy" in found.circumstances[0]
    shutil.rmtree(str(kept))
    with pytest.raises(NotReproduced, match="no copy of the training set was kept"):
        reproduce_rows(open_store(folder), contract, config, Rebuilt())


def forecast_of(rows: LabelledRows, lines: list[int], said: np.ndarray) -> Forecast:
    frame = rows.frame.iloc[lines].reset_index(drop=True)
    return Forecast(LabelledRows(frame, rows.interface, rows.row_key), said[lines], 1.0)


def test_versions_that_reject_different_rows_meet_on_those_that_both_answer(store, interface):
    """What each says of a row stays with it, in whatever order the other has them; nothing in common is refused."""
    rows = labelled_rows(store, interface, START, AFTER)
    said = {name: np.random.default_rng(seed).random(len(rows)) for seed, name in enumerate(("own", "other"))}
    mine, theirs = [*range(20)], [*range(27, 5, -1)]
    own, other = on_common_rows(
        forecast_of(rows, mine, said["own"]), forecast_of(rows, theirs, said["other"]), "2 and 1"
    )
    both = [*range(6, 20)]
    pd.testing.assert_frame_equal(own.rows.frame, rows.frame.iloc[both].reset_index(drop=True))
    pd.testing.assert_frame_equal(other.rows.frame, own.rows.frame)
    assert (own.said.tolist(), other.said.tolist()) == (said["own"][both].tolist(), said["other"][both].tolist())
    with pytest.raises(NotComparable, match="no row in common"):
        on_common_rows(forecast_of(rows, [0, 1], said["own"]), forecast_of(rows, [2], said["other"]), "2 and 1")
    turned = LabelledRows(rows.frame.assign(is_late=1 - rows.frame.is_late), interface, rows.row_key)
    with pytest.raises(NotComparable, match="not the same outcomes"):
        on_common_rows(forecast_of(rows, mine, said["own"]), forecast_of(turned, mine, said["other"]), "2 and 1")


def test_tables_of_both_versions_are_pinned_at_once(restated, interface):
    """Those that one of them reads and the other does not, too, each at the version it has by then."""
    store = open_store(restated)
    both = [interface, read_interface(store, "arrival_delay_v2")]
    versions = pin_versions(store, *both)
    for one in both:
        for view in (*(view.name for view in one.stored_views), one.spine_view, one.label_view):
            source = store.get_feature_view(view).batch_source
            table = DeltaTable(str(restated / "data" / "features" / view))
            assert versions[source.name] == table.version()
    assert store.config.offline_store.delta_versions == versions


def test_a_training_set_has_its_own_version_also_when_another_training_is_faster(
    store, interface, tmp_path, monkeypatch
):
    """The newest version of the table may be of rows that another run has stored in between."""
    rows = labelled_rows(store, interface, START, AFTER)
    others = LabelledRows(rows.frame.iloc[:5], interface, rows.row_key)
    table = UPath(tmp_path / "sets")

    def write_and_be_overtaken(*given: Any, write: Any = dataset.write_deltalake, **options: Any) -> None:
        write(*given, **options)
        monkeypatch.setattr(dataset, "write_deltalake", write)
        store_rows(others, table)

    monkeypatch.setattr(dataset, "write_deltalake", write_and_be_overtaken)
    version = store_rows(rows, table)
    assert DeltaTable(str(table), version=version).to_pyarrow_table().num_rows == len(rows)
    assert DeltaTable(str(table)).to_pyarrow_table().num_rows == 5


def test_a_version_whose_rows_were_erased_says_so_in_a_line():
    """Before anything is fetched or fitted: nobody looks for a fault in the tables."""
    version: Any = SimpleNamespace(name="delay", version="3", tags={ERASED_TAG: "2026-01-02T03:04:05Z"})
    with pytest.raises(NotReproduced, match="was fitted to rows that were erased on 2026-01-02") as refusal:
        reproduce(Any, Any, version)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)
