"""Monitoring's command line: what was predicted before a moment in; verdicts in SQL, as a table and a report, out.

    python -m fti.monitoring.run --as-of 2013-10-12 --days 7

Consistency, drift and volume look at the predictions and rows of the days before; quality at as many days that ended
`label_delay_hours` of training/config.yaml earlier, for by then their outcomes are known. Exit codes: 0 nothing is in
breach, 1 refused or failed, also to deliver the alert, 2 wrong usage, 3 something is in breach.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from fti.contract.predictions import LogUnusable, create, open_log
from fti.contract.results import Result, save, table, worst
from fti.contract.settings import OFF, PredictionSettings
from fti.contract.spine import PREDICTION_TIME
from fti.errors import Refusal, one_line
from fti.monitoring.alert import alert_settings
from fti.monitoring.conclusion import conclude
from fti.monitoring.consistency import consistency
from fti.monitoring.drift import Seen, drift, training_profile
from fti.monitoring.freshness import freshness, online_rows, quarantine, volume
from fti.monitoring.logged import Logged, Predictions, logged, together
from fti.monitoring.outcomes import Outcomes
from fti.monitoring.quality import quality
from fti.monitoring.sample import SAMPLE_ROWS, Sample
from fti.project import project
from fti.steps import step
from fti.stores.repository import open_repository
from fti.times import utc

if TYPE_CHECKING:
    from feast import FeatureStore

BREACHED = 3
VALIDATION = "validation_"  # how the names of those scores begin
AHEAD = ", asked ahead"
Window = tuple[datetime, datetime]


class LabelDelayUnknown(Refusal):
    """The training configuration does not say when outcomes are known."""


def label_delay(config: Path | None = None) -> timedelta:
    """How long after it was asked a prediction's outcome is known, as training has it. Raises LabelDelayUnknown.

    The file is read, because nothing here imports training: monitors that waited for another time than training would
    hold a model against outcomes of another kind, only the punctual ones or fewer than there are.
    """
    config = config or project().root / "training" / "config.yaml"
    try:
        hours = float(yaml.safe_load(config.read_text())["label_delay_hours"])
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise LabelDelayUnknown(
            f"{config} has no number of hours as `label_delay_hours` ({one_line(error)}). Mend it, or give "
            "--label-delay-hours."
        ) from error
    return timedelta(hours=hours)


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
    for predictions in logged(engine, name, first, as_of):
        results += _of_predictions(store, predictions, (start, as_of), (first, last), sample_rows, allowance)
    for which, bounds in {"consistency": (start, as_of), "drift": (start, as_of), "quality": (first, last)}.items():
        if not any(one.monitor == which for one in results):
            lacking = f"{name} has logged no prediction of that time"
            results.append(Result(which, *bounds, name, "predictions", None, 0, "no_data", details=lacking))
    save(engine, as_of, results, name)
    return results


def _of_predictions(
    store: FeatureStore, predictions: Predictions, recent: Window, mature: Window, sample_rows: int,
    allowance: timedelta,
) -> list[Result]:  # fmt: skip
    """Look at what one version predicted in one role, once: at its recent rows, and at those whose outcomes are known.

    `recent` reaches to the moment that outcomes are known by.
    """
    found, subject = _Found(predictions, sample_rows), predictions.subject
    with step(f"read predictions of {subject}") as report:
        for batch in predictions.batches():
            moments = batch.requests[PREDICTION_TIME]
            for window, take in ((recent, found.add_recent), (mature, found.add_mature)):
                if (inside := moments.between(*window, inclusive="left")).any():
                    take(batch.only(inside))
        report.update(recent=found.recent, mature=sum(len(one.requests) for one in found.mature))
    results: list[Result] = []
    if found.recent:
        with step(f"consistency of {subject}") as report:
            sample = found.sample.taken()
            results += consistency(store, sample, *recent, allowance)
            report.update(rows=len(sample.requests))
    if found.seen is not None:
        with step(f"drift of {subject}") as report:
            results += drift(found.seen, subject, *recent)
            report.update(rows=found.seen.rows)
    if found.mature:
        results += _of_what_became(store, found.mature, found.training, mature, recent[1])
    return results


class _Found:
    """What is kept of predictions that are read batch by batch: a sample, counts, and what scores need of each row."""

    def __init__(self, predictions: Predictions, sample_rows: int) -> None:
        self._run_id = predictions.run_id
        self._inputs = [one.name for one in predictions.contract.interface.inputs]
        self.recent, self.sample = 0, Sample(sample_rows)
        self.seen: Seen | None = None
        self.mature: list[Logged] = []

    @cached_property
    def training(self) -> tuple[dict[str, float], dict[str, Any]]:
        return _training_of(self._run_id)

    def add_recent(self, served: Logged) -> None:
        self.recent += len(served.requests)
        self.sample.add(served)
        on_time = ~served.ahead
        if on_time.any():
            self.seen = self.seen or Seen(training_profile(self._run_id), self._inputs)
            self.seen.add(served.only(on_time))

    def add_mature(self, served: Logged) -> None:
        """Of its features, only those that slices are cut by are needed."""
        cut = [name for name in self._inputs if name in self.training[1]]
        self.mature.append(replace(served, features=served.features[cut], ages=served.ages[[]]))


def _of_what_became(
    store: FeatureStore, batches: list[Logged], training: tuple[dict[str, float], dict[str, Any]], window: Window,
    known_by: datetime,
) -> list[Result]:  # fmt: skip
    """Score predictions whose outcomes are known. Takes the batches from the list: so their requests need not stay."""
    with step(f"quality of {batches[0].subject}") as report:
        outcomes, anchor = Outcomes(store, batches, known_by), batches[0].contract.interface.prediction_anchor
        known, scored, results = [], [], []
        while batches:
            batch = batches.pop(0)
            known.append(outcomes.of(batch))
            scored.append(replace(batch, requests=batch.requests[[anchor, PREDICTION_TIME]]))
        served, labels = together(scored), pd.concat(known, ignore_index=True)
        report.update(rows=len(labels), labelled=int(labels.notna().sum()))
        for rows, what in ((~served.ahead, ""), (served.ahead, AHEAD)):
            if rows.any():
                mine, theirs = served.only(rows), labels[rows].reset_index(drop=True)
                found = quality(mine, theirs, *training, *window)
                # What is asked a day ahead is not what the model was fitted to: scores, but no verdict.
                results += [replace(one, subject=one.subject + what, verdict=None) for one in found] if what else found
        return results


def _training_of(run_id: str) -> tuple[dict[str, float], dict[str, Any]]:
    """The scores of a run's model on its validation rows, by name, and the slices it was judged by."""
    from mlflow import MlflowClient
    from mlflow.artifacts import load_text

    config = json.loads(load_text(f"runs:/{run_id}/training_config.json"))
    metrics = MlflowClient().get_run(run_id).data.metrics
    of_validation = {
        name.removeprefix(VALIDATION): value for name, value in metrics.items() if name.startswith(VALIDATION)
    }
    return of_validation, config["slices"]


def main(argv: list[str] | None = None) -> int:
    settings = PredictionSettings()
    parser = argparse.ArgumentParser(prog="fti.monitoring.run", description=__doc__.split("\n")[0])
    parser.add_argument("--as-of", required=True, help="the moment to look back from, UTC: later labels do not exist")
    parser.add_argument("--days", type=int, default=7, help="how many days to look at (7)")
    parser.add_argument("--label-delay-hours", type=float, help="(as training/config.yaml says)")
    parser.add_argument(
        "--sample-rows", type=int, default=SAMPLE_ROWS, help=f"to replay for consistency ({SAMPLE_ROWS})"
    )
    parser.add_argument(
        "--refresh-minutes", type=float, default=0,
        help="how late the online store may be: what is only that late is no skew (0)",
    )  # fmt: skip
    parser.add_argument("--model", default=settings.model_name, help=f"the registered model ({settings.model_name})")
    parser.add_argument("--repo", type=Path, default=settings.feast_repo, help="Feast repository (SERVING_FEAST_REPO)")
    parser.add_argument("--url", default=settings.prediction_log, help="the log to read (SERVING_PREDICTION_LOG)")
    outputs = project().root / "data" / "monitoring"
    parser.add_argument("--report", type=Path, default=outputs / "report.html", help="(data/monitoring/report.html)")
    parser.add_argument(
        "--prometheus", type=Path, default=outputs / "monitor.prom",
        help="for node_exporter's textfile collector (data/monitoring/monitor.prom)",
    )  # fmt: skip
    parser.add_argument("--no-alert", action="store_true", help="tell no webhook of a breach (MONITORING_WEBHOOK_URL)")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("step").setLevel(logging.INFO)
    # SQLAlchemy's plans for its own code, at every start.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    hours = options.label_delay_hours
    try:
        as_of = utc(options.as_of)
        if options.days < 1 or options.sample_rows < 1 or min(hours or 0, options.refresh_minutes) < 0:
            raise ValueError("--days and --sample-rows are 1 or more, hours and minutes are not negative")
    except ValueError as error:
        parser.error(str(error))
    from mlflow.exceptions import MlflowException

    try:
        delay = label_delay() if hours is None else timedelta(hours=hours)
        alerts = None if options.no_alert else alert_settings()
        if options.url == OFF:
            raise LogUnusable("SERVING_PREDICTION_LOG is off, so there is nothing to monitor. Give --url, or unset it.")
        engine = open_log(options.url)
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
