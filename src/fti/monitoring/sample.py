"""A sample of predictions to replay: batches of them in; about so many, chosen by what they asked, out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from fti.contract.spine import PREDICTION_TIME
from fti.monitoring.logged import Logged, together

SAMPLE_ROWS = 20_000


class Sample:
    """About `rows` of the predictions: requests are chosen by their hash, at whatever moments they were asked.

    A request that was repeated counts once for each answer: its values may have been wrong at one time and right at
    another. The more there are, the smaller is the share that is chosen, so what was left out never comes back: batches
    need be looked at only once.
    """

    def __init__(self, rows: int = SAMPLE_ROWS) -> None:
        self._rows, self._distinct = rows, 0
        self._kept: list[tuple[Logged, np.ndarray]] = []  # with the hash of each request
        self._views: list[str] = []
        # Two predictions of one moment are in one batch, or in two that follow one another.
        self._moment, self._of_moment = pd.NaT, np.array([], dtype="uint64")

    def add(self, served: Logged) -> None:
        """Take a batch into account, no earlier than those before it."""
        once, requests = self._once(served), _request_hashes(served)
        self._distinct += int(once.sum())
        self._views = [*served.ages] or self._views
        chosen = once & (requests < self._bound)
        self._kept.append((served.only(pd.Series(chosen)), requests[chosen]))
        if sum(len(hashes) for _, hashes in self._kept) > 2 * self._rows:
            self._kept = [self._chosen()]

    def taken(self) -> Logged:
        """The sample of all batches, of which there must be one."""
        served, _ = self._chosen()
        return replace(served, ages=served.ages.reindex(columns=self._views))

    @property
    def _bound(self) -> float:
        return min(1.0, self._rows / max(1, self._distinct)) * 2.0**64

    def _chosen(self) -> tuple[Logged, np.ndarray]:
        served, requests = together([one for one, _ in self._kept]), np.concatenate([one for _, one in self._kept])
        chosen = requests < self._bound
        return served.only(pd.Series(chosen)), requests[chosen]

    def _once(self, served: Logged) -> np.ndarray:
        """Which are the first with their moment, their request and their features."""
        moments = served.requests[PREDICTION_TIME]
        whole = pd.concat([served.requests.add_prefix("asked:"), served.features.add_prefix("served:")], axis=1)
        hashes = pd.util.hash_pandas_object(whole, index=False).to_numpy()
        once: np.ndarray = ~pd.Series(hashes).duplicated().to_numpy() & ~np.isin(hashes, self._of_moment)
        if moments.iloc[-1] != self._moment:
            self._of_moment = self._of_moment[:0]
        self._moment = moments.iloc[-1]
        self._of_moment = np.union1d(self._of_moment, hashes[(moments == self._moment).to_numpy()])
        return once


def _request_hashes(served: Logged) -> np.ndarray:
    """A hash of each request's fields, as text."""
    fields = served.requests.drop(columns=PREDICTION_TIME)
    texts = pd.DataFrame({name: _as_text(values) for name, values in fields.items()})
    return pd.util.hash_pandas_object(texts, index=False).to_numpy()


def _as_text(values: pd.Series) -> np.ndarray:
    """What `astype(str)` says of each value. Equal ones, of which there are many, are written once."""
    codes, known = pd.factorize(values)
    texts = [*pd.Series(known).astype(str), *values[values.isna()].head(1).astype(str)]
    return np.array(texts, dtype=object)[codes]  # of a missing value -1, and so the last
