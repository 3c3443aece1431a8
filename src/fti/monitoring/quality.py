"""Quality: logged predictions and the labels known by a moment in; how good the answers were, with a verdict, out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from fti.contract.metrics import HEADLINE, intervals, scores, slice_scores
from fti.contract.results import Result, Verdict
from fti.contract.spine import PREDICTION_TIME
from fti.contract.task import CLASSIFICATION, LABEL_DTYPE, Task
from fti.errors import few
from fti.monitoring.logged import Logged

MONITOR = "quality"
MIN_ROWS, MIN_COVERAGE = 200, 0.8
MIN_DAYS = 5  # of fewer, hours are drawn, which says nothing of how days differ
# Allowed where days are not drawn: of 21 quiet days of October 2013 the worst was 0.18 below training's AUC, and the
# means of two were 0.11 and 0.12 from the base rate. Of the minutes of the delay, the worst of 88 days of spring had an
# RMSE half again as high as training's, and a mean that was 0.57 spreads off.
ODD_DAYS: dict[Task, float] = {"classification": 0.15, "regression": 0.35}
RESAMPLES, CONFIDENCE, SEED = 200, 0.95, 2013
SLICE_ROWS = 100


@dataclass(frozen=True)
class Rule:
    """How a score is judged: `worse` says by how much it is worse than what was expected, at the better end of what
    chance explains, given that interval and the scores in training's validation; None: there is nothing to compare, and
    no verdict."""

    worse: Callable[[tuple[float, float], Mapping[str, float]], float | None]
    investigate: float
    breach: float


def _lost(metric: str) -> Callable[[tuple[float, float], Mapping[str, float]], float | None]:
    """What of a score that is good when high is lost."""
    return lambda bounds, before: before[metric] - bounds[1] if metric in before else None


def _added(metric: str) -> Callable[[tuple[float, float], Mapping[str, float]], float | None]:
    """What is added to an error, as a share of what it was."""
    return lambda bounds, before: bounds[0] / before[metric] - 1 if before.get(metric) else None


def _off(bounds: tuple[float, float], _: Mapping[str, float]) -> float:
    """How far the mean forecast is from the mean outcome."""
    return max(bounds[0], -bounds[1])


def _off_by_spread(bounds: tuple[float, float], before: Mapping[str, float]) -> float | None:
    """The same in standard deviations of the label: minutes and bikes have no limit in common."""
    return _off(bounds, before) / before["label_std"] if before.get("label_std") else None


# What is told of a window, in this order; which of it has an interval; and what bears a verdict.
METRICS: dict[Task, tuple[str, ...]] = {
    "classification": ("roc_auc", "log_loss", "brier", "calibration_error", "base_rate", "bias"),
    "regression": ("rmse", "mae", "r2", "mean_label", "bias"),
}
BOUNDED: dict[Task, tuple[str, ...]] = {
    "classification": ("roc_auc", "log_loss", "brier", "bias"),
    "regression": ("rmse", "mae", "r2", "bias"),
}
RULES: dict[Task, dict[str, Rule]] = {
    "classification": {"roc_auc": Rule(_lost("roc_auc"), 0.02, 0.05), "bias": Rule(_off, 0.02, 0.05)},
    "regression": {
        "rmse": Rule(_added("rmse"), 0.1, 0.25),
        "mae": Rule(_added("mae"), 0.1, 0.25),
        "bias": Rule(_off_by_spread, 0.1, 0.25),
    },
}


def quality(
    served: Logged, labels: pd.Series, before: Mapping[str, float], slices: Mapping[str, Sequence[float]],
    start: datetime, end: datetime,
) -> list[Result]:  # fmt: skip
    """Scores of the interval, of each of its days and of each slice. Only the interval's own bear a verdict: a day's
    weather can spoil a day.

    `before` are the scores that the version had on training's validation rows, by name. Predictions of one row at
    several moments are all counted.
    """
    task = served.contract.interface.task
    labels, results = _usable(served, labels, start, end)
    results += _scored(served, labels, before, start, end)
    for day in pd.date_range(start, end, freq="D", inclusive="left"):
        first, last = day.to_pydatetime(), min(day.to_pydatetime() + timedelta(days=1), end)
        mine = served.requests[PREDICTION_TIME].between(first, last, inclusive="left")
        if mine.any() and (first, last) != (start, end):
            of_day = _scored(served.only(mine), labels[mine].reset_index(drop=True), before, first, last)
            results += [replace(result, verdict=None) for result in of_day]
    known = labels.notna()
    if known.sum() >= MIN_ROWS:
        inputs, outcomes = served.features[known].reset_index(drop=True), labels[known].reset_index(drop=True)
        forecast, headline = served.predictions[known].to_numpy(), HEADLINE[task]
        found = slice_scores(inputs, slices, outcomes.astype(LABEL_DTYPE[task]), forecast, task)
        for row in found[found.rows >= SLICE_ROWS].to_dict("records"):
            name = f"{headline}[{row['slice']}={row['group']}]"
            score = None if pd.isna(row[headline]) else float(row[headline])
            results.append(Result(MONITOR, start, end, served.subject, name, score, int(row["rows"]), None))
    return results


def _usable(served: Logged, labels: pd.Series, start: datetime, end: datetime) -> tuple[pd.Series, list[Result]]:
    """Return the labels that training would take, and a result that counts the others, if there are any."""
    classified = served.contract.interface.task == CLASSIFICATION
    usable = labels.isna() | (labels.isin((0, 1)) if classified else np.isfinite(labels))
    if usable.all():
        return labels, []
    told = (
        f"Left out are labels such as {few(sorted(labels[~usable].unique()))}; expected "
        f"{'0 or 1' if classified else 'finite numbers'}. Correct them at the source, and publish again."
    )
    count, subject = int((~usable).sum()), served.subject
    found = Result(MONITOR, start, end, subject, "unusable_labels", count, len(labels), "investigate", details=told)
    return labels.where(usable), [found]


def _scored(
    served: Logged, labels: pd.Series, before: Mapping[str, float], start: datetime, end: datetime
) -> list[Result]:
    task, known = served.contract.interface.task, labels.notna()
    coverage = float(known.mean()) if len(known) else None
    rows = int(known.sum())
    enough = rows >= MIN_ROWS and coverage is not None and coverage >= MIN_COVERAGE

    def result(metric: str, value: float | None, verdict: Verdict = "healthy", told: str = "",
               bounds: tuple[float, float] | None = None) -> Result:  # fmt: skip
        low, high = bounds or (None, None)
        return Result(
            MONITOR, start, end, served.subject, metric, value, rows, verdict if enough else "no_data", low, high, told
        )

    told = f"of {len(known):,} predictions {rows:,} have a label by now"
    results = [result("label_coverage", coverage, told=told)]
    if not rows:
        return results
    outcomes, forecast = labels[known].to_numpy(dtype=LABEL_DTYPE[task]), served.predictions[known].to_numpy()
    found = scores(pd.Series(outcomes), forecast, task)
    found["bias"] = float(forecast.mean() - outcomes.mean())
    # Flights of an hour share its weather, and those of a day more so: days, where there are enough to draw from.
    moments = served.requests[PREDICTION_TIME][known]
    of_days = moments.dt.floor("D").nunique() >= MIN_DAYS
    blocks = moments.dt.floor("D" if of_days else "h").to_numpy()
    odd = 0.0 if of_days else ODD_DAYS[task]
    bounds = intervals(outcomes, forecast, blocks, BOUNDED[task], RESAMPLES, CONFIDENCE, SEED, task)
    for metric in METRICS[task]:
        verdict: Verdict = "healthy"
        words, rule = "", RULES[task].get(metric)
        worse = rule.worse(bounds[metric], before) if rule and metric in bounds else None
        if rule:
            verdict = "no_data" if worse is None else _beyond(worse, rule.investigate, rule.breach + odd)
            words = f"in training's validation it was {before[metric]:.3f}" if metric in before else ""
        if metric == "bias" and metric in bounds:
            came = "base rate" if task == CLASSIFICATION else "mean outcome"
            words = f"mean forecast {forecast.mean():.3f}, {came} {outcomes.mean():.3f}"
        results.append(result(metric, found.get(metric), verdict, words, bounds.get(metric)))
    return results


def _beyond(worse: float, investigate: float, breach: float) -> Verdict:
    """The verdict on how much worse something is even at the better end of its interval."""
    if not np.isfinite(worse):
        return "no_data"
    return "breach" if worse > breach else "investigate" if worse > investigate else "healthy"
