"""Writes to Delta tables: what a rerun, a restatement, a kill or a refusal leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from feature_repo import transforms
from feature_repo.source import RawEvents
from feature_repo.transforms import FEATURE_TABLES, Interval
from fti.features import pipeline as pipeline_steps
from fti.features import printed, publish
from fti.features.columns import ColumnsChanged
from fti.features.pipeline import FeaturePipeline
from fti.features.publish import (
    OtherWriter,
    RowsOutside,
    changed_since,
    merge_events,
    replace_interval,
    with_month,
)
from fti.features.quarantine import held_rows
from fti.monitoring.freshness import quarantine
from fti.stores.delta import connect
from fti.validation.gate import BatchRefused, Outcome
from tests.open_gate import OpenGate

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema([
    ("id", pa.string()), ("value", pa.float64()),
    ("event_timestamp", UTC_MICROSECONDS), ("created_timestamp", UTC_MICROSECONDS),
])  # fmt: skip
Row = tuple[str, float | None, str]


def utc(text: str) -> datetime:
    return pd.Timestamp(text, tz="UTC").to_pydatetime()


def events(*rows: Row, created: str = "2013-01-01") -> pa.Table:
    """Rows of id, value and event timestamp."""
    columns = {"id": [r[0] for r in rows], "value": [r[1] for r in rows], "event_timestamp": [utc(r[2]) for r in rows]}
    return pa.table(columns | {"created_timestamp": [utc(created)] * len(rows)}, schema=SCHEMA)


def content(path: Path) -> list[tuple[str, Any, str]]:
    """The table's rows, sorted, with event timestamps to the minute."""
    frame = DeltaTable(str(path)).to_pandas().sort_values(["id", "event_timestamp"])
    values = frame.value.astype(object).where(frame.value.notna(), None)
    return list(zip(frame.id, values, frame.event_timestamp.dt.strftime("%Y-%m-%dT%H:%M"), strict=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw" / "table"


# ---- raw events: MERGE by natural key -------------------------------------------------------------------------------


def test_the_first_merge_makes_the_table_and_its_folders(path):
    """Version 0 holds what was handed in, in partitions of a month."""
    written = merge_events(path, events(("a", 1.0, "2013-01-31"), ("b", 2.0, "2013-02-01")), ["id"])
    assert (written.rows, written.changed, written.version) == (2, 2, 0)
    assert content(path) == [("a", 1.0, "2013-01-31T00:00"), ("b", 2.0, "2013-02-01T00:00")]
    assert sorted(folder.name for folder in path.glob("event_month=*")) == [
        "event_month=2013-01",
        "event_month=2013-02",
    ]


def test_merging_again_writes_nothing(path):
    """The same events, all or some of them, leave rows and version alone; so does an empty batch."""
    batch = events(("a", 1.0, "2013-01-31"), ("b", None, "2013-02-01"))
    merge_events(path, batch, ["id"])
    for again in (batch, batch.slice(1), batch.slice(0, 0)):
        written = merge_events(path, again, ["id"])
        assert (written.changed, written.version) == (0, 0)


def test_a_newer_created_timestamp_alone_is_no_change(path):
    """The same fact delivered twice was learnt the first time."""
    merge_events(path, events(("a", 1.0, "2013-01-31")), ["id"])
    assert merge_events(path, events(("a", 1.0, "2013-01-31"), created="2013-05-05"), ["id"]).changed == 0
    assert DeltaTable(str(path)).to_pandas().created_timestamp.tolist() == [pd.Timestamp("2013-01-01", tz="UTC")]


@pytest.mark.parametrize(("before", "after"), [(1.0, 2.0), (None, 2.0), (1.0, None)])
def test_a_restated_event_replaces_the_old_one(path, before, after):
    """Value for value, null for value and value for null; the event is as new as its restatement."""
    merge_events(path, events(("a", before, "2013-01-31"), ("b", 9.0, "2013-01-31")), ["id"])
    written = merge_events(path, events(("a", after, "2013-01-31"), created="2013-05-05"), ["id"])
    assert (written.changed, written.version) == (1, 1)
    assert content(path) == [("a", after, "2013-01-31T00:00"), ("b", 9.0, "2013-01-31T00:00")]
    created = DeltaTable(str(path)).to_pandas().set_index("id").created_timestamp
    assert created["a"] == pd.Timestamp("2013-05-05", tz="UTC")


def test_an_event_that_moves_to_another_month_moves_and_does_not_double(path):
    """The key is the event's, not the partition's."""
    merge_events(path, events(("a", 1.0, "2013-01-31")), ["id"])
    merge_events(path, events(("a", 1.0, "2013-02-01")), ["id"])
    assert content(path) == [("a", 1.0, "2013-02-01T00:00")]
    assert DeltaTable(str(path)).to_pandas().event_month.tolist() == ["2013-02"]


def test_new_and_known_events_may_come_together(path):
    """Overlapping batches end in the union of both."""
    merge_events(path, events(("a", 1.0, "2013-01-01"), ("b", 2.0, "2013-01-02")), ["id"])
    written = merge_events(path, events(("b", 2.0, "2013-01-02"), ("c", 3.0, "2013-01-03")), ["id"])
    assert written.changed == 1
    assert [row[0] for row in content(path)] == ["a", "b", "c"]


def test_a_batch_that_restates_an_event_twice_is_an_error_and_writes_nothing(path):
    """Which of the two would count is not for a MERGE to guess."""
    merge_events(path, events(("a", 1.0, "2013-01-01")), ["id"])
    with pytest.raises(DeltaError):
        merge_events(path, events(("a", 2.0, "2013-01-01"), ("a", 3.0, "2013-01-01")), ["id"])
    assert content(path) == [("a", 1.0, "2013-01-01T00:00")]


def test_the_partition_column_is_the_month_in_utc():
    """A moment that is in January in New York and in February in UTC is in February."""
    assert with_month(events(("a", 1.0, "2013-02-01T00:00"))).column("event_month").to_pylist() == ["2013-02"]


# ---- feature rows: an interval replaced -----------------------------------------------------------------------------

RIGHT = "event_timestamp > '2013-01-02T00:00:00+00:00' AND event_timestamp <= '2013-01-03T00:00:00+00:00'"


@pytest.fixture
def published(path: Path) -> Path:
    rows = events(
        ("a", 1.0, "2013-01-02"),
        ("b", 2.0, "2013-01-02T12:00"),
        ("c", 3.0, "2013-01-03"),
        ("d", 4.0, "2013-01-03T00:01"),
    )
    replace_interval(connect(), path, rows, "true")
    return path


def test_replacing_an_interval_changes_its_rows_and_no_others(published):
    """Rows go, come and change inside; the start belongs to the row before, the end to the interval."""
    written = replace_interval(
        connect(), published, events(("c", 30.0, "2013-01-03"), ("e", 5.0, "2013-01-02T01:00")), RIGHT
    )
    assert (written.rows, written.version) == (2, 1)
    assert content(published) == [
        ("a", 1.0, "2013-01-02T00:00"),
        ("c", 30.0, "2013-01-03T00:00"),
        ("d", 4.0, "2013-01-03T00:01"),
        ("e", 5.0, "2013-01-02T01:00"),
    ]


def test_publishing_the_same_rows_again_leaves_the_version_alone(published):
    """In any order: the version number means a change of data."""
    same = events(("c", 3.0, "2013-01-03"), ("b", 2.0, "2013-01-02T12:00"))
    written = replace_interval(connect(), published, same, RIGHT)
    assert (written.changed, written.version) == (0, 0)


@pytest.mark.parametrize("day", ["2013-01-02", "2013-01-30"], ids=["restated", "new"])
def test_of_two_machines_that_write_at_once_one_is_refused(published, monkeypatch, day):
    """Each has compared its rows with the version before the other's: appended to that, they would be there twice."""
    holds = f"event_timestamp >= '{day}' AND event_timestamp < '{day} 12:00:00'"
    rows = events(("x", 9.0, day))

    def after_another(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        replace_interval(connect(), published, rows, holds)
        return publish.write_deltalake(*arguments, **options)

    monkeypatch.setattr(publish, "write_deltalake", after_another)
    with pytest.raises(OtherWriter, match="same time"):
        replace_interval(connect(), published, rows, holds)
    once = content(published)
    assert once.count(("x", 9.0, f"{day}T00:00")) == 1
    replace_interval(connect(), published, rows, holds)
    assert content(published) == once


def test_of_two_machines_that_ingest_at_once_one_is_refused(path, monkeypatch):
    """Both found an event missing: merged into the same version by each, it would be there twice."""
    merge_events(path, events(("a", 1.0, "2013-01-02")), ["id"])
    rows = events(("b", 2.0, "2013-01-03"))

    def before_another(*arguments: Any) -> DeltaTable:
        monkeypatch.undo()
        table = publish.open_table(*arguments)
        merge_events(path, rows, ["id"])
        return table

    monkeypatch.setattr(publish, "open_table", before_another)
    with pytest.raises(OtherWriter, match="same time"):
        merge_events(path, rows, ["id"])
    assert [row[0] for row in content(path)] == ["a", "b"]


def test_an_interval_may_become_empty(published):
    """No rows now means that there were none: the old ones go."""
    assert replace_interval(connect(), published, events(), RIGHT).version == 1
    assert [row[0] for row in content(published)] == ["a", "d"]


def test_nulls_and_doubles_are_compared_as_such(published):
    """A null that becomes a value is a change, and so is a row that is there twice."""
    for rows in (
        events(("b", None, "2013-01-02T12:00"), ("c", 3.0, "2013-01-03")),
        events(*[("c", 3.0, "2013-01-03")] * 2),
    ):
        assert replace_interval(connect(), published, rows, RIGHT).changed > 0
        assert replace_interval(connect(), published, rows, RIGHT).changed == 0


def test_a_row_outside_the_interval_is_refused_and_nothing_is_written(published):
    """A transform that makes rows beyond its interval must not touch what another run published."""
    before = content(published)
    with pytest.raises(RowsOutside, match=r"1 of 1 row\(s\)"):
        replace_interval(connect(), published, events(("z", 1.0, "2013-01-05")), RIGHT)
    assert content(published) == before


@pytest.mark.parametrize("moment", ["2013-01-02", "2013-01-05", None])
def test_the_first_write_refuses_rows_outside_its_interval_too(path, moment):
    """There is no table yet that could object; a row without a moment is in no interval."""
    stamps = pa.array([utc("2013-01-03"), moment and utc(moment)], UTC_MICROSECONDS)
    rows = events(("a", 1.0, "2013-01-03"), ("z", 1.0, "2013-01-03")).set_column(2, "event_timestamp", stamps)
    with pytest.raises(RowsOutside, match=r"1 of 2 row\(s\)"):
        replace_interval(connect(), path, rows, RIGHT)
    assert not path.exists()


@pytest.mark.parametrize("given", [SCHEMA.remove(1), SCHEMA.append(pa.field("more", pa.int64()))])
def test_rows_with_other_columns_than_the_table_are_refused(published, given):
    """A feature that came or went needs a new table: neither is dropped in silence."""
    before = content(published)
    with pytest.raises(ColumnsChanged, match="Delete the table's folder"):
        replace_interval(connect(), published, given.empty_table(), RIGHT)
    assert content(published) == before


def test_files_of_a_write_that_was_killed_are_never_read(path):
    """What is not in the log does not exist: a Parquet file without a commit changes no answer."""
    import pyarrow.parquet as pq

    merge_events(path, events(("a", 1.0, "2013-01-01")), ["id"])
    pq.write_table(events(("ghost", 1.0, "2013-01-01")), path / "event_month=2013-01" / "part-killed.parquet")
    assert [row[0] for row in content(path)] == ["a"]
    assert merge_events(path, events(("a", 1.0, "2013-01-01")), ["id"]).version == 0


def test_half_a_first_write_is_no_table(path):
    """Killed before the first commit, there is nothing: the next run starts over and ends as if it were the first."""
    import pyarrow.parquet as pq

    (path / "event_month=2013-01").mkdir(parents=True)
    pq.write_table(events(("ghost", 1.0, "2013-01-01")), path / "event_month=2013-01" / "part-killed.parquet")
    (path / "_delta_log").mkdir()
    assert merge_events(path, events(("a", 1.0, "2013-01-01")), ["id"]).version == 0
    assert [row[0] for row in content(path)] == ["a"]


@pytest.mark.parametrize("closed", ["left", "right"])
def test_two_intervals_that_meet_share_no_row(closed):
    """Whichever side is closed: each moment is in exactly one of them."""
    table = next(table for table in FEATURE_TABLES.values() if table.closed == closed)
    con = connect()
    con.register("rows", pa.table({"t": pa.array([utc(f"2013-01-0{day}") for day in range(1, 6)], UTC_MICROSECONDS)}))
    halves = [
        table.holds("t", f"'{start}'", f"'{end}'")
        for start, end in (("2013-01-02", "2013-01-03"), ("2013-01-03", "2013-01-04"))
    ]
    days = [
        [row[0].day for row in con.sql(f"SELECT t FROM rows WHERE {half} ORDER BY t").fetchall()] for half in halves
    ]
    assert days == ([[2], [3]] if closed == "left" else [[3], [4]])


# ---- the pipeline: all tables or none -------------------------------------------------------------------------------

DAY_ONE, DAY_TWO = ("2013-01-01", "2013-01-02"), ("2013-01-02", "2013-01-03")
FACTS = {"origin": "JFK", "dest": "BOS", "carrier": "B6", "flight_number": 7, "tailnum": "N1AB"}
WEATHER = (
    "temperature_f",
    "dew_point_f",
    "humidity_pct",
    "wind_dir_deg",
    "wind_speed_mph",
    "precip_in",
    "pressure_mb",
    "visibility_mi",
)


class Source(RawEvents):
    """Events as given, a row a table, handed out by interval."""

    def __init__(self, *rows: tuple[str, str, dict[str, Any]]) -> None:
        super().__init__()
        self._rows = rows

    @property
    def _all(self) -> dict[str, pd.DataFrame]:  # type: ignore[override]
        weather = {"origin": "JFK", **dict.fromkeys(WEATHER, 5.0), "pressure_mb": 1000.0}
        shapes: dict[str, dict[str, Any]] = {
            "schedule": FACTS | {"distance_miles": 187.0}, "departures": FACTS | {"dep_delay_minutes": 1.0},
            "arrivals": FACTS | {"arr_delay_minutes": 20.0}, "cancellations": FACTS, "weather": weather,
            "aircraft": {"tailnum": "N1AB", "year_built": 1999.0, "seats": 100},
        }  # fmt: skip
        return {name: self._frame(name, shape) for name, shape in shapes.items()}

    def _frame(self, name: str, shape: dict[str, Any]) -> pd.DataFrame:
        times = ["event_timestamp", "created_timestamp"]
        times += ["observed_at"] if name == "weather" else ["scheduled_departure"] if "origin" in shape else []
        times += ["scheduled_arrival"] if name == "schedule" else []
        rows = []
        for number, (table, at, facts) in enumerate(self._rows):
            moment = pd.Timestamp(at, tz="UTC")
            hour = pd.Timedelta(hours=1)
            stamps = {"observed_at": moment - hour, "scheduled_departure": moment, "scheduled_arrival": moment + hour}
            if table == name:
                rows.append(
                    {"flight_id": f"f{number}"}
                    | shape
                    | dict.fromkeys(times, moment)
                    | {k: stamps[k] for k in times if k in stamps}
                    | facts
                )
        columns = [*(["flight_id"] if "carrier" in shape else []), *shape, *times]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype(dict.fromkeys(times, "datetime64[us, UTC]"))


def two_days(**facts: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """A row of every raw table on each of two days; `facts` change the first day's arrival."""
    rows: list[tuple[str, str, dict[str, Any]]] = []
    for day, tail in ((1, "N1AB"), (2, "N2AB")):
        for table in ("schedule", "departures", "arrivals", "cancellations", "weather", "aircraft"):
            change = facts if (table, day) == ("arrivals", 1) else {}
            rows.append((table, f"2013-01-0{day}T10:00", ({} if table == "weather" else {"tailnum": tail}) | change))
    return rows


def pipeline(folder: Path, *rows: tuple[str, str, dict[str, Any]], **options: Any) -> FeaturePipeline:
    return FeaturePipeline(folder / "feature_repo", Source(*rows), **{"gate": OpenGate()} | options)


def span(days: tuple[str, str]) -> Interval:
    return Interval(utc(days[0]), utc(days[1]))


def versions(folder: Path) -> dict[str, int]:
    tables = sorted((folder / "data").glob("*/*/_delta_log"))
    return {f"{log.parent.parent.name}/{log.parent.name}": DeltaTable(str(log.parent)).version() for log in tables}


def everything(folder: Path) -> dict[str, pd.DataFrame]:
    found = {}
    for name in versions(folder):
        frame = DeltaTable(str(folder / "data" / name)).to_pandas()
        found[name] = frame.sort_values(list(frame.columns)).reset_index(drop=True)
    return found


def assert_same(found: dict[str, pd.DataFrame], wanted: dict[str, pd.DataFrame]) -> None:
    assert set(found) == set(wanted)
    for name, frame in wanted.items():
        pd.testing.assert_frame_equal(found[name], frame, obj=name)


def test_a_refused_batch_of_one_table_lands_none_of_them(tmp_path):
    """The gate judges every table before the first is written: no schedule without its arrivals."""
    from fti.validation.gate import Gate

    doubled = [*two_days(), ("arrivals", "2013-01-01T11:00", {"flight_id": "f2"})]
    refused = pipeline(tmp_path, *doubled, gate=Gate())
    with pytest.raises(
        BatchRefused, match="raw_arrivals, batch 2013-01-01T00:00Z/2013-01-02T00:00Z: refused by flights_are_unique"
    ):
        refused.ingest(span(DAY_ONE))
    assert versions(tmp_path) == {}


def test_refused_feature_rows_leave_every_table_as_it_was(tmp_path):
    """Stale beats wrong: when one table's rows are refused, none is published."""

    class Refusing(OpenGate):
        def check(self, frame: pd.DataFrame, suite: Any, known: Any = None) -> Outcome:
            outcome = super().check(frame, suite, known)
            if suite.name != "features_flight_outcome":
                return outcome
            from fti.validation.gate import Finding

            return Outcome(
                suite.name,
                len(frame),
                frame,
                frame,
                [Finding(suite.name, "no", "batch", "critical", False, 0, "made up")],
            )

    refused = pipeline(tmp_path, *two_days(), gate=Refusing())
    refused.ingest(span(DAY_ONE))
    with pytest.raises(BatchRefused, match="features_flight_outcome"):
        refused.publish(span(DAY_ONE))
    assert not any(name.startswith("features/") for name in versions(tmp_path))


@pytest.mark.parametrize("killed_at", [0, 3, 11])
def test_a_run_killed_between_two_tables_ends_right_when_run_again(tmp_path, monkeypatch, killed_at):
    """Wherever publishing stopped, running it once more gives the tables of a run that was never killed."""
    whole = pipeline(tmp_path / "whole", *two_days())
    whole.ingest(span(DAY_ONE))
    whole.publish(span(DAY_ONE))

    class Killed(BaseException):
        pass

    count = iter(range(100))

    def replace_or_die(*arguments: Any) -> Any:
        if next(count) == killed_at:
            raise Killed
        return replace_interval(*arguments)

    mended = pipeline(tmp_path / "mended", *two_days())
    mended.ingest(span(DAY_ONE))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline_steps, "replace_interval", replace_or_die)
        with pytest.raises(Killed):
            mended.publish(span(DAY_ONE))
    mended.ingest(span(DAY_ONE))
    mended.publish(span(DAY_ONE))
    assert_same(everything(tmp_path / "mended"), everything(tmp_path / "whole"))
    assert versions(tmp_path / "mended") == versions(tmp_path / "whole")


def test_a_view_and_a_raw_table_of_one_name_hold_rows_apart(tmp_path, monkeypatch, capsys):
    """Their rows have other columns; each is listed, and counted beside the table that it was held from."""
    monkeypatch.setattr(transforms, "FEATURE_TABLES", {"arrivals": FEATURE_TABLES["flight_outcome"]})

    class HoldingBoth(OpenGate):
        def check(self, frame: pd.DataFrame, suite: Any, known: Any = None) -> Outcome:
            limit = {"raw_arrivals": 300, "features_arrivals": 100}.get(suite.name)
            held = frame.arr_delay_minutes > limit if limit else pd.Series(False, index=frame.index)
            return Outcome(suite.name, len(frame), frame[~held], frame[held].assign(rules="made_up"), [])

    late = [("arrivals", f"2013-01-01T1{n}:00", {"arr_delay_minutes": n * 200.0}) for n in (1, 2)]
    both = pipeline(tmp_path, *two_days(), *late, gate=HoldingBoth())
    for _ in range(2):
        both.ingest(span(DAY_ONE))
        both.publish(span(DAY_ONE))
    found = held_rows(both.con, both.tables)
    delays = {name: frame.arr_delay_minutes.tolist() for name, frame in found.items()}
    assert delays == {"arrivals": [400.0], "features_arrivals": [200.0]}
    assert "features_arrivals: 1 row(s) held" in printed.held_table(found, None)
    shares = quarantine(cast(Any, SimpleNamespace(repo_path=both.repo)), *map(utc, DAY_ONE))
    assert {one.subject: (one.value, one.rows) for one in shares} == {
        "arrivals": (1 / 3, 3),
        "features_arrivals": (1 / 2, 2),
    }


class HoldingLabels(OpenGate):
    """Holds the labels of arrivals that are more than 100 minutes late."""

    def check(self, frame: pd.DataFrame, suite: Any, known: Any = None) -> Outcome:
        if suite.name != "features_flight_outcome":
            return super().check(frame, suite, known)
        held = frame.arr_delay_minutes > 100
        return Outcome(suite.name, len(frame), frame[~held], frame[held].assign(rules="made_up"), [])


@pytest.mark.parametrize("killed_before", ["hold", "replace_interval"])
def test_a_run_killed_between_a_table_and_its_quarantine_loses_no_row(tmp_path, monkeypatch, killed_before):
    """A late event makes a published row one that is held: wherever the publishing stopped, a rerun holds it, once."""

    class Killed(BaseException):
        pass

    def dies_at_labels(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(con: Any, path: Any, *more: Any) -> Any:
            if path.name == "flight_outcome":
                raise Killed
            return step(con, path, *more)

        return run

    late = two_days(arr_delay_minutes=500.0)
    for name in ("whole", "killed"):
        for day in (DAY_ONE, DAY_TWO):
            first = pipeline(tmp_path / name, *two_days(), gate=HoldingLabels())
            first.ingest(span(day))
            first.publish(span(day))
        restated = pipeline(tmp_path / name, *late, gate=HoldingLabels())
        restated.ingest(span(DAY_ONE))
        if name == "killed":
            with monkeypatch.context() as patch:
                patch.setattr(pipeline_steps, killed_before, dies_at_labels(getattr(pipeline_steps, killed_before)))
                with pytest.raises(Killed):
                    restated.publish(span(DAY_TWO))
        pipeline(tmp_path / name, *late, gate=HoldingLabels()).publish(span(DAY_TWO))
    found = everything(tmp_path / "killed")
    assert found["quarantine/flight_outcome"].arr_delay_minutes.tolist() == [500.0]
    assert found["features/flight_outcome"].event_timestamp.dt.day.tolist() == [2]
    assert_same(found, everything(tmp_path / "whole"))


def test_a_restated_arrival_reaches_the_label_and_moves_its_version(tmp_path):
    """Published again after a correction, the tables say what they would have said from the start; others stay put."""
    first = pipeline(tmp_path / "a", *two_days())
    first.ingest(span(DAY_ONE))
    first.publish(span(DAY_ONE))
    before = versions(tmp_path / "a")
    for folder in ("a", "b"):
        restated = pipeline(tmp_path / folder, *two_days(arr_delay_minutes=3.0))
        restated.ingest(span(DAY_ONE))
        restated.publish(span(DAY_ONE))
    assert_same(everything(tmp_path / "a"), everything(tmp_path / "b"))
    moved = {name for name, version in versions(tmp_path / "a").items() if version != before[name]}
    assert {"raw/arrivals", "features/flight_outcome"} <= moved
    assert not moved & {"raw/schedule", "features/origin_weather", "features/origin_congestion"}


def test_tables_tell_from_where_on_they_changed_whatever_publish_did_it(tmp_path):
    """So the online store can be filled from there: a restated event, published with a later day, changes old rows."""
    for day in (DAY_ONE, DAY_TWO):
        first = pipeline(tmp_path, *two_days())
        first.ingest(span(day))
        first.publish(span(day))
    labels, weather = (first.tables / "features" / name for name in ("flight_outcome", "origin_weather"))
    assert changed_since(labels, utc("2013-01-01")) == utc("2013-01-01T10:00")
    filled = datetime.now(UTC)
    restated = pipeline(tmp_path, *two_days(arr_delay_minutes=3.0))
    restated.ingest(span(DAY_ONE))
    for _ in range(2):  # the second time there is nothing to do, as when the first was killed later on
        restated.publish(span(DAY_TWO))
    assert changed_since(labels, filled) == utc("2013-01-01T10:00")
    assert changed_since(weather, filled) is None
    assert changed_since(labels, datetime.now(UTC)) is None


@pytest.mark.parametrize("first", ["empty", "null"])
def test_a_first_batch_without_values_does_not_spoil_the_table(tmp_path, first):
    """A first day without cancellations, or without registrations, is a day like any other to the days after it."""
    rows = [row for row in two_days() if row[:2] != ("cancellations", "2013-01-01T10:00")]
    if first == "null":
        rows.append(("cancellations", "2013-01-01T10:00", {"tailnum": None}))
    two = pipeline(tmp_path, *rows)
    two.ingest(span(DAY_ONE))
    two.ingest(span(DAY_TWO))
    landed = DeltaTable(str(tmp_path / "data" / "raw" / "cancellations")).to_pandas().sort_values("event_timestamp")
    assert landed.tailnum.tolist() == {"empty": ["N2AB"], "null": [None, "N2AB"]}[first]


def test_a_later_batch_without_values_lands_like_any_other(tmp_path):
    """All-null and empty columns fit the table that is there."""
    rows = [row for row in two_days() if row[:2] != ("aircraft", "2013-01-02T10:00")]
    rows = [
        (table, at, facts | ({"tailnum": None} if (table, at[:10]) == ("cancellations", "2013-01-02") else {}))
        for table, at, facts in rows
    ]
    two = pipeline(tmp_path, *rows)
    two.ingest(span(DAY_ONE))
    two.ingest(span(DAY_TWO))
    landed = DeltaTable(str(tmp_path / "data" / "raw" / "cancellations")).to_pandas().sort_values("event_timestamp")
    assert landed.tailnum.tolist() == ["N1AB", None]


def test_held_rows_are_kept_with_their_reasons_and_batch_and_not_twice(tmp_path):
    """Quarantine is idempotent too: a rerun of the batch adds nothing."""

    holding = pipeline(tmp_path, *two_days(), gate=Holding(lambda frame: frame.flight_id.notna()))
    for _ in range(2):
        holding.ingest(span(DAY_ONE))
    held = DeltaTable(str(tmp_path / "data" / "quarantine" / "arrivals")).to_pandas()
    assert held[["rules", "batch"]].values.tolist() == [["made_up", "2013-01-01T00:00Z/2013-01-02T00:00Z"]]
    assert versions(tmp_path)["quarantine/arrivals"] == 0


class Holding(OpenGate):
    """Holds the arrivals that `broken` says are."""

    def __init__(self, broken: Callable[[pd.DataFrame], pd.Series]) -> None:
        self._broken = broken

    def check(self, frame: pd.DataFrame, suite: Any, known: Any = None) -> Outcome:
        held = self._broken(frame) if suite.name == "raw_arrivals" else pd.Series(False, index=frame.index)
        return Outcome(suite.name, len(frame), frame[~held], frame[held].assign(rules="made_up"), [])


def test_quarantine_holds_rows_without_key_moment_or_value_once(tmp_path):
    """What a row lacks may be its key or its timestamp: a rerun still adds nothing, and later rows still fit."""
    nothing = dict.fromkeys(("flight_id", "tailnum", "arr_delay_minutes"))
    rows = [
        ("arrivals", "2013-01-01T10:00", nothing),
        ("arrivals", "2013-01-01T10:00", nothing),
        ("arrivals", "2013-01-01T11:00", nothing | {"event_timestamp": pd.NaT}),
        *two_days(),
    ]
    holding = pipeline(tmp_path, *rows, gate=Holding(lambda frame: frame.flight_id.isna()))
    for _ in range(2):
        holding.ingest(span(DAY_ONE))
    table = tmp_path / "data" / "quarantine" / "arrivals"
    assert DeltaTable(str(table)).version() == 0
    assert DeltaTable(str(table)).to_pandas().event_timestamp.isna().tolist().count(True) == 1
    later = pipeline(tmp_path, *rows, gate=Holding(lambda frame: frame.tailnum == "N2AB"))
    later.ingest(span(DAY_TWO))
    held = DeltaTable(str(table)).to_pandas()
    assert held.tailnum.dropna().tolist() == ["N2AB"]
    assert held.arr_delay_minutes.dropna().tolist() == [20.0]


def test_rows_that_are_no_longer_held_leave_quarantine(tmp_path):
    """Mended at the source and run again, they are events like others; those of another interval stay."""
    for broken, day in ((True, DAY_ONE), (True, DAY_TWO), (False, DAY_ONE)):
        gate = Holding(lambda frame, broken=broken: frame.flight_id.notna() == broken)
        pipeline(tmp_path, *two_days(), gate=gate).ingest(span(day))
    held = DeltaTable(str(tmp_path / "data" / "quarantine" / "arrivals")).to_pandas()
    assert held.event_timestamp.dt.day.tolist() == [2]


def test_an_interval_without_any_event_is_refused(tmp_path):
    """Nothing before it and nothing in it: publishing that would only make empty tables."""
    empty = pipeline(tmp_path, *two_days())
    empty.ingest(span(DAY_ONE))
    with pytest.raises(BatchRefused, match="no raw events in it"):
        empty.publish(span(("2020-01-01", "2020-01-02")))
    assert not (tmp_path / "data" / "features").exists()
