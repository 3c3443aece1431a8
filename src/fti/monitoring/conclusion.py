"""What follows from results: a report, metrics, and on a breach an alert."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from fti.contract.results import Result
from fti.monitoring.alert import AlertSettings, alert
from fti.monitoring.exposition import write_metrics
from fti.monitoring.plots import Events
from fti.monitoring.report import write_report
from fti.steps import step


def conclude(
    engine: Engine, as_of: datetime, results: Sequence[Result], report_file: Path, prometheus_file: Path,
    alerts: AlertSettings | None, events: Events = (),
) -> None:  # fmt: skip
    """Write both files, then alert. `results` are saved already: what fails here loses none of them.

    `alerts` None tells nobody; `events` are marked in the report. Raises AlertFailed, and OSError of a file.
    """
    try:
        with step("metrics") as told:
            write_metrics(as_of, results, prometheus_file)
            told.update(file=prometheus_file)
        with step("report") as told:
            write_report(engine, as_of, report_file, events)
            told.update(file=report_file, bytes=report_file.stat().st_size)
    finally:  # a full disk must not keep anybody from hearing of a breach
        if alerts is not None:
            with step("alert") as told:
                told.update(sent=alert(alerts, as_of, results))
