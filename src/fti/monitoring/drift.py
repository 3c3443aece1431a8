"""Drift: how far columns as they are served are from what they looked like in training, with a verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from scipy.stats import chi2

from fti.contract.results import Result, Verdict, by_limits
from fti.contract.training_profile import MIN_ROWS, PREDICTION, PROFILE_ARTIFACT, ColumnProfile, psi
from fti.monitoring.logged import Logged

MONITOR = "drift"
# Limits of the population stability index that the field has used since Siddiqi (2006).
INVESTIGATE, BREACH = 0.1, 0.25
# Shares of all features that moved further than BREACH.
DRIFTED_INVESTIGATE, DRIFTED_BREACH = 0.25, 0.5
CONFIDENCE = 0.999  # a window has fifty features: at 95 % some would always seem to drift


def psi_by_chance(expected: ColumnProfile, found: ColumnProfile) -> float:
    """What the index exceeds by chance alone once in 1 / (1 - CONFIDENCE) times, if nothing has changed.

    (1/n + 1/m) times chi-squared with one degree of freedom less than bins (Yurdakul 2018).
    """
    bins = sum(1 for name in expected.counts if expected.counts[name] or found.counts[name])
    return float((1 / found.rows + 1 / expected.rows) * chi2.ppf(CONFIDENCE, max(1, bins - 1)))


@dataclass
class Seen:
    """Counts of what was served, batch by batch: `found` has, by column, how it falls into the bins of `expected`."""

    expected: Mapping[str, ColumnProfile]
    names: Sequence[str]
    rows: int = 0
    found: dict[str, ColumnProfile] = field(default_factory=dict)

    def add(self, served: Logged) -> None:
        columns = served.features.assign(**{PREDICTION: served.predictions})
        self.rows += len(columns)
        for name in (*self.names, PREDICTION):
            if name in self.expected:
                here, before = self.expected[name].of(columns[name]), self.found.get(name)
                self.found[name] = here if before is None else before.and_also(here)


def drift(seen: Seen, subject: str, start: datetime, end: datetime) -> list[Result]:
    """Hold what was served against the version's training profile: a result a feature, and one for them together.

    Whatever is no further from it than some week of training was is healthy. One feature that moved further is to be
    looked at; most of them, or the answers, breach.
    """
    results = [_drifted(name, seen, subject, start, end) for name in (*seen.names, PREDICTION)]
    judged = [one for one in results if one.verdict != "no_data" and one.metric != PREDICTION]
    far = [one for one in judged if one.verdict == "investigate" and (one.value or 0) > BREACH]
    share = len(far) / len(judged) if judged else None
    told = [f"{one.metric} {one.value:.2f}" for one in sorted(judged, key=lambda one: -(one.value or 0))[:5]]
    whole = Result(
        MONITOR, start, end, subject, "drifted_share", share, seen.rows,
        by_limits(share, DRIFTED_INVESTIGATE, DRIFTED_BREACH), details=f"furthest, by PSI: {', '.join(told) or 'none'}",
    )  # fmt: skip
    return [whole, *results]


def _drifted(name: str, seen: Seen, subject: str, start: datetime, end: datetime) -> Result:
    expected, found = seen.expected.get(name), seen.found.get(name)
    if expected is None or found is None or not expected.rows or seen.rows < MIN_ROWS:
        lacking = f"fewer than {MIN_ROWS} rows" if expected else "training has no profile of it"
        return Result(MONITOR, start, end, subject, name, None, seen.rows, "no_data", details=lacking)
    index, chance = psi(expected, found), psi_by_chance(expected, found)
    usual = expected.usual or 0.0
    verdict: Verdict = by_limits(index, INVESTIGATE, BREACH) if index > max(chance, usual) else "healthy"
    if verdict == "breach" and name != PREDICTION:
        verdict = "investigate"
    moved = {key: found.counts[key] / found.rows - expected.counts[key] / expected.rows for key in expected.counts}
    told = [f"{key} {share:+.0%}" for key, share in sorted(moved.items(), key=lambda item: -abs(item[1]))[:2]]
    told += [f"no week of training was further than {usual:.2f}"] if expected.usual is not None else []
    return Result(MONITOR, start, end, subject, name, index, seen.rows, verdict, 0.0, chance, "; ".join(told))


def training_profile(run_id: str) -> dict[str, ColumnProfile]:
    """What training recorded of the columns of a run's model."""
    from mlflow.artifacts import load_text

    recorded = json.loads(load_text(f"runs:/{run_id}/{PROFILE_ARTIFACT}"))
    return {name: ColumnProfile.model_validate(found) for name, found in recorded.items()}
