"""The gate: scores of a challenger and a champion in; a decision, rule by rule, out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

import pandas as pd

from fti.contract.metrics import Difference
from fti.contract.registered import EVERY_RULE
from fti.training.config import GateRules, MetricRule


@dataclass(frozen=True)
class Rule:
    """One rule of the gate. `observed` is None when a score it needs is missing, and then it fails."""

    name: str
    observed: float | None
    required: str
    passed: bool
    of_slice: bool = False
    better: Literal["higher", "lower"] = "higher"

    def __str__(self) -> str:
        observed = "missing" if self.observed is None else f"{self.observed:.4f}"
        return f"{self.name} is {observed}, required {self.required}"


@dataclass(frozen=True)
class Decision:
    """What the gate decided about a version, on which rows, and why. `champion` is None for a first release."""

    challenger: str
    champion: str | None
    start: datetime
    end: datetime
    challenger_scores: dict[str, float]
    champion_scores: dict[str, float] | None
    differences: dict[str, Difference] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(rule.passed for rule in self.rules)

    @property
    def reasons(self) -> str:
        return "; ".join(str(rule) for rule in self.rules if not rule.passed) or EVERY_RULE


def decide(
    rules: GateRules,
    challenger: Mapping[str, float],
    slices: pd.DataFrame,
    champion: Mapping[str, float] | None = None,
    differences: Mapping[str, Difference] | None = None,
) -> list[Rule]:
    """Apply every rule: limits and slices always, regressions when there is a champion. A missing score fails.

    `differences` are challenger less champion. A regression is allowed only when the whole interval lies within
    `max_regression`: what the validation rows are too few to tell does not pass.
    """
    found = [
        _limit(name, challenger.get(name), rule.limit, rule.better)
        for name, rule in rules.metrics.items()
        if rule.limit is not None
    ]
    large = slices[slices.rows >= rules.slices.min_rows]
    metric = rules.slices.metric
    for row in large.to_dict("records"):
        named = f"{metric}[{row['slice']}={row['group']}]"
        # Of slices that the task's scores know nothing of, as of a probability's RMSE, the score is missing: it fails.
        found.append(replace(_limit(named, row.get(metric), rules.slices.limit, rules.slices.better), of_slice=True))
    if champion is not None:
        found += [
            _regression(name, rule, (differences or {}).get(name), rules.bootstrap.confidence)
            for name, rule in rules.metrics.items()
            if rule.max_regression is not None
        ]
    return found


def _limit(name: str, observed: float | None, limit: float, better: Literal["higher", "lower"]) -> Rule:
    passed = False
    if observed is not None and math.isfinite(observed):
        passed = observed >= limit if better == "higher" else observed <= limit
    else:
        observed = None
    return Rule(name, observed, f"at {'least' if better == 'higher' else 'most'} {limit:g}", passed, better=better)


def _regression(name: str, rule: MetricRule, difference: Difference | None, confidence: float) -> Rule:
    """How much worse the challenger is than the champion, at worst."""
    assert rule.max_regression is not None
    required = f"at most {rule.max_regression:g} with {confidence:.0%} confidence"
    if difference is None or not math.isfinite(difference.value):
        return Rule(f"{name}_regression", None, required, False)
    worst = -difference.low if rule.better == "higher" else difference.high
    return Rule(f"{name}_regression", worst, required, worst <= rule.max_regression)
