"""What quarantine holds, and how a corrected row comes in: by the command line, as its users do it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_repo import source as ingest
from fti.features import quarantine, run
from fti.stores.frames import as_frame
from tests.small_repo import JULY, arguments, complaint, read_raw, succeed, write_raw
from validation import raw

FLIGHT = "B67_JFK_20130701T0300Z"
RECEIVED = "2013-07-05T00:00:00Z"


@pytest.fixture
def held(folder: Path) -> Path:
    """One flight of 48 is said to be of 17 miles; landed and published."""
    archive = folder / "raw" / "flights.csv.zip"
    flights = pd.read_csv(archive)
    flights.loc[3, "distance"] = 17
    flights.to_csv(archive, index=False, compression={"method": "zip", "archive_name": "f"})
    shutil.rmtree(folder / "data")
    for command in ("ingest", "publish"):
        assert run.main(arguments(folder, command, *JULY)) == 0
    return folder


def table(folder: Path, name: str) -> pd.DataFrame:
    return DeltaTable(str(folder / "data" / name)).to_pandas()


def exported(folder: Path, distance: float) -> Path:
    """The held row as `quarantine --export` writes it, with another distance."""
    return corrected_by_hand(folder, "schedule", distance_miles=str(distance))


def corrected_by_hand(folder: Path, name: str, **cells: Any) -> Path:
    """The held rows of a table as `quarantine --export` writes them, with other cells."""
    file = folder / "held.csv"
    succeed(folder, "quarantine", "--table", name, "--export", str(file))
    pd.read_csv(file, dtype=str).assign(**cells).to_csv(file, index=False)
    return file


def corrected(file: Path, name: str = "schedule") -> list[str]:
    """The options of `release`."""
    return ["--table", name, "--rows", str(file), "--received-at", RECEIVED]


def release(folder: Path, file: Path, name: str = "schedule") -> int:
    return run.main(arguments(folder, "release", *corrected(file, name)))


def test_what_is_held_is_listed_with_its_rules_and_batch(held, capsys):
    """One line a row: its name, the rules it broke, its key, its time and the batch it came in."""
    capsys.readouterr()
    assert run.main(arguments(held, "quarantine")) == 0
    printed = capsys.readouterr().out
    assert "schedule: 1 row(s) held" in printed
    for word in ("distance_in_range", FLIGHT, "2013-06-03 03:00", "2013-06-01T00:00Z/2013-07-03T00:00Z"):
        assert word in printed


def test_nothing_held_is_said_to_be_nothing(folder, capsys):
    """No table, no row, no error."""
    assert run.main(arguments(folder, "quarantine")) == 0
    assert "Nothing is in quarantine." in capsys.readouterr().out


def test_a_corrected_row_enters_and_reaches_the_features_it_touches(held):
    """It is learnt when it was received, its flight's rows appear with any later publish, and quarantine is empty."""
    before = {name: table(held, f"features/{name}") for name in ("flight_schedule", "origin_schedule_load")}
    assert FLIGHT not in set(table(held, "raw/schedule").flight_id)
    assert release(held, exported(held, 187.0)) == 0
    landed = table(held, "raw/schedule").set_index("flight_id").loc[FLIGHT]
    assert (landed.distance_miles, landed.created_timestamp) == (187.0, pd.Timestamp(RECEIVED))
    assert landed.event_timestamp == pd.Timestamp("2013-06-03T03:00Z")
    assert table(held, "quarantine/schedule").released_at.tolist() == [pd.Timestamp(RECEIVED)]
    assert run.main(arguments(held, "publish", "--start", "2013-07-02", "--end", "2013-07-03")) == 0
    for name, frame in before.items():
        assert len(table(held, f"features/{name}")) == len(frame) + 1, name
    assert FLIGHT in set(table(held, "features/flight_schedule").flight_id)


def test_a_source_that_repeats_the_broken_row_does_not_undo_its_release(held, capsys):
    """The row stays released and the correction stays landed, however often the interval is landed again."""
    assert release(held, exported(held, 187.0)) == 0
    version = DeltaTable(str(held / "data" / "raw" / "schedule")).version()
    assert run.main(arguments(held, "ingest", *JULY)) == 0
    assert DeltaTable(str(held / "data" / "raw" / "schedule")).version() == version
    capsys.readouterr()
    assert run.main(arguments(held, "quarantine")) == 0
    assert "Nothing is in quarantine." in capsys.readouterr().out


def test_a_row_that_still_breaks_a_rule_stays_held(held, capsys):
    """The same gate: 20 miles are too few as well."""
    line = complaint(held, capsys, "release", *corrected(exported(held, 20.0)))
    assert "0 row(s)" in line
    assert "distance_in_range" in line
    assert table(held, "quarantine/schedule").released_at.isna().all()


def test_releasing_twice_is_refused_and_changes_nothing(held, capsys):
    """The second time the row is not held any more."""
    file = exported(held, 187.0)
    assert release(held, file) == 0
    assert "that are not held" in complaint(held, capsys, "release", *corrected(file))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"held_id": "made_up"}, "['made_up'] that are not held"),
        ({"distance_miles": "far"}, "column distance_miles"),
        ({"event_timestamp": "soon"}, "column event_timestamp"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(held, capsys, change, reason):
    """With the column or the row, and what was expected."""
    file = exported(held, 187.0)
    pd.read_csv(file, dtype=str).assign(**change).to_csv(file, index=False)
    assert reason in complaint(held, capsys, "release", *corrected(file))


def test_a_row_without_a_name_is_refused_and_an_empty_line_of_a_spreadsheet_is_none(held, capsys):
    """It is said which."""
    file = exported(held, 187.0)
    row = pd.read_csv(file, dtype=str)
    empty = row.reindex([0, 1])
    empty.to_csv(file, index=False)
    assert run.main(arguments(held, "quarantine")) == 0
    pd.concat([empty, row.assign(held_id=None)]).to_csv(file, index=False)
    assert "has no held_id in row(s) [3]" in complaint(held, capsys, "release", *corrected(file))
    empty.to_csv(file, index=False)
    assert release(held, file) == 0


def test_an_observation_of_one_number_less_can_be_released(folder):
    """Most of a year's temperatures are known; of one row by itself that says nothing."""
    file = folder / "raw" / "weather.csv"
    weather = pd.read_csv(file)
    weather = weather.astype({"wind_speed": "float64", "temp": "float64"})
    weather.loc[3, ["wind_speed", "temp"]] = [1048.4, None]
    weather.to_csv(file, index=False)
    shutil.rmtree(folder / "data")
    assert run.main(arguments(folder, "ingest", *JULY)) == 0
    rows = folder / "held.csv"
    assert run.main(arguments(folder, "quarantine", "--table", "weather", "--export", str(rows))) == 0
    corrections = pd.read_csv(rows, dtype=str).assign(wind_speed_mph="10.4")
    assert len(corrections) == 1
    corrections.to_csv(rows, index=False)
    command = ["--table", "weather", "--rows", str(rows), "--received-at", RECEIVED]
    assert run.main(arguments(folder, "release", *command)) == 0


def test_a_file_without_a_column_is_refused(held, capsys):
    """It is named."""
    file = exported(held, 187.0)
    pd.read_csv(file, dtype=str).drop(columns="origin").to_csv(file, index=False)
    assert "lacks the column(s) ['origin']" in complaint(held, capsys, "release", *corrected(file))


@pytest.mark.parametrize("name", ["flight_schedule", "nonsense"])
def test_only_rows_of_raw_tables_can_be_released(held, capsys, name):
    """Feature rows are computed: their events are what to correct."""
    line = complaint(held, capsys, "release", "--table", name, "--rows", str(exported(held, 187.0)))
    assert f"'{name}' is no raw table" in line


# ---- rows that say no moment, or a wrong one -----------------------------------------------------------------------

WEEKS = pd.date_range("2013-07-01", periods=24 * 60, freq="h", tz="UTC")


@pytest.fixture
def weeks(folder: Path) -> Path:
    """Sixty days of a flight and an observation an hour, of which five observations say no moment; nothing landed."""
    hours = WEEKS.strftime("%Y-%m-%dT%H:%M:%SZ").to_series(index=range(len(WEEKS)))
    for name in ("flights.csv.zip", "weather.csv"):
        row = read_raw(folder, name).iloc[[0] * len(hours)].reset_index(drop=True)
        moments = hours.mask(hours.index.isin(range(10, 15)), "soon") if name == "weather.csv" else hours
        write_raw(folder, name, row.assign(time_hour=moments))
    shutil.rmtree(folder / "data")
    return folder


def day(number: int) -> list[str]:
    return ["--start", f"2013-07-{number}", "--end", f"2013-07-{number + 1}"]


def test_undated_rows_stop_no_later_day_be_they_held_or_released(weeks):
    """Five of a day's 29 observations belong to every day: they are told of once, and are few beside those of weeks."""
    succeed(weeks, "ingest", "--start", "2013-06-01", "--end", "2013-07-25")
    for number in (25, 26):
        succeed(weeks, "ingest", *day(number))
        held = table(weeks, "quarantine/weather")
        assert held.released_at.isna().tolist() == [True] * 5
        assert len(table(weeks, "raw/weather")) == 24 * number - 1 - 5  # the last hour is known at midnight
    observed = WEEKS[10:15].to_series()
    moments = {"observed_at": observed.astype(str).to_list(), "event_timestamp": observed + pd.Timedelta(hours=1)}
    moments["event_timestamp"] = moments["event_timestamp"].astype(str).to_list()
    assert release(weeks, corrected_by_hand(weeks, "weather", **moments), "weather") == 0
    succeed(weeks, "ingest", *day(27))
    assert table(weeks, "quarantine/weather").released_at.notna().tolist() == [True] * 5
    assert sorted(table(weeks, "raw/weather").observed_at) == WEEKS[: 24 * 27 - 1].to_list()


@pytest.fixture
def impossible(folder: Path) -> Path:
    """A flight of the first day is said to have landed a day before it left; the second day is landed."""
    flights = read_raw(folder, "flights.csv.zip")
    flights["arr_delay"] = flights.arr_delay.where(flights.index != 3, -1500)
    write_raw(folder, "flights.csv.zip", flights)
    shutil.rmtree(folder / "data")
    succeed(folder, "ingest", "--start", "2013-06-01", "--end", "2013-07-02")
    return folder


def test_a_delay_that_cannot_be_tells_no_moment(impossible):
    """The row is held whichever interval is landed, also when the moment that it would say is of one long landed."""
    shutil.rmtree(impossible / "data" / "quarantine")
    quiet = ("--accept", "raw_schedule.enough_rows")  # no flight of four weeks later is in the files
    succeed(impossible, "ingest", "--start", "2013-07-02", "--end", "2013-07-03", *quiet)
    held = table(impossible, "quarantine/arrivals")
    assert held[["flight_id", "rules"]].values.tolist() == [[FLIGHT, "arr_delay_in_range,event_timestamp_present"]]


def test_a_corrected_delay_needs_its_moment_too(impossible, capsys):
    """Without it, or with one before the flight was to leave, it would be a label of the future."""
    file = corrected_by_hand(impossible, "arrivals", arr_delay_minutes="25")
    line = complaint(impossible, capsys, "release", *corrected(file, "arrivals"))
    assert "event_timestamp_present" in line
    file = corrected_by_hand(impossible, "arrivals", arr_delay_minutes="25", event_timestamp="2013-06-30T03:25Z")
    line = complaint(impossible, capsys, "release", *corrected(file, "arrivals"))
    assert "known_after_scheduled_departure" in line
    landing = pd.Timestamp("2013-07-02T04:24Z")  # 23:59 in Boston is 03:59 UTC, the next day
    file = corrected_by_hand(impossible, "arrivals", arr_delay_minutes="25", event_timestamp=landing.isoformat())
    assert release(impossible, file, "arrivals") == 0
    assert table(impossible, "raw/arrivals").set_index("flight_id").event_timestamp[FLIGHT] == landing


# ---- tables that are made anew --------------------------------------------------------------------------------------


def test_a_correction_that_was_lost_with_its_table_is_held_again(held):
    """It was in the raw table alone: rebuilt from the source, that lacks the row, so quarantine has it, to release."""
    assert release(held, exported(held, 187.0)) == 0
    shutil.rmtree(held / "data" / "raw" / "schedule")
    succeed(held, "ingest", *JULY)
    assert FLIGHT not in set(table(held, "raw/schedule").flight_id)
    assert table(held, "quarantine/schedule").released_at.isna().tolist() == [True]
    assert release(held, exported(held, 187.0)) == 0
    succeed(held, "ingest", *JULY)
    assert FLIGHT in set(table(held, "raw/schedule").flight_id)
    assert table(held, "quarantine/schedule").released_at.tolist() == [pd.Timestamp(RECEIVED)]


def test_a_raw_table_that_gains_a_column_loses_no_held_row(held, monkeypatch):
    """It is added where events land; what was held before says nothing of the new column, and can be released."""
    older = table(held, "quarantine/schedule").drop(columns="released_to")  # which that, too, once lacked
    written = {"mode": "overwrite", "schema_mode": "overwrite", "partition_by": ["event_month"]}
    write_deltalake(str(held / "data" / "quarantine" / "schedule"), older, **written)
    make, schema = ingest._schedule, ingest.RAW_SCHEMAS["schedule"]
    monkeypatch.setitem(ingest.RAW_SCHEMAS, "schedule", schema.append(pa.field("gate", pa.string())))
    monkeypatch.setattr(ingest, "_schedule", lambda flights: make(flights).assign(gate="A1"))
    succeed(held, "ingest", "--start", "2013-06-04", "--end", "2013-07-03")  # not the day of the held row
    assert set(table(held, "raw/schedule").gate.dropna()) == {"A1"}
    waiting = table(held, "quarantine/schedule")
    assert (waiting.flight_id.tolist(), waiting.gate.isna().tolist()) == ([FLIGHT], [True])
    assert release(held, exported(held, 187.0)) == 0
    assert FLIGHT in set(table(held, "raw/schedule").flight_id)


def test_cells_of_a_corrected_row_are_what_the_file_says(tmp_path):
    """Words that pandas takes for missing, whole numbers to the last digit, booleans, and nulls among all of them."""
    schema = pa.schema(
        {"word": pa.string(), "count": pa.int64(), "small": pa.int32(), "open": pa.bool_(), "level": pa.float64()}
    )
    words = ["NA", "null", "None", "nan", "Łódź 🚲", None]
    rows = pa.table(
        [
            words,
            [2**53 + 1, -(2**63), 2**63 - 1, None, 0, 1060],
            [2**31 - 1, -(2**31), None, 1, 2, 3],
            [True, False, None, True, False, True],
            [0.1, None, -1e300, 5e-324, 2.0, 3.0],
        ],
        schema=schema,
    )
    exported = as_frame(rows).assign(held_id=[str(number) for number in range(6)])
    exported.to_csv(tmp_path / "held.csv", index=False)
    found = quarantine._read(tmp_path / "held.csv", schema)
    assert pa.Table.from_pandas(found[schema.names], schema=schema, preserve_index=False).equals(rows)


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [(pa.int64(), "1060.0", 1060), (pa.int64(), "1e3", 1000), (pa.bool_(), "TRUE", True), (pa.bool_(), "0", False)],
)
def test_cells_may_be_written_as_spreadsheets_write_them(kind: pa.DataType, cell: str, value: Any):
    """A whole number with a decimal point, a boolean in capitals."""
    assert quarantine._typed(pd.Series([cell, None]), kind).tolist() == [value, pd.NA]


@pytest.mark.parametrize(
    ("kind", "cell"), [(pa.int64(), "1.5"), (pa.int64(), str(2**63)), (pa.int64(), "NA"), (pa.bool_(), "NA")]
)
def test_cells_that_a_column_cannot_hold_are_refused(kind: pa.DataType, cell: str):
    """Half a unit, a number too large, a word."""
    with pytest.raises(ValueError, match=r"decimal|Decimal|bounds|parse"):
        quarantine._typed(pd.Series([cell]), kind)


def test_a_corrected_row_that_says_na_is_judged_by_that_word(held, capsys):
    """It is none of a tail number, and not the same as none."""
    file = corrected_by_hand(held, "schedule", distance_miles="187.0", tailnum="NA")
    assert "tailnum_is_registration" in complaint(held, capsys, "release", *corrected(file))
    pd.read_csv(file, dtype=str).assign(tailnum=None).to_csv(file, index=False)
    assert release(held, file) == 0
    assert table(held, "raw/schedule").set_index("flight_id").loc[FLIGHT].tailnum is None


def test_what_a_suite_has_learnt_lands_and_leaves_quarantine(held, monkeypatch):
    """The rule takes such distances now: the same interval again brings the row in, and publishing what it touches."""
    suite = raw.RAW_SUITES["schedule"]
    wider = gxe.ExpectColumnValuesToBeBetween(column="distance_miles", min_value=10, max_value=6000)
    monkeypatch.setitem(
        raw.RAW_SUITES, "schedule", replace(suite, row_rules={**suite.row_rules, "distance_in_range": wider})
    )
    succeed(held, "ingest", *JULY)
    assert table(held, "quarantine/schedule").empty
    assert FLIGHT in set(table(held, "raw/schedule").flight_id)
    succeed(held, "publish", "--start", "2013-07-02", "--end", "2013-07-03")
    assert FLIGHT in set(table(held, "features/flight_schedule").flight_id)
