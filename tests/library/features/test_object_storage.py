"""Tables in an object store: the same commands, told by variables alone, end in the same tables as in a folder."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from upath import UPath

from fti.features import run
from fti.features.publish import id_of
from tests.small_repo import JULY, KINDS, arguments, assert_same, complaint, frames, read_raw, rows_of, write_raw

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def lake(s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UPath:
    """An empty place in the object store, which FTI_TABLES names."""
    root = f"s3://lake/{tmp_path.name}"
    for name, value in (s3 | {"FTI_TABLES": root}).items():
        monkeypatch.setenv(name, value)
    return UPath(root)


def live(folder: Path) -> None:
    """A month with a row to hold, and later some delays that are restated and the held row, corrected."""
    flights = read_raw(folder, "flights.csv.zip")
    write_raw(folder, "flights.csv.zip", flights.assign(distance=flights.distance.where(flights.index != 3, 17)))
    for command in ("ingest", "publish"):
        assert run.main(arguments(folder, command, *JULY)) == 0
    write_raw(folder, "flights.csv.zip", read_raw(folder, "flights.csv.zip").assign(dep_delay=3, arr_delay=4))
    assert run.main(arguments(folder, "ingest", *JULY, "--received-at", "2013-07-04")) == 0
    held = folder / "held.csv"
    assert run.main(arguments(folder, "quarantine", "--table", "schedule", "--export", str(held))) == 0
    rows = pd.read_csv(held, dtype=str)
    rows.assign(distance_miles="187.0").to_csv(held, index=False)
    released = ("--table", "schedule", "--rows", str(held), "--received-at", "2013-07-05")
    assert run.main(arguments(folder, "release", *released)) == 0
    assert run.main(arguments(folder, "publish", "--start", "2013-07-02", "--end", "2013-07-03")) == 0


def test_the_tables_are_the_same_as_in_a_folder(folder, lake, monkeypatch):
    """Landed, held, restated, released and published anew, cell by cell; and nothing of it lies in the folder."""
    at_home = Path(shutil.copytree(folder, folder.parent / "at_home"))
    for place in (folder, at_home):
        shutil.rmtree(place / "data")
    live(folder)
    assert not [kind for kind in KINDS if (folder / "data" / kind).exists()]
    found = rows_of(lake)
    monkeypatch.delenv("FTI_TABLES")
    live(at_home)
    wanted = frames(at_home)
    for rows, root in ((found, lake), (wanted, UPath(at_home / "data"))):  # each was released to its own raw table
        assert rows["quarantine/schedule"].pop("released_to").tolist() == [id_of(root / "raw" / "schedule")]
    assert_same(found, wanted)


def test_feast_joins_and_serves_from_there(folder, lake, monkeypatch):
    """Applied, joined point in time and materialized; the registry says where the rows are."""
    from feast import FeatureStore

    shutil.rmtree(folder / "data")
    moment = datetime(2013, 7, 2, 12, tzinfo=UTC)
    assert run.main(arguments(folder, "all", *JULY, "--as-of", moment.isoformat())) == 0
    monkeypatch.delenv("FTI_TABLES")
    store = FeatureStore(repo_path=str(folder / "feature_repo"))
    asked = ["origin_weather:origin_temperature_f", "origin_weather:origin_wind_speed_mph"]
    joined = store.get_historical_features(
        pd.DataFrame({"origin": ["JFK"], "event_timestamp": [moment]}), asked
    ).to_df()  # fmt: skip
    online = store.get_online_features(asked, [{"origin": "JFK"}]).to_dict()
    assert store.get_data_source("origin_weather_source").path == f"{lake}/features/origin_weather"
    assert joined[["origin_temperature_f", "origin_wind_speed_mph"]].to_numpy().tolist() == [[10.0, 10.0]]
    assert {name: value for name, value in online.items() if name != "origin"} == {
        "origin_temperature_f": [10.0], "origin_wind_speed_mph": [10.0]
    }  # fmt: skip


def test_a_place_that_depends_on_the_folder_one_is_in_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setenv("FTI_TABLES", "lake")
    assert "FTI_TABLES is lake" in complaint(folder, capsys, "ingest", *JULY)


def test_an_object_store_that_is_away_is_an_error_of_one_line(folder, lake, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert run.main(arguments(folder, "ingest", *JULY)) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback"))]
    assert str(lake) in line
