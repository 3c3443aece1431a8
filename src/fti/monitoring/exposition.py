"""Results as Prometheus metrics: results in; a file for the textfile collector of node_exporter out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from fti.contract.results import VERDICTS, Result, Verdict, worst

LABELS = ("monitor", "subject", "metric")
CODES: dict[Verdict, int] = {"no_data": -1, "healthy": 0, "investigate": 1, "breach": 2}
MOST_SERIES = 2000  # of each metric: a model with many inputs and slices must not flood the server


def write_metrics(as_of: datetime, results: Sequence[Result], path: Path) -> None:
    """Replace the file, at once. It must end in `.prom` for the collector to read it.

    Where several windows of a measurement were looked at, its value is that of the longest and newest, and its verdict
    the worst of all: so the highest verdict here is that of the whole run.
    """
    registry = CollectorRegistry()
    meaning = ", ".join(f"{code} {name}" for name, code in CODES.items())
    values = Gauge("fti_monitor_value", "What was measured.", LABELS, registry=registry)
    verdicts = Gauge("fti_monitor_verdict", f"What to think of it: {meaning}.", LABELS, registry=registry)
    rows = Gauge("fti_monitor_rows", "How many rows were measured.", LABELS, registry=registry)
    moment = Gauge("fti_monitor_as_of_timestamp_seconds", "The moment looked back from.", registry=registry)
    left_out = Gauge("fti_monitor_series_left_out", f"Measurements beyond {MOST_SERIES:,}.", registry=registry)
    grouped = _grouped(results)
    moment.set(as_of.timestamp())
    left_out.set(max(0, len(grouped) - MOST_SERIES))
    for labels, mine in grouped[:MOST_SERIES]:
        shown = max(mine, key=lambda one: (one.end - one.start, one.end))
        rows.labels(*labels).set(shown.rows)
        if shown.value is not None:
            values.labels(*labels).set(shown.value)
        if any(one.verdict for one in mine):
            verdicts.labels(*labels).set(CODES[worst(mine)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)


def _grouped(results: Iterable[Result]) -> list[tuple[tuple[str, str, str], list[Result]]]:
    """The results by label, those with the worst verdict first."""
    found: dict[tuple[str, str, str], list[Result]] = {}
    for one in results:
        found.setdefault((one.monitor, one.subject, one.metric), []).append(one)
    return sorted(found.items(), key=lambda item: -VERDICTS.index(worst(item[1])))
