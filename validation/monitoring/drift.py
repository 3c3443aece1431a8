"""What columns usually look like, in few numbers: a frame in; a profile to hold another frame against out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

BINS = 10
TEXTS = 50  # the most frequent texts have a bin each, all others share one
MISSING, OTHER = "missing", "other"


class ColumnProfile(BaseModel):
    """How many rows fall into each bin of a column.

    A number column has `edges`: bin i holds edges[i] <= value < edges[i + 1], the outer edges are infinite and left
    out. A text column has a bin for each frequent text and one for all OTHER. Both have one for what is MISSING.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    edges: list[float] | None
    counts: dict[str, int]

    @property
    def rows(self) -> int:
        return sum(self.counts.values())

    def of(self, values: pd.Series) -> ColumnProfile:
        """Other values of the column in the same bins."""
        if self.edges is None:
            texts = values.fillna(MISSING).astype(str)
            binned = texts.where(texts.isin(list(self.counts)), OTHER)
        else:
            binned = _binned(values, self.edges)
        found = binned.value_counts()
        return ColumnProfile(edges=self.edges, counts={name: int(found.get(name, 0)) for name in self.counts})


Profile = Mapping[str, ColumnProfile]


def profile(frame: pd.DataFrame) -> dict[str, ColumnProfile]:
    """The profile of each column: numbers in bins of equally many rows, as far as ties allow, texts by frequency."""
    return {str(name): _profile(frame[name]) for name in frame}


def _profile(values: pd.Series) -> ColumnProfile:
    if pd.api.types.is_numeric_dtype(values):
        known = values.dropna().astype("float64")
        inner = np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]) if len(known) else np.array([])
        edges: list[float] | None = sorted({float(edge) for edge in inner if edge > known.min()})
        counts = dict.fromkeys([*_names(edges or []), MISSING], 0)
    else:
        edges = None
        frequent = values.dropna().astype(str).value_counts().head(TEXTS).index
        counts = dict.fromkeys([*frequent, OTHER, MISSING], 0)
    return ColumnProfile(edges=edges, counts=counts).of(values)


def _names(edges: list[float]) -> list[str]:
    whole = ["-inf", *(f"{edge:g}" for edge in edges), "inf"]
    return [f"{number}: {low} to {high}" for number, (low, high) in enumerate(pairwise(whole))]


def _binned(values: pd.Series, edges: list[float]) -> pd.Series:
    names = np.array(_names(edges), dtype=object)
    found = names[np.searchsorted(edges, values.astype("float64"), side="right")]
    return pd.Series(found, index=values.index).where(values.notna(), MISSING)
