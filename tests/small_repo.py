"""A Feast repository with raw files of one flight an hour for two days, and the command line over it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from feature_repo.pipeline import run
from feature_repo.pipeline.ingest import FLIGHT_COLUMNS, WEATHER_COLUMNS

ROOT = Path(__file__).resolve().parents[1]
JULY = ("--start", "2013-06-01", "--end", "2013-07-03")


def build(folder: Path) -> Path:
    """Make a Feast repository, raw files of one flight an hour for two days, and the tables made from them."""
    ignored = shutil.ignore_patterns("__pycache__", "pipeline", "stores", "__init__.py")
    shutil.copytree(ROOT / "feature_repo", folder / "feature_repo", ignore=ignored)
    (folder / "raw").mkdir()
    hours = pd.date_range("2013-07-01", periods=48, freq="h", tz="UTC").strftime("%Y-%m-%dT%H:%M:%SZ")
    facts = dict.fromkeys(FLIGHT_COLUMNS, 0) | {
        "sched_arr_time": 2359, "carrier": "B6", "flight": 7, "tailnum": "N1AB", "origin": "JFK", "dest": "BOS",
        "distance": 187,
    }  # fmt: skip
    flights = pd.DataFrame([facts | {"time_hour": hour} for hour in hours])
    flights.to_csv(folder / "raw" / "flights.csv.zip", index=False, compression={"method": "zip", "archive_name": "f"})
    observed = dict.fromkeys(WEATHER_COLUMNS, 10) | {"origin": "JFK", "pressure": 1000, "precip": 0}
    pd.DataFrame([observed | {"time_hour": hour} for hour in hours]).to_csv(folder / "raw" / "weather.csv", index=False)
    (folder / "raw" / "planes.csv").write_text("tailnum,year,seats\nN1AB,1999,150\n")
    (folder / "raw" / "airports.csv").write_text("faa,tzone\nBOS,America/New_York\n")
    for command in ("ingest", "publish"):
        assert run.main(arguments(folder, command, *JULY)) == 0
    return folder


def arguments(folder: Path, command: str, *more: str) -> list[str]:
    return [command, "--repo", str(folder / "feature_repo"), "--raw", str(folder / "raw"), *more]


def tables(folder: Path) -> dict[str, bytes]:
    """Every byte of every table."""
    files = [file for kind in ("raw", "features", "quarantine") for file in (folder / "data" / kind).rglob("*")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}


def complaint(folder: Path, capsys: pytest.CaptureFixture[str], command: str, *more: str) -> str:
    """The one line with which a command fails; no table has changed by it."""
    before = tables(folder)
    capsys.readouterr()
    assert run.main(arguments(folder, command, *more)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback"))]
    assert len(lines) == 1
    assert tables(folder) == before
    return lines[0]
