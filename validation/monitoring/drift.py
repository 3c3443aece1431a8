"""Drift: what columns looked like in training, in few numbers, and how far those served look otherwise.

A frame in; its profile, or its distance from a profile with a verdict, out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict
from scipy.stats import chi2

from validation.monitoring.logged import Logged
from validation.monitoring.results import Result, Verdict, by_limits

MONITOR = "drift"
PROFILE_ARTIFACT = "training_profile.json"
PREDICTION = "prediction"  # the column of a profile that holds what the model said of rows it was not fitted to
# Limits of the population stability index that the field has used since Siddiqi (2006).
INVESTIGATE, BREACH = 0.1, 0.25
# Shares of all features that moved further than BREACH.
DRIFTED_INVESTIGATE, DRIFTED_BREACH = 0.25, 0.5
CONFIDENCE = 0.999  # a window has fifty features: at 95 % some would always seem to drift
MIN_ROWS = 200
EMPTY = 0.5  # rows that a bin without any is taken to have, for a logarithm needs some
BINS = 10
WEEK = timedelta(days=7)
TEXTS = 50  # the most frequent texts have a bin each, all others share one
MISSING, OTHER = "missing", "other"


class ColumnProfile(BaseModel):
    """How many rows fall into each bin of a column.

    A number column has `edges`: bin i holds edges[i] <= value < edges[i + 1], the outer edges are infinite and left
    out. A text column has a bin for each frequent text and one for all OTHER. Both have one for what is MISSING.

    `usual` is how far the furthest week that the model was fitted to is from the profile, by PSI: temperatures and
    rates of a month are always far from those of a year, and that alone is no drift. The furthest, not a quantile: a
    year has so few weeks that any would find drift in what the model was fitted to. None: it was not recorded.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    edges: list[float] | None
    counts: dict[str, int]
    usual: float | None = None

    @property
    def rows(self) -> int:
        return sum(self.counts.values())

    def of(self, values: pd.Series) -> ColumnProfile:
        """Other values of the column in the same bins."""
        return self._with(np.bincount(self._bins(values), minlength=len(self.counts)))

    def with_usual(self, values: pd.Series, moments: pd.Series) -> ColumnProfile:
        """The same with `usual`, of those weeks of the values that have MIN_ROWS."""
        weeks = ((moments - moments.min()) // WEEK).to_numpy()
        size = len(self.counts)
        counts = np.bincount(weeks * size + self._bins(values), minlength=(weeks.max() + 1) * size).reshape(-1, size)
        far = [psi(self, self._with(week)) for week in counts if week.sum() >= MIN_ROWS]
        return self.model_copy(update={"usual": max(far, default=None)})

    def _with(self, counts: np.ndarray) -> ColumnProfile:
        return ColumnProfile(edges=self.edges, counts=dict(zip(self.counts, counts.tolist(), strict=True)))

    def _bins(self, values: pd.Series) -> np.ndarray:
        """The number of each value's bin, in the order of `counts`, whose last are OTHER, of texts, and MISSING."""
        missing = len(self.counts) - 1
        if self.edges is None:
            known = pd.Categorical(values.astype(str), categories=[*self.counts][:-2]).codes.astype("int64")
            found = np.where(known < 0, missing - 1, known)
        else:
            found = np.searchsorted(self.edges, values.astype("float64"), side="right")
        return np.where(values.isna(), missing, found)


def profile(frame: pd.DataFrame, moments: pd.Series | None = None) -> dict[str, ColumnProfile]:
    """The profile of each column: numbers in bins of equally many rows, as far as ties allow, texts by frequency.

    With the `moments` of the rows, it says how far their weeks are from the whole.
    """
    found = {str(name): _profile(frame[name]) for name in frame}
    if moments is None:
        return found
    return {name: one.with_usual(frame[name], moments) for name, one in found.items()}


def _profile(values: pd.Series) -> ColumnProfile:
    if pd.api.types.is_numeric_dtype(values):
        known = values.dropna().astype("float64")
        inner = np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]) if len(known) else np.array([])
        edges: list[float] | None = sorted({float(edge) for edge in inner if edge > known.min()})
        if not edges and len(known):  # nearly all are the least: what is less, and what is more, is told apart
            least = float(known.min())
            edges = [
                least,
                float(known[known > least].min()) if known.max() > least else float(np.nextafter(least, np.inf)),
            ]
        counts = dict.fromkeys([*_names(edges or []), MISSING], 0)
    else:
        edges = None
        frequent = values.dropna().astype(str).value_counts().head(TEXTS).index
        counts = dict.fromkeys([*frequent.difference([OTHER, MISSING], sort=False), OTHER, MISSING], 0)
    return ColumnProfile(edges=edges, counts=counts).of(values)


def _names(edges: list[float]) -> list[str]:
    whole = ["-inf", *(f"{edge:g}" for edge in edges), "inf"]
    return [f"{number}: {low} to {high}" for number, (low, high) in enumerate(pairwise(whole))]


def psi(expected: ColumnProfile, found: ColumnProfile) -> float:
    """Population stability index: the sum over bins of (q - p) ln(q / p), of shares p expected and q found."""
    p, q = (_shares(one, expected) for one in (expected, found))
    return float(((q - p) * np.log(q / p)).sum())


def psi_by_chance(expected: ColumnProfile, found: ColumnProfile) -> float:
    """What the index exceeds by chance alone once in 1 / (1 - CONFIDENCE) times, if nothing has changed.

    (1/n + 1/m) times chi-squared with one degree of freedom less than bins (Yurdakul 2018).
    """
    bins = sum(1 for name in expected.counts if expected.counts[name] or found.counts[name])
    return float((1 / found.rows + 1 / expected.rows) * chi2.ppf(CONFIDENCE, max(1, bins - 1)))


def _shares(one: ColumnProfile, like: ColumnProfile) -> np.ndarray:
    counts = np.array([one.counts[name] for name in like.counts], dtype="float64")
    counts[counts == 0] = EMPTY
    return counts / counts.sum()


def drift(expected: Mapping[str, ColumnProfile], served: Logged, start: datetime, end: datetime) -> list[Result]:
    """Hold what was served against the version's training profile: a result a feature, and one for them together.

    Whatever is no further from it than some week of training was is healthy. One feature that moved further is to be
    looked at; most of them, or the answers, breach.
    """
    columns = served.features.assign(**{PREDICTION: served.predictions})
    results = [
        _drifted(str(name), expected.get(str(name)), columns[name], served.subject, start, end)
        for name in [*served.features, PREDICTION]
    ]
    judged = [one for one in results if one.verdict != "no_data" and one.metric != PREDICTION]
    far = [one for one in judged if one.verdict == "investigate" and (one.value or 0) > BREACH]
    share = len(far) / len(judged) if judged else None
    told = [f"{one.metric} {one.value:.2f}" for one in sorted(judged, key=lambda one: -(one.value or 0))[:5]]
    whole = Result(
        MONITOR, start, end, served.subject, "drifted_share", share, len(columns),
        by_limits(share, DRIFTED_INVESTIGATE, DRIFTED_BREACH), details=f"furthest, by PSI: {', '.join(told) or 'none'}",
    )  # fmt: skip
    return [whole, *results]


def _drifted(
    name: str, expected: ColumnProfile | None, values: pd.Series, subject: str, start: datetime, end: datetime
) -> Result:
    if expected is None or not expected.rows or len(values) < MIN_ROWS:
        lacking = f"fewer than {MIN_ROWS} rows" if expected else "training has no profile of it"
        return Result(MONITOR, start, end, subject, name, None, len(values), "no_data", details=lacking)
    found = expected.of(values)
    index, chance = psi(expected, found), psi_by_chance(expected, found)
    usual = expected.usual or 0.0
    verdict: Verdict = by_limits(index, INVESTIGATE, BREACH) if index > max(chance, usual) else "healthy"
    if verdict == "breach" and name != PREDICTION:
        verdict = "investigate"
    moved = {key: found.counts[key] / found.rows - expected.counts[key] / expected.rows for key in expected.counts}
    told = [f"{key} {share:+.0%}" for key, share in sorted(moved.items(), key=lambda item: -abs(item[1]))[:2]]
    told += [f"no week of training was further than {usual:.2f}"] if expected.usual is not None else []
    return Result(MONITOR, start, end, subject, name, index, len(values), verdict, 0.0, chance, "; ".join(told))


def training_profile(run_id: str) -> dict[str, ColumnProfile]:
    """What training recorded of the columns of a run's model."""
    from mlflow.artifacts import load_text

    recorded = json.loads(load_text(f"runs:/{run_id}/{PROFILE_ARTIFACT}"))
    return {name: ColumnProfile.model_validate(found) for name, found in recorded.items()}
