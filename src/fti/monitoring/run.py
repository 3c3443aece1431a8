"""Monitoring's command line: what was predicted before a moment in; verdicts in SQL, as a table and a report, out.

    fti monitor --as-of 2013-10-12 --days 7

Consistency, drift and volume look at the predictions and rows of the days before; quality at as many days that ended
`label_delay_hours` of training/config.yaml earlier, for by then their outcomes are known. Exit codes: 0 nothing is in
breach, 1 refused or failed, also to deliver the alert, 2 wrong usage, 3 something is in breach.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from fti.command import BREACHED, alias, fail
from fti.contract.predictions import LogUnusable, create, open_log
from fti.contract.registered import require_registry
from fti.contract.results import Result, save, table, worst
from fti.contract.settings import OFF, PredictionSettings
from fti.errors import Refusal, one_line
from fti.monitoring.alert import alert_settings
from fti.monitoring.freshness import freshness, online_rows, quarantine, volume
from fti.monitoring.logged import Unfetched, logged
from fti.monitoring.outputs import metrics_file, report_file
from fti.monitoring.version import not_judged, of_predictions
from fti.project import project
from fti.steps import step
from fti.stores.repository import open_repository

if TYPE_CHECKING:
    from feast import FeatureStore


class LabelDelayUnknown(Refusal):
    """The training configuration does not say when outcomes are known."""


def label_delay(config: Path | None = None) -> timedelta:
    """How long after it was asked a prediction's outcome is known, as training has it. Raises LabelDelayUnknown.

    The file is read, because nothing here imports training: monitors that waited for another time than training would
    hold a model against outcomes of another kind, only the punctual ones or fewer than there are.
    """
    config = config or project().root / "training" / "config.yaml"
    try:
        delay = timedelta(hours=float(yaml.safe_load(config.read_text())["label_delay_hours"]))
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise LabelDelayUnknown(
            f"{config} has no number of hours as `label_delay_hours` ({one_line(error)}). Mend it, or give "
            "--label-delay-hours."
        ) from error
    return delay


def monitor(
    store: FeatureStore, engine: Engine, name: str, as_of: datetime, days: int,
    label_delay: timedelta, sample_rows: int, also: Sequence[Result] = (), allowance: timedelta = timedelta(0),
) -> list[Result]:  # fmt: skip
    """Run every monitor as of a moment, and put what they found into SQL, with what others have found `also`."""
    start, results = as_of - timedelta(days=days), [*also]
    with step("freshness and volume") as report:
        results += freshness(store, as_of)
        results += online_rows(store, as_of)
        results += volume(store, start, as_of)
        results += quarantine(store, start, as_of)
        report.update(results=len(results))
    first, last = start - label_delay, as_of - label_delay
    windows = {"consistency": (start, as_of), "drift": (start, as_of), "quality": (first, last)}
    for found in logged(engine, name, first, as_of):
        if isinstance(found, Unfetched):
            results += [not_judged(which, found.subject, *windows[which], found.rows, found.why) for which in windows]
        else:
            results += of_predictions(store, found, windows["drift"], windows["quality"], sample_rows, allowance)
    for which, bounds in windows.items():
        if not any(one.monitor == which for one in results):
            lacking = f"{name} has logged no prediction of that time"
            results.append(Result(which, *bounds, name, "predictions", None, 0, "no_data", details=lacking))
    save(engine, as_of, results, name)
    return results


def main(argv: list[str] | None = None) -> int:
    return alias("fti.monitoring.run", "fti.monitoring.commands:MONITOR", argv)


def execute(
    settings: PredictionSettings, as_of: datetime, repo: Path, days: int, label_delay_hours: float | None,
    sample_rows: int, refresh_minutes: float, model: str | None, url: str | None, report: Path | None,
    prometheus: Path | None, no_alert: bool,
) -> int:  # fmt: skip
    """Monitor, print the verdicts and tell who wants to know; returns the exit code."""
    from mlflow.exceptions import MlflowException

    from fti.monitoring.conclusion import conclude

    log, report, prometheus = url or settings.prediction_log, report or report_file(), prometheus or metrics_file()
    try:
        delay = label_delay() if label_delay_hours is None else timedelta(hours=label_delay_hours)
        alerts = None if no_alert else alert_settings()
        if log == OFF:
            raise LogUnusable("SERVING_PREDICTION_LOG is off, so there is nothing to monitor. Give --url, or unset it.")
        engine = open_log(log, existing=True)
        require_registry()
        create(engine)

        store, allowance = open_repository(repo), timedelta(minutes=refresh_minutes)
        name = model or settings.model_name
        results = monitor(store, engine, name, as_of, days, delay, sample_rows, allowance=allowance)
        print(table(results))
        verdict = worst(results)
        print(f"As of {as_of:%Y-%m-%dT%H:%MZ}: {verdict}. All {len(results):,} measurements are in monitor_results.")
        conclude(engine, as_of, results, report, prometheus, alerts)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        return fail(error)
    print(f"The report is {report}, the metrics are {prometheus}.")
    return BREACHED if verdict == "breach" else 0


if __name__ == "__main__":
    sys.exit(main())
