"""What /metrics says: where the time goes, what was missing, which version serves, what the log of predictions lost."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prometheus_client as prometheus
import psutil
from prometheus_client import multiprocess

if TYPE_CHECKING:
    from fti.scoring.features import FeatureRow

SHARED = "PROMETHEUS_MULTIPROC_DIR"  # where the workers of a server keep their metrics for whichever of them is asked

BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
AGES = (60, 300, 900, 3600, 10_800, 21_600, 86_400, 172_800, 604_800, 2_592_000)


def keep_apart() -> None:
    """Give the workers of this server a folder of their own, before any metric is made: Feast makes some on import.

    BentoML 1.4 has one folder for all servers of a user, and each that starts empties it.
    """
    shared = Path(os.environ[SHARED])
    own = shared.with_name(f"{shared.name}-{os.getppid()}")
    own.mkdir(parents=True, exist_ok=True)
    os.environ[SHARED] = str(own)
    for other in shared.parent.glob(f"{shared.name}-*"):
        if not psutil.pid_exists(int(other.name.rpartition("-")[2])):
            shutil.rmtree(other, ignore_errors=True)


if SHARED in os.environ:
    keep_apart()
REQUESTS = prometheus.Histogram(
    "fti_request_seconds", "Time of a request by path and status", ["path", "status"], buckets=BUCKETS
)
STAGE = prometheus.Histogram("fti_stage_seconds", "Time of a stage of scoring", ["stage"], buckets=BUCKETS)
TOGETHER = prometheus.Histogram(
    "fti_requests_scored_together", "Requests that were scored at once", buckets=(1, 2, 4, 8, 16, 32, 64)
)
ROWS = prometheus.Counter("fti_predictions_total", "Rows predicted")
READ = prometheus.Counter(
    "fti_features_read_total", "Rows whose features were read: predicted, or refused for a view that had nothing"
)
MISSING = prometheus.Counter("fti_features_missing_total", "Rows for which a view had no row of their key", ["view"])
STALE = prometheus.Counter("fti_features_stale_total", "Rows for which a view's row was older than its ttl", ["view"])
AGE = prometheus.Histogram(
    "fti_feature_age_seconds",
    "Age of the oldest row of a view among what was predicted together",
    ["view"],
    buckets=AGES,
)
AHEAD = prometheus.Histogram(
    "fti_feature_ahead_seconds",
    "How far ahead of the server's clock a row of a view was stamped, where one was",
    ["view"],
    buckets=(0.1, 1, 5, 60, 3600),
)
AHEAD_UNUSED = prometheus.Counter(
    "fti_features_ahead_total", "Rows not used because they were stamped too far ahead of the server's clock", ["view"]
)
VERSION = prometheus.Gauge(
    "fti_model_version", "The model version of each worker", ["role"], multiprocess_mode="liveall"
)
SWAPS = prometheus.Counter("fti_model_swaps_total", "Model versions that took over", ["role"])
REFUSALS = prometheus.Counter(
    "fti_refusals_total", "Failed attempts to follow the registry or to open the store", ["step"]
)
SHADOWED = prometheus.Counter("fti_shadow_total", "Requests that the shadow model was to score too", ["outcome"])
LOG_ROWS = prometheus.Counter(
    "fti_log_rows_total", "Predictions for the prediction log, by what became of them", ["outcome"]
)
LOG_FAILURES = prometheus.Counter("fti_log_failures_total", "Failed attempts to write to the prediction log")
LOG_QUEUE = prometheus.Gauge(
    "fti_log_queue", "Predictions that wait to be written to the prediction log", multiprocess_mode="livesum"
)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a stage of scoring."""
    began = time.perf_counter()
    try:
        yield
    finally:
        child(STAGE, name).observe(time.perf_counter() - began)


@cache
def child(metric: Any, *labels: Any) -> Any:
    """The metric of these labels; to look it up costs as much as to count. Only for labels of which there are few."""
    return metric.labels(*labels)


def count_rows(predicted: Sequence[FeatureRow], refused: Sequence[FeatureRow]) -> None:
    """Count rows that were scored together, what each was missing, and how old the oldest row of each view was.

    Those too that were refused for what they were missing: a view that lost all its rows would not show without them.
    """
    rows = [*predicted, *refused]
    ROWS.inc(len(predicted))
    READ.inc(len(rows))
    for counter, views in ((MISSING, (row.missing for row in rows)), (STALE, (row.stale for row in rows))):
        for view, count in Counter(chain.from_iterable(views)).items():
            child(counter, view).inc(count)
    for row in rows:
        for view, ahead in row.ahead.items():
            child(AHEAD, view).observe(ahead.total_seconds())
            if view in row.missing:
                child(AHEAD_UNUSED, view).inc()
    oldest: dict[str, timedelta] = {}
    for row in rows:
        for view, age in row.ages.items():
            if age > oldest.get(view, timedelta.min):
                oldest[view] = age
    for view, age in oldest.items():
        child(AGE, view).observe(age.total_seconds())


def exposition() -> bytes:
    """The metrics of all workers, in the text format of Prometheus."""
    folder = os.environ.get(SHARED)
    if folder is None:
        return prometheus.generate_latest()
    registry = prometheus.CollectorRegistry()
    # A worker that was killed has not said goodbye: what it holds now, a queue or a version, is held by nobody.
    for pid in {int(file.stem.rpartition("_")[2]) for file in Path(folder).glob("gauge_live*.db")}:
        if not psutil.pid_exists(pid):
            multiprocess.mark_process_dead(pid)
    multiprocess.MultiProcessCollector(registry)
    return prometheus.generate_latest(registry)
