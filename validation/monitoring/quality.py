"""Quality: logged predictions and the labels known by a moment in; how good the answers were, with a verdict, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from validation.contract import FeatureInterface
from validation.metrics import intervals, scores, slice_scores
from validation.monitoring.logged import Logged
from validation.monitoring.results import Result, Verdict
from validation.spine import KNOWN_AT, PREDICTION_TIME, row_key_of, rows_due, view_rows

if TYPE_CHECKING:
    from feast import FeatureStore

MONITOR = "quality"
MIN_ROWS, MIN_COVERAGE = 200, 0.8
MIN_DAYS = 5  # of fewer, hours are drawn, which says nothing of how days differ
# Allowed where days are not drawn: of 21 quiet days of October 2013 the worst was 0.18 below training's AUC, and the
# means of two were 0.11 and 0.12 from the base rate.
ODD_DAYS = 0.15
RESAMPLES, CONFIDENCE, SEED = 200, 0.95, 2013
# How much worse than in training's validation, beyond chance: AUC lost, distance of the mean from the base rate.
AUC_INVESTIGATE, AUC_BREACH = 0.02, 0.05
BIAS_INVESTIGATE, BIAS_BREACH = 0.02, 0.05
SLICE_ROWS = 100


def labels_of(store: FeatureStore, served: Logged, known_by: datetime) -> pd.Series:
    """The label of each prediction that is known by then, NaN for others.

    A batch has logged the row key. The request of an online prediction is looked for in the spine: by all of its
    fields, and where two rows of the spine have them, neither is taken.
    """
    interface = served.contract.interface
    row_key, keys = row_key_of(store, interface), served.row_keys.astype(object)
    if (unnamed := keys.isna()).any():
        keys = keys.mask(unnamed, _row_keys(store, interface, served.requests[unnamed], row_key))
    # What happened is not known before it was asked about.
    known = view_rows(store, interface.label_view, known_by, since=served.requests[PREDICTION_TIME].min())
    known = known.sort_values(KNOWN_AT).drop_duplicates(row_key, keep="last").set_index(row_key)
    return keys.map(known[interface.label].astype("float64")).astype("float64")


def _row_keys(store: FeatureStore, interface: FeatureInterface, requests: pd.DataFrame, row_key: str) -> pd.Series:
    lead, fields = timedelta(minutes=interface.prediction_lead_minutes), [one.name for one in interface.request_fields]
    anchors = requests[interface.prediction_anchor].dropna()
    if anchors.empty:
        return pd.Series(None, requests.index, dtype=object)
    first, last = anchors.min().to_pydatetime() - lead, anchors.max().to_pydatetime() - lead
    spine = rows_due(store, interface, first, last + timedelta(microseconds=1))
    ids = [pd.MultiIndex.from_frame(frame[fields].astype(object).where(frame[fields].notna(), None).astype(str))
           for frame in (spine, requests)]  # fmt: skip
    keys = pd.Series(spine[row_key].to_numpy(), ids[0], dtype=object)
    keys = keys[~keys.index.duplicated(keep=False)]
    return pd.Series(keys.reindex(ids[1]).to_numpy(), requests.index, dtype=object)


def quality(
    served: Logged, labels: pd.Series, reference_auc: float | None, slices: Mapping[str, Sequence[float]],
    start: datetime, end: datetime,
) -> list[Result]:  # fmt: skip
    """Scores of the interval, of each of its days and of each slice. Only the interval's own bear a verdict: a day's
    weather can spoil a day.

    `reference_auc` is what the version had on training's validation rows. Predictions of one row at several moments
    are all counted.
    """
    results = _scored(served, labels, reference_auc, start, end)
    for day in pd.date_range(start, end, freq="D", inclusive="left"):
        first, last = day.to_pydatetime(), min(day.to_pydatetime() + timedelta(days=1), end)
        mine = served.requests[PREDICTION_TIME].between(first, last, inclusive="left")
        if mine.any() and (first, last) != (start, end):
            of_day = _scored(served.only(mine), labels[mine].reset_index(drop=True), reference_auc, first, last)
            results += [replace(result, verdict=None) for result in of_day]
    known = labels.notna()
    if known.sum() >= MIN_ROWS:
        inputs, outcomes = served.features[known].reset_index(drop=True), labels[known].reset_index(drop=True)
        found = slice_scores(inputs, slices, outcomes.astype("int64"), served.probabilities[known].to_numpy())
        for row in found[found.rows >= SLICE_ROWS].to_dict("records"):
            name = f"roc_auc[{row['slice']}={row['group']}]"
            auc = None if pd.isna(row["roc_auc"]) else float(row["roc_auc"])
            results.append(Result(MONITOR, start, end, served.subject, name, auc, int(row["rows"]), None))
    return results


def _scored(
    served: Logged, labels: pd.Series, reference_auc: float | None, start: datetime, end: datetime
) -> list[Result]:
    known = labels.notna()
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
    outcomes, forecast = labels[known].to_numpy(dtype="int64"), served.probabilities[known].to_numpy()
    found = scores(pd.Series(outcomes), forecast)
    found["bias"] = float(forecast.mean() - outcomes.mean())
    # Flights of an hour share its weather, and those of a day more so: days, where there are enough to draw from.
    moments = served.requests[PREDICTION_TIME][known]
    of_days = moments.dt.floor("D").nunique() >= MIN_DAYS
    blocks = moments.dt.floor("D" if of_days else "h").to_numpy()
    odd = 0.0 if of_days else ODD_DAYS
    bounds = intervals(
        outcomes, forecast, blocks, ["roc_auc", "log_loss", "brier", "bias"], RESAMPLES, CONFIDENCE, SEED
    )
    for metric in ("roc_auc", "log_loss", "brier", "calibration_error", "base_rate", "bias"):
        verdict: Verdict = "healthy"
        words = ""
        if metric == "roc_auc" and reference_auc is not None and metric in bounds:
            verdict = _beyond(reference_auc - bounds[metric][1], AUC_INVESTIGATE, AUC_BREACH + odd)
            words = f"in training's validation it was {reference_auc:.3f}"
        if metric == "bias" and metric in bounds:
            low, high = bounds[metric]
            verdict = _beyond(max(low, -high), BIAS_INVESTIGATE, BIAS_BREACH + odd)
            words = f"mean forecast {forecast.mean():.3f}, base rate {outcomes.mean():.3f}"
        results.append(result(metric, found.get(metric), verdict, words, bounds.get(metric)))
    return results


def _beyond(worse: float, investigate: float, breach: float) -> Verdict:
    """The verdict on how much worse something is even at the better end of its interval."""
    if not np.isfinite(worse):
        return "no_data"
    return "breach" if worse > breach else "investigate" if worse > investigate else "healthy"
