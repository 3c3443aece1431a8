"""What columns looked like in training, in few numbers: training records it, drift is the distance from it.

A frame in; its profile, or its distance from a profile, out.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

PROFILE_ARTIFACT = "training_profile.json"
PREDICTION = "prediction"  # the column of a profile that holds what the model said of rows it was not fitted to
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

    def and_also(self, other: ColumnProfile) -> ColumnProfile:
        """The rows of both, which have the same bins."""
        return self._with(np.array([*self.counts.values()]) + np.array([*other.counts.values()]))

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


def _shares(one: ColumnProfile, like: ColumnProfile) -> np.ndarray:
    counts = np.array([one.counts[name] for name in like.counts], dtype="float64")
    counts[counts == 0] = EMPTY
    return counts / counts.sum()
