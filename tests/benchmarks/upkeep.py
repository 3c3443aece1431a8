"""Years of small commits, with and without the daily upkeep: what grows, and by how much.

    python -m tests.benchmarks upkeep                       100 days
    python -m tests.benchmarks.upkeep --days 730            two years; an hour

Each day lands COMMITS rows one by one, by merge, as a stream of late events would, and reads the table once. A model is
trained in the first week: its version of the table is kept. A day lasts as long as it takes: what is to be kept for a
week is kept for as long as the last seven took.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pyarrow as pa
from upath import UPath

from fti.features.publish import merge_events
from fti.stores.delta import connect, create_view, version_of
from fti.stores.upkeep import compact, shorten_log, vacuum
from tests.benchmarks.results import Result, table

START, COMMITS, TRAINED_ON_DAY = datetime(2013, 1, 1, tzinfo=UTC), 50, 5
MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema([
    ("id", pa.string()), ("value", pa.float64()), ("event_timestamp", MOMENT), ("created_timestamp", MOMENT),
])  # fmt: skip


@dataclass(frozen=True)
class Day:
    """Seconds of a merge and a read (medians), and of the upkeep; files, entries of the log and bytes on the disk."""

    merge: float
    read: float
    upkeep: float
    files: int
    log: int
    size: int


def live(path: UPath, days: int, with_upkeep: bool) -> list[Day]:
    """What each day cost."""
    lived: list[Day] = []
    kept: set[int] = set()
    lasted: deque[float] = deque(maxlen=7)
    for day in range(days):
        began = time.perf_counter()
        merges = [_timed(partial(_land, path, _moment(day, number))) for number in range(COMMITS)]
        reads = [_timed(lambda: _read(path)) for _ in range(3)]
        if day == TRAINED_ON_DAY:
            kept.add(version_of(path))
        lasted.append(time.perf_counter() - began)
        upkeep = _timed(lambda: _keep_up(path, kept, timedelta(seconds=sum(lasted)))) if with_upkeep else 0.0
        lived.append(Day(median(merges), median(reads), upkeep, *_on_disk(path)))
    return lived


def _moment(day: int, number: int) -> datetime:
    return START + timedelta(days=day, minutes=number)


def _land(path: UPath, at: datetime) -> None:
    merge_events(path, _event(at), ["id"], "event_timestamp")


def _event(at: datetime) -> pa.Table:
    columns = {"id": [at.isoformat()], "value": [1.0], "event_timestamp": [at], "created_timestamp": [at]}
    return pa.table(columns, schema=SCHEMA)


def _read(path: UPath) -> None:
    con = connect()
    create_view(con, "events", path)
    con.sql("SELECT count(*), max(event_timestamp) FROM events").fetchall()


def _keep_up(path: UPath, kept: set[int], unused: timedelta) -> None:
    compact(path, {})
    vacuum(path, kept, unused, {})
    shorten_log(path, kept, version_of(path), unused)


def _on_disk(path: UPath) -> tuple[int, int, int]:
    files = [file for file in Path(str(path)).rglob("*") if file.is_file()]
    in_log = sum("_delta_log" in file.parts for file in files)
    return len(files) - in_log, in_log, sum(file.stat().st_size for file in files)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(days: int = 100, bare_days: int = 21) -> list[Result]:
    """Compare the last week with the first; without upkeep, of fewer days."""
    results = []
    for with_upkeep, count in ((True, days), (False, min(days, bare_days))):
        with TemporaryDirectory() as folder:
            lived = live(UPath(folder) / "raw", count, with_upkeep)
        first, last = lived[:7], lived[-7:]
        name = f"upkeep: {count} days of {COMMITS} commits{'' if with_upkeep else ', without upkeep'}"
        for what, unit in {"merge": "ms", "read": "ms", "upkeep": "ms", "files": "", "log": "", "size": "MB"}.items():
            before, after = (median(getattr(day, what) for day in week) for week in (first, last))
            if not before:
                continue
            scale = {"ms": 1000.0, "MB": 1e-6}.get(unit, 1.0)
            results.append(
                Result(f"{name}, {what} in the last week", after * scale, unit,
                       f"in the first, {before * scale:.3g}: {after / before:.2f} times")
            )  # fmt: skip
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="tests.benchmarks.upkeep", description=__doc__.split("\n")[0])
    parser.add_argument("--days", type=int, default=100)
    print(table(measure(parser.parse_args().days)))
