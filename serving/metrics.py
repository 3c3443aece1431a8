"""What /metrics says beyond BentoML's own: where the time goes, what was missing, which version serves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain

import prometheus_client as prometheus

from serving.features import FeatureRow

BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
AGES = (60, 300, 900, 3600, 10_800, 21_600, 86_400, 172_800, 604_800, 2_592_000)

STAGE = prometheus.Histogram("fti_stage_seconds", "Time of a request by stage", ["stage"], buckets=BUCKETS)
ROWS = prometheus.Counter("fti_predictions_total", "Rows predicted")
MISSING = prometheus.Counter("fti_features_missing_total", "Rows for which a view had no row of their key", ["view"])
STALE = prometheus.Counter("fti_features_stale_total", "Rows for which a view's row was older than its ttl", ["view"])
AGE = prometheus.Histogram(
    "fti_feature_age_seconds", "Age of the oldest feature row that a request used", ["view"], buckets=AGES
)
SWAPS = prometheus.Counter("fti_model_swaps_total", "Model versions that took over")
REFUSALS = prometheus.Counter(
    "fti_refusals_total", "Failed attempts to follow the registry or to open the store", ["step"]
)
REQUESTS = prometheus.Counter("fti_requests_total", "Requests by path and status", ["path", "status"])


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a stage of a request."""
    began = time.perf_counter()
    try:
        yield
    finally:
        STAGE.labels(name).observe(time.perf_counter() - began)


def count_rows(rows: Sequence[FeatureRow]) -> None:
    """Count the predictions of a request, what each was missing, and how old the oldest row of each view was."""
    ROWS.inc(len(rows))
    for counter, views in ((MISSING, (row.missing for row in rows)), (STALE, (row.stale for row in rows))):
        for view, count in Counter(chain.from_iterable(views)).items():
            counter.labels(view).inc(count)
    oldest: dict[str, timedelta] = {}
    for row in rows:
        for view, age in row.ages.items():
            if age > oldest.get(view, timedelta.min):
                oldest[view] = age
    for view, age in oldest.items():
        AGE.labels(view).observe(age.total_seconds())
