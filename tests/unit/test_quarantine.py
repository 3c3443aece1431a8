"""What quarantine holds, and how a corrected row comes in: by the command line, as its users do it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable

from feature_repo.pipeline import run
from tests.small_repo import JULY, arguments, complaint

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
    file = folder / "held.csv"
    assert run.main(arguments(folder, "quarantine", "--table", "schedule", "--export", str(file))) == 0
    pd.read_csv(file, dtype=str).assign(distance_miles=str(distance)).to_csv(file, index=False)
    return file


def corrected(file: Path) -> list[str]:
    """The options of `release`."""
    return ["--table", "schedule", "--rows", str(file), "--received-at", RECEIVED]


def release(folder: Path, file: Path) -> int:
    return run.main(arguments(folder, "release", *corrected(file)))


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
