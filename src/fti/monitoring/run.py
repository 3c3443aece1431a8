"""Monitoring's command line: what was predicted before a moment in; verdicts in SQL, as a table and a report, out.

    python -m fti.monitoring.run --as-of 2013-10-12 --days 7

Consistency, drift and volume look at the predictions and rows of the days before; quality at as many days that ended
`label_delay_hours` of training/config.yaml earlier, for by then their outcomes are known. Exit codes: 0 nothing is in
breach, 1 refused or failed, also to deliver the alert, 2 wrong usage, 3 something is in breach.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from fti.contract.predictions import LogUnusable, create, open_log
from fti.contract.registered import require_registry
from fti.contract.results import Result, save, table, worst
from fti.contract.settings import OFF, PredictionSettings
from fti.errors import Refusal, one_line
from fti.monitoring.alert import alert_settings
from fti.monitoring.freshness import freshness, online_rows, quarantine, volume
from fti.monitoring.logged import Unfetched, logged
from fti.monitoring.outputs import add_outputs
from fti.monitoring.sample import SAMPLE_ROWS
from fti.monitoring.version import not_judged, of_predictions
from fti.project import project
from fti.steps import step
from fti.stores.landed import require_landed
from fti.stores.repository import open_repository
from fti.times import length, moment

if TYPE_CHECKING:
    from feast import FeatureStore

BREACHED = 3


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
    settings = PredictionSettings()
    parser = argparse.ArgumentParser(prog="fti.monitoring.run", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--as-of", type=moment, required=True, help="the moment to look back from, UTC: later labels do not exist"
    )
    parser.add_argument("--days", type=length(1, timedelta(days=1)), default=7, help="how many days to look at (7)")
    parser.add_argument(
        "--label-delay-hours", type=length(0, timedelta(hours=1), fractions=True), help="(as training/config.yaml says)"
    )
    parser.add_argument(
        "--sample-rows", type=int, default=SAMPLE_ROWS, help=f"to replay for consistency ({SAMPLE_ROWS})"
    )
    parser.add_argument(
        "--refresh-minutes", type=length(0, timedelta(minutes=1), fractions=True), default=0,
        help="how late the online store may be: what is only that late is no skew (0)",
    )  # fmt: skip
    parser.add_argument("--model", default=settings.model_name, help=f"the registered model ({settings.model_name})")
    parser.add_argument("--repo", type=Path, default=settings.feast_repo, help="Feast repository (SERVING_FEAST_REPO)")
    parser.add_argument("--url", default=settings.prediction_log, help="the log to read (SERVING_PREDICTION_LOG)")
    add_outputs(parser)
    parser.add_argument("--force", action="store_true", help="monitor as of a moment of which nothing has landed")
    parser.add_argument("--no-alert", action="store_true", help="tell no webhook of a breach (MONITORING_WEBHOOK_URL)")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("step").setLevel(logging.INFO)
    # SQLAlchemy's plans for its own code, at every start.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    hours, as_of = options.label_delay_hours, options.as_of
    if options.sample_rows < 1:
        parser.error("--sample-rows is 1 or more")
    try:
        require_landed(options.repo, {"--as-of": as_of}, options.force)
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    # Not above: they take seconds that a wrong command line should not wait for.
    from mlflow.exceptions import MlflowException

    from fti.monitoring.conclusion import conclude

    try:
        delay = label_delay() if hours is None else timedelta(hours=hours)
        alerts = None if options.no_alert else alert_settings()
        if options.url == OFF:
            raise LogUnusable("SERVING_PREDICTION_LOG is off, so there is nothing to monitor. Give --url, or unset it.")
        engine = open_log(options.url, existing=True)
        require_registry()
        create(engine)

        store = open_repository(options.repo)
        allowance = timedelta(minutes=options.refresh_minutes)
        results = monitor(
            store, engine, options.model, as_of, options.days, delay, options.sample_rows, allowance=allowance
        )
        print(table(results))
        verdict = worst(results)
        print(f"As of {as_of:%Y-%m-%dT%H:%MZ}: {verdict}. All {len(results):,} measurements are in monitor_results.")
        conclude(engine, as_of, results, options.report, options.prometheus, alerts)
    except (Refusal, MlflowException, SQLAlchemyError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"The report is {options.report}, the metrics are {options.prometheus}.")
    return BREACHED if verdict == "breach" else 0


if __name__ == "__main__":
    sys.exit(main())
