"""The loop: what a day's cycle costs after histories of several lengths, and monitoring by how much was predicted.

    python -m tests.benchmarks.loop

Seconds are wall clock in one process, without its imports; a cycle's are the median of DAYS days.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from feast import FeatureStore
from sqlalchemy import Engine, func, literal, select

from feature_repo.source import START, RawEvents
from feature_repo.transforms import Interval
from fti.contract.predictions import CHAMPION, PREDICTIONS, open_log
from fti.features.definitions import copy_definitions
from fti.features.feast_steps import apply, materialize
from fti.features.pipeline import FeaturePipeline
from fti.loop.day import DAY, open_cycle
from fti.loop.records import costs
from fti.monitoring.run import label_delay, monitor
from fti.monitoring.sample import SAMPLE_ROWS
from fti.serving import batch
from fti.serving.settings import ServingSettings
from fti.times import utc
from tests.benchmarks.features import DAYS, HISTORIES
from tests.benchmarks.journey import PeakMemory
from tests.benchmarks.results import Result, table

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("land", "materialize", "score", "monitor")
MONITORED, MONITORED_DAYS, COPIES = datetime(2013, 10, 2, tzinfo=UTC), 21, 10


def measure() -> list[Result]:
    """On the models and the features of this checkout: `make pipeline` makes them."""
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{ROOT / 'mlflow.db'}")
    with tempfile.TemporaryDirectory() as folder:
        return [*_cycles(Path(folder)), *_monitoring(Path(folder))]


def _cycles(folder: Path) -> list[Result]:
    found, source = [], RawEvents()
    for months, until in HISTORIES.items():
        repo = folder / f"after-{months}" / "feature_repo"
        copy_definitions(repo)
        pipeline = FeaturePipeline(repo, source)
        pipeline.ingest(Interval(utc(START), until))
        pipeline.publish(Interval(utc(START), until))
        apply(repo)
        materialize(repo, utc(START), until)
        cycle = open_cycle(
            ServingSettings(feast_repo=repo, prediction_log=f"sqlite:///{repo.parent / 'log.db'}"), source
        )
        for day in range(DAYS + 1):  # the first fills the online store whole, the others only with what is new
            done = cycle.run(until + day * DAY, STEPS)
            assert all(one.status == "done" for one in done), done
        seconds = costs(cycle.engine, until + DAY, until + DAYS * DAY).median()
        found.append((months, seconds))
    first = found[0][1].sum()
    results = []
    for months, seconds in found:
        ratio = seconds.sum() / first
        name = f"loop: a day's cycle after {months} month{'s' * (months > 1)}"
        compared = {"baseline": "after 1 month", "ratio": ratio, "target": "1.5x at most", "met": bool(ratio <= 1.5)}
        results.append(Result(name, float(seconds.sum()), "s", **(compared if months > 1 else {})))
    return results + [Result(f"loop: of that, {step}", float(found[-1][1][step]), "s") for step in STEPS]


def _monitoring(folder: Path) -> list[Result]:
    """Three weeks of batch predictions, monitored as they are and as if each had been asked for COPIES times."""
    url = f"sqlite:///{folder / 'log.db'}"
    code = batch.main(["--as-of", MONITORED.isoformat(), "--days", str(MONITORED_DAYS), "--url", url])
    assert code == 0, "there is no champion: `make pipeline`"
    engine = open_log(url)
    once, _ = _monitored(engine)
    rows = _multiply(engine)
    many, gigabytes = _monitored(engine)
    return [
        Result("loop: monitoring, a million predictions", (many - once) / rows * 1e6, "s"),
        Result("loop: monitoring, whatever there is", once, "s", baseline=f"{rows / COPIES:,.0f} predictions"),
        Result("loop: monitoring, memory", gigabytes, "GB", baseline=f"{rows:,} predictions"),
    ]


def _monitored(engine: Engine) -> tuple[float, float]:
    """Seconds, and the peak of memory in GB."""
    store, memory, began = (
        FeatureStore(repo_path=str(ROOT / "feature_repo")),
        PeakMemory(os.getpid()),
        time.perf_counter(),
    )
    memory.start()
    end = MONITORED + MONITORED_DAYS * DAY
    monitor(store, engine, ServingSettings().model_name, end, MONITORED_DAYS, label_delay(), SAMPLE_ROWS)
    return time.perf_counter() - began, memory.stop()


def _multiply(engine: Engine) -> int:
    """Add each prediction COPIES times, as answers of the service; returns how many were added."""
    columns = [column for column in PREDICTIONS.columns if column.name not in ("request_id", "role", "row_key")]
    with engine.begin() as connection:
        for copy in range(COPIES):
            again = select(
                (PREDICTIONS.c.request_id + f"-{copy}").label("request_id"), literal(CHAMPION).label("role"), *columns
            ).where(PREDICTIONS.c.role == batch.BATCH)
            names = ["request_id", "role", *(column.name for column in columns)]
            connection.execute(PREDICTIONS.insert().from_select(names, again))
        return connection.scalar(select(func.count()).where(PREDICTIONS.c.role == CHAMPION)) or 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(table(measure()))
