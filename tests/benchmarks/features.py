"""The feature pipeline: a year of raw events to published features, one day more, and what the gates cost.

    python -m tests.benchmarks.features

Seconds are wall clock in one process, without its imports. A day's files are what a feed would deliver that day: its
flights, the schedule of the four weeks ahead, the weather.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import pandas as pd

from feature_repo.source import END, START, RawEvents, RawFiles
from feature_repo.transforms import Interval
from fti.features.pipeline import FeaturePipeline
from fti.times import utc
from fti.validation.gate import Gate, Outcome, Suite
from tests.benchmarks.results import Result, table
from tests.oracle import raw_file

YEAR = Interval(utc(START), utc(END))
# The schedule is known four weeks ahead, so the data set's last ordinary day is at the beginning of December.
HISTORIES = {
    1: datetime(2013, 2, 1, tzinfo=UTC),
    6: datetime(2013, 7, 1, tzinfo=UTC),
    11: datetime(2013, 12, 1, tzinfo=UTC),
}
DAYS = 3


class TimedGate(Gate):
    """A gate that adds up the seconds it takes and the rows it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.rows = 0.0, 0

    def check(self, frame: pd.DataFrame, suite: Suite, known: Callable[[pd.DataFrame], int] | None = None) -> Outcome:
        began = time.perf_counter()
        try:
            return super().check(frame, suite, known)
        finally:
            self.seconds += time.perf_counter() - began
            self.rows += len(frame)


def measure() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        return [*_year(Path(folder) / "year"), *_days(Path(folder))]


def _year(folder: Path) -> list[Result]:
    gate = TimedGate()
    began = time.perf_counter()
    _run(folder, RawEvents(), YEAR, gate)
    seconds = time.perf_counter() - began
    share, per_million = gate.seconds / seconds, gate.seconds / gate.rows * 1e6
    return [
        Result("features: a year, raw files to published", seconds, "s", target="< 20 s", met=seconds < 20),
        Result("features: gates, share of the year", share, "of the time", baseline="the whole year"),
        Result("features: gates, per million rows", per_million, "s"),
    ]


def _days(folder: Path) -> list[Result]:
    """One day more, after histories of several lengths: each the median of a few days."""
    found: list[Result] = []
    source = RawEvents()
    for months, until in HISTORIES.items():
        place = folder / f"after-{months}"
        _run(place, source, Interval(YEAR.start, until), Gate())
        seconds = []
        for number in range(DAYS):
            day = Interval(until + timedelta(days=number), until + timedelta(days=number + 1))
            raw = _delivery(day, place / f"raw-{number}")
            began = time.perf_counter()
            _run(place, RawEvents(RawFiles(raw)), day, Gate())
            seconds.append(time.perf_counter() - began)
        value = median(seconds)
        first = found[0].value if found else value
        found.append(
            Result(
                f"features: one day after {months} month{'s' if months > 1 else ''}", value, "s",
                baseline="one day after 1 month", ratio=value / first, target="< 3 s", met=value < 3,
            )
        )  # fmt: skip
        shutil.rmtree(place)
    return found


def _run(folder: Path, source: RawEvents, interval: Interval, gate: Gate) -> None:
    pipeline = FeaturePipeline(folder / "feature_repo", source, gate)
    pipeline.ingest(interval)
    pipeline.publish(interval)


def _delivery(day: Interval, folder: Path) -> Path:
    """Raw files with the flights that left from the day before on, up to four weeks and a day ahead."""
    folder.mkdir()
    begin, end = day.start - timedelta(days=1), day.end + timedelta(days=29)
    for name, written in (("flights.csv.zip", {"method": "zip", "archive_name": "flights.csv"}), ("weather.csv", None)):
        frame = pd.read_csv(raw_file(name))
        hours = pd.to_datetime(frame.time_hour, utc=True)
        frame[(hours >= begin) & (hours < end)].to_csv(folder / name, index=False, compression=written)
    for name in ("planes.csv", "airports.csv"):
        shutil.copy(raw_file(name), folder / name)
    return folder


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(table(measure()))
