"""A row that late events restate, once or again: what is online, and when the change counts as learnt."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from upath import UPath

from fti.features.pipeline import FeaturePipeline
from fti.features.publish import replace_interval
from fti.features.restatements import Restatements, restamped
from fti.stores.delta import connect
from tests.small_repo import JULY, assert_same, frames, read_raw, succeed, write_raw

FLIGHTS = "flights.csv.zip"
CORRECTED = 22  # left at 22:00 UTC
MIDNIGHT, ONCE, TWICE = "2013-07-02T00:00", "2013-07-02T00:05", "2013-07-02T00:10"
AS_OF = pd.Timestamp(TWICE, tz="UTC")
DEPARTURES = ["carrier_origin_congestion", "origin_congestion", "aircraft_departures"]


def correct(folder: Path, dep_delay: int, received: str) -> None:
    """Land and publish a delivery in which one flight left later, as it was learnt at `received`."""
    flights = read_raw(folder, FLIGHTS)
    flights.loc[CORRECTED, "dep_delay"] = dep_delay
    write_raw(folder, FLIGHTS, flights)
    succeed(folder, "ingest", *JULY, "--received-at", received)
    succeed(folder, "publish", *JULY)


def materialize(folder: Path, as_of: str) -> None:
    succeed(folder, "materialize", "--start", JULY[1], "--as-of", as_of)


@pytest.fixture(scope="module")
def twice(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The repository after two corrections; online is what each `materialize` wrote."""
    folder = Path(shutil.copytree(built, tmp_path_factory.mktemp("twice") / "copy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeaturePipeline, "write_docs", lambda pipeline: pipeline.data / "docs")
        succeed(folder, "apply")
        materialize(folder, MIDNIGHT)
        correct(folder, 25, ONCE)
        once = frames(folder)
        materialize(folder, ONCE)
        correct(folder, 300, TWICE)  # so late that it leaves the windows that end at midnight
        materialize(folder, TWICE)
        yield folder, once


def newest(folder: Path, view: Any, as_of: pd.Timestamp) -> dict[Any, dict[str, Any]]:
    """By key, the features of the newest row at `as_of`: the oracle, straight from the table."""
    keys = [column.name for column in view.entity_columns]
    rows = DeltaTable(str(folder / "data" / "features" / view.name)).to_pandas()
    rows = rows[rows.event_timestamp <= as_of].sort_values("event_timestamp").drop_duplicates(keys, keep="last")
    names = [feature.name for feature in view.features]
    return {tuple(row[key] for key in keys): {name: row[name] for name in names} for _, row in rows.iterrows()}


def online(store: Any, view: Any, keys: list[Any]) -> list[dict[str, Any]]:
    names = [feature.name for feature in view.features]
    rows = [dict(zip([c.name for c in view.entity_columns], key, strict=True)) for key in keys]
    found = store.get_online_features([f"{view.name}:{name}" for name in names], rows).to_dict()
    return [{name: found[name][number] for name in names} for number in range(len(rows))]


def test_a_flight_that_is_corrected_twice_is_online_as_it_was_corrected_last(twice):
    """The second correction takes the flight out of the windows of midnight: their rows are right at once."""
    from feast import FeatureStore

    folder, _ = twice
    store = FeatureStore(repo_path=str(folder / "feature_repo"))
    views = [view for view in store.list_feature_views() if view.online]
    assert {*DEPARTURES} <= {view.name for view in views}
    for view in views:
        wanted = newest(folder, view, AS_OF)
        found = online(store, view, list(wanted)) if wanted else []
        right = [{name: None if pd.isna(value) else value for name, value in row.items()} for row in wanted.values()]
        assert found == right, view.name
    # By hand: three flights were to leave from 21:00 on, the corrected one did not, and none was late.
    (row,) = newest(folder, store.get_feature_view("origin_congestion"), AS_OF).values()
    assert (row["origin_departures_3h"], row["origin_mean_dep_delay_3h"]) == (2, 0.0)


def test_a_restated_row_counts_from_the_moment_when_its_change_was_learnt(twice):
    """No stamp falls, rows that an event left say when that was learnt, and rows that say the same keep their stamp."""
    folder, once = twice
    now, moved = frames(folder), set()
    for table in (name for name in now if name.startswith("features/")):
        before, after = once[table], now[table]
        payload = [column for column in after if column != "created_timestamp"]
        same = after.merge(before, on=payload, suffixes=("", "_before"))
        assert (same.created_timestamp == same.created_timestamp_before).all(), table
        changed = after.merge(before[payload], on=payload, how="left", indicator=True).query("_merge == 'left_only'")
        assert (changed.created_timestamp >= AS_OF).all(), table
        moved |= {table.removeprefix("features/")} if len(changed) else set()
    assert {*DEPARTURES} <= moved


def test_publishing_again_keeps_the_stamps_and_the_versions(twice):
    """What was restated is restated once: a rerun of all or of a part writes nothing."""
    folder, _ = twice

    def versions() -> dict[str, int]:
        tables = (folder / "data" / "features").iterdir()
        return {path.name: DeltaTable(str(path)).version() for path in tables}

    rows, before = frames(folder), versions()
    for interval in (JULY, ("--start", "2013-07-01T12:00", "--end", "2013-07-02T06:00")):
        succeed(folder, "publish", *interval)
        assert versions() == before
    assert_same(frames(folder), rows)


# ---- the rule itself, beside one written row by row -----------------------------------------------------------------

US = pa.timestamp("us", tz="UTC")
Stamped = tuple[str, int, float | None, int]  # key, minute of the row, value, minute when it was created


def moment(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * 60, UTC)


def table(rows: list[Stamped]) -> pa.Table:
    key, at, value, created = zip(*rows, strict=True) if rows else ((),) * 4
    return pa.table(
        {
            "key": pa.array(key, pa.string()),
            "value": pa.array(value, pa.float64()),
            "event_timestamp": pa.array(map(moment, at), US),
            "created_timestamp": pa.array(map(moment, created), US),
        }
    )


def restatements(events: list[tuple[str, int, int]]) -> Restatements:
    """Changes of a key's event in a minute, learnt in another; rows up to minute 60 were published before."""
    columns = {
        "key": [key for key, _, _ in events],
        "since": [at * 60 * 10**6 for _, at, _ in events],
        "learnt": [learnt * 60 * 10**6 for _, _, learnt in events],
    }
    changes = pa.table(columns, schema=pa.schema({"key": pa.string(), "since": pa.int64(), "learnt": pa.int64()}))
    published = "event_timestamp <= TIMESTAMPTZ '1970-01-01 01:00:00+00'"
    return Restatements(("key",), ("key",), changes, 30 * 60 * 10**6, published)


def stamps(before: list[Stamped], after: list[Stamped], events: list[tuple[str, int, int]]) -> list[int]:
    """When each row of `after` was created, in minutes."""
    con: duckdb.DuckDBPyConnection = connect()
    con.register("before", table(before))
    found = restamped(con, table(after), "SELECT * FROM before", restatements(events))
    assert found.drop_columns("created_timestamp") == table(after).drop_columns("created_timestamp")
    return [int(value.timestamp() // 60) for value in found.column("created_timestamp").to_pylist()]


@pytest.mark.parametrize(
    ("before", "after", "events", "stamp"),
    [
        ([("a", 50, 1.0, 70)], ("a", 50, 1.0, 50), [("a", 40, 90)], 70),
        ([("a", 50, 1.0, 50)], ("a", 50, 1.0, 70), [("a", 40, 90)], 50),
        ([("a", 50, 1.0, 70)], ("a", 50, 2.0, 50), [], 70),
        ([("a", 50, 1.0, 70)], ("a", 50, 2.0, 80), [("a", 40, 75)], 80),
        ([("a", 50, 1.0, 70)], ("a", 50, None, 50), [("a", 40, 90), ("a", 20, 80)], 90),
        ([("a", 50, 1.0, 50)], ("a", 50, 2.0, 50), [("a", 20, 90)], 90),
        ([("a", 50, 1.0, 50)], ("a", 50, 2.0, 50), [("a", 19, 90), ("a", 51, 90), ("b", 40, 90)], 50),
        ([], ("a", 50, 1.0, 50), [("a", 40, 90)], 90),
        ([], ("a", 61, 1.0, 61), [("a", 40, 90)], 61),
        ([("a", 50, None, 70), ("a", 50, None, 60)], ("a", 50, None, 50), [("a", 40, 90)], 70),
    ],
    ids=[
        "the same", "the same, learnt anew", "changed by nobody knows what", "the row's own", "of several the newest",
        "as far as it reaches", "out of reach", "new, late", "published for the first time", "there twice",
    ],
)  # fmt: skip
def test_the_stamp_of_a_restated_row(before, after, events, stamp):
    """When it changed, the latest of its stamps and of the changes that touch it; else its stamp of before."""
    assert stamps(before, [after], events) == [stamp]


def test_a_table_keeps_the_stamps_of_its_restated_rows(tmp_path):
    """Published again, without the changes that stamped them, it is as it was: rows and version."""
    path = UPath(tmp_path / "t")
    replace_interval(connect(), path, table([("a", 50, 1.0, 70), ("b", 50, 1.0, 50)]), "true", None, restatements([]))
    after = table([("a", 50, 2.0, 50), ("b", 50, 1.0, 60), ("c", 50, 1.0, 50)])
    written = replace_interval(connect(), path, after, "true", None, restatements([("a", 40, 90), ("c", 45, 80)]))
    assert (written.changed, written.version) == (3, 1)  # one gone, two come
    for _ in range(2):
        rows = DeltaTable(str(path)).to_pandas().sort_values("key")
        assert rows.created_timestamp.tolist() == [moment(90), moment(50), moment(80)]
        assert replace_interval(connect(), path, after, "true", None, restatements([])).version == 1
