"""What the monitors find in the predictions of one version in one role: its predictions, read once, in; results out."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from fti.contract.registered import ABSENT
from fti.contract.results import Result
from fti.contract.spine import PREDICTION_TIME
from fti.errors import one_line
from fti.monitoring.consistency import consistency
from fti.monitoring.logged import Logged, Predictions, together
from fti.monitoring.sample import Sample
from fti.steps import step

if TYPE_CHECKING:
    from feast import FeatureStore
    from mlflow.exceptions import MlflowException

    from fti.monitoring.drift import Seen

VALIDATION = "validation_"  # how the names of those scores begin
AHEAD = ", asked ahead"
Window = tuple[datetime, datetime]
Training = tuple[dict[str, float], dict[str, Any]]  # scores by name, and the slices it was judged by


def of_predictions(
    store: FeatureStore, predictions: Predictions, recent: Window, mature: Window, sample_rows: int,
    allowance: timedelta,
) -> list[Result]:  # fmt: skip
    """Look at what one version predicted in one role, once: at its recent rows, and at those whose outcomes are known.

    `recent` reaches to the moment that outcomes are known by.
    """
    from fti.monitoring.drift import drift

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
    if found.on_time:
        with step(f"drift of {subject}") as report:
            if isinstance(found.seen, str):
                results.append(not_judged("drift", subject, *recent, found.on_time, found.seen))
            else:
                results += drift(found.seen, subject, *recent)
            report.update(rows=found.on_time)
    if found.mature:
        results += _of_what_became(store, found.mature, found.training, mature, recent[1])
    return results


def not_judged(which: str, subject: str, start: datetime, end: datetime, rows: int, why: str) -> Result:
    """The result of a monitor that lacks what it would judge by: a version or a run that was deleted."""
    return Result(which, start, end, subject, "registered", None, rows, "investigate", details=f"Not judged: {why}.")


class _Found:
    """What is kept of predictions that are read batch by batch: a sample, counts, and what scores need of each row."""

    def __init__(self, predictions: Predictions, sample_rows: int) -> None:
        self._run_id = predictions.run_id
        self._inputs = [one.name for one in predictions.contract.interface.inputs]
        self.recent, self.on_time, self.sample = 0, 0, Sample(sample_rows)
        self.mature: list[Logged] = []

    @cached_property
    def seen(self) -> Seen | str:
        """Counts of what was served on time; or why the profile to count by cannot be fetched."""
        from mlflow.exceptions import MlflowException

        from fti.monitoring.drift import Seen, training_profile

        try:
            return Seen(training_profile(self._run_id), self._inputs)
        except (MlflowException, OSError) as error:
            return _of_run(self._run_id, error)

    @cached_property
    def training(self) -> Training | str:
        """What training says of the version; or why it cannot be fetched."""
        from mlflow.exceptions import MlflowException

        try:
            return _training_of(self._run_id)
        except (MlflowException, OSError) as error:
            return _of_run(self._run_id, error)

    def add_recent(self, served: Logged) -> None:
        self.recent += len(served.requests)
        self.sample.add(served)
        on_time = ~served.ahead
        if on_time.any():
            self.on_time += int(on_time.sum())
            if not isinstance(self.seen, str):
                self.seen.add(served.only(on_time))

    def add_mature(self, served: Logged) -> None:
        """Of its features, only those that slices are cut by are needed."""
        slices = {} if isinstance(self.training, str) else self.training[1]
        cut = [name for name in self._inputs if name in slices]
        self.mature.append(replace(served, features=served.features[cut], ages=served.ages[[]]))


def _of_what_became(
    store: FeatureStore, batches: list[Logged], training: Training | str, window: Window, known_by: datetime
) -> list[Result]:
    """Score predictions whose outcomes are known. Takes the batches out of the list, so that their requests can go."""
    from fti.monitoring.outcomes import Outcomes
    from fti.monitoring.quality import quality

    with step(f"quality of {batches[0].subject}") as report:
        outcomes, anchor = Outcomes(store, batches, known_by), batches[0].contract.interface.prediction_anchor
        known: list[pd.Series] = []
        scored: list[Logged] = []
        results: list[Result] = []
        while batches:
            batch = batches.pop(0)
            known.append(outcomes.of(batch))
            scored.append(replace(batch, requests=batch.requests[[anchor, PREDICTION_TIME]]))
        del outcomes
        served, labels = together(scored), pd.concat(known, ignore_index=True)
        report.update(rows=len(labels), labelled=int(labels.notna().sum()))
        for rows, what in ((~served.ahead, ""), (served.ahead, AHEAD)):
            if rows.any():
                mine, theirs = served.only(rows), labels[rows].reset_index(drop=True)
                if isinstance(training, str):
                    found = [not_judged("quality", served.subject, *window, len(theirs), training)]
                else:
                    found = quality(mine, theirs, *training, *window)
                # What is asked a day ahead is not what the model was fitted to: scores, but no verdict.
                results += [replace(one, subject=one.subject + what, verdict=None) for one in found] if what else found
        return results


def _of_run(run_id: str, error: MlflowException | OSError) -> str:
    """Why nothing can be said of the training run of a version. Raises the error when the server did not answer."""
    if not isinstance(error, OSError) and error.error_code not in ABSENT:
        raise error
    return f"its training run {run_id} cannot be fetched: {one_line(error)}"


def _training_of(run_id: str) -> Training:
    """The scores of a run's model on its validation rows, by name, and the slices it was judged by."""
    from mlflow import MlflowClient
    from mlflow.artifacts import load_text

    config = json.loads(load_text(f"runs:/{run_id}/training_config.json"))
    metrics = MlflowClient().get_run(run_id).data.metrics
    of_validation = {
        name.removeprefix(VALIDATION): value for name, value in metrics.items() if name.startswith(VALIDATION)
    }
    return of_validation, config["slices"]
