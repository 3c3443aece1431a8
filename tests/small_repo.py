"""A Feast repository with raw files of one flight an hour for two days, and the command line over it."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable
from upath import UPath

from feature_repo.source import FLIGHT_COLUMNS, WEATHER_COLUMNS
from fti.features import run
from fti.features.definitions import copy_definitions
from fti.stores.tables import tables_in

ROOT = Path(__file__).resolve().parents[1]
# A server that has imported the pipeline once and forks: a real process to kill, without seconds of imports for each.
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload([__name__, "feast.repo_operations"])
KINDS = ("raw", "features", "quarantine")
READS_RAW = ("all", "ingest", "validate", "publish", "release")
JULY = ("--start", "2013-06-01", "--end", "2013-07-03")


def build(folder: Path) -> Path:
    """Make a Feast repository, raw files of one flight an hour for two days, and the tables made from them."""
    copy_definitions(folder / "feature_repo")
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
    raw = ["--raw", str(folder / "raw")] if command in READS_RAW else []
    return [command, "--repo", str(folder / "feature_repo"), *raw, *more]


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


def frames(folder: Path) -> dict[str, pd.DataFrame]:
    """The rows of every table, in an order that does not depend on how they were written."""
    return rows_of(UPath(folder / "data"))


def rows_of(root: UPath) -> dict[str, pd.DataFrame]:
    """As `frames`, wherever the tables are."""
    found = {}
    for kind in KINDS:
        for name in tables_in(root / kind):
            frame = DeltaTable(str(root / kind / name)).to_pandas()
            columns = sorted(frame.columns)
            found[f"{kind}/{name}"] = frame[columns].sort_values(columns, ignore_index=True)
    return found


def assert_same(found: dict[str, pd.DataFrame], wanted: dict[str, pd.DataFrame]) -> None:
    """Row for row, in the same tables."""
    assert set(found) == set(wanted)
    for name, frame in wanted.items():
        pd.testing.assert_frame_equal(found[name], frame, obj=name, check_exact=True)


def read_raw(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "raw" / name)


def write_raw(folder: Path, name: str, frame: pd.DataFrame) -> None:
    packed = {"method": "zip", "archive_name": "f"} if name.endswith(".zip") else None
    frame.to_csv(folder / "raw" / name, index=False, compression=packed)


def succeed(folder: Path, command: str, *more: str) -> None:
    assert run.main(arguments(folder, command, *more)) == 0


def start(folder: Path, command: str, *more: str) -> BaseProcess:
    """The command in a process of its own; `said` is what it prints."""
    process = WARM.Process(
        target=_run_logged, args=(folder / f"{command}.log", arguments(folder, command, *more)), name=command
    )
    process.start()
    return process


def said(folder: Path, command: str) -> str:
    log = folder / f"{command}.log"
    return log.read_text() if log.exists() else ""


def wait_until(true: Callable[[], bool], process: BaseProcess) -> None:
    """Look every half a millisecond; a process that ended or hangs before is a failure."""
    deadline = time.monotonic() + 60
    while not true():
        assert process.is_alive(), f"{process.name} ended with {process.exitcode} too early"
        assert time.monotonic() < deadline, f"{process.name} hangs"
        time.sleep(0.0005)


def _run_logged(log: Path, argv: list[str]) -> None:
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(run.main(argv))


def start_and_hang(folder: Path, command: str, *more: str, at: str) -> BaseProcess:
    """The command in a process of its own that hangs when it calls `at`, a module:attribute; returns once it does."""
    reached = folder / "reached"
    reached.unlink(missing_ok=True)
    process = WARM.Process(
        target=_run_hanging,
        args=(folder / f"{command}.log", arguments(folder, command, *more), at, reached),
        name=command,
    )
    process.start()
    wait_until(reached.exists, process)
    return process


def _run_hanging(log: Path, argv: list[str], at: str, reached: Path) -> None:
    module, _, path = at.partition(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for attribute in owners:
        owner = getattr(owner, attribute)

    def hang(*_: object, **__: object) -> None:
        reached.touch()
        time.sleep(600)

    setattr(owner, name, hang)
    _run_logged(log, argv)
