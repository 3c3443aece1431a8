"""The gate: scores of a challenger and a champion in; a decision, rule by rule, out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime

from training.config import GateRules

DECISION_TAG, AGAINST_TAG, REASONS_TAG = "gate.decision", "gate.against", "gate.reasons"


@dataclass(frozen=True)
class Rule:
    """One rule of the gate. `observed` is None when a score it needs is missing, and then it fails."""

    name: str
    observed: float | None
    required: str
    passed: bool

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
    rules: list[Rule] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(rule.passed for rule in self.rules)

    @property
    def reasons(self) -> str:
        return "; ".join(str(rule) for rule in self.rules if not rule.passed) or "every rule passed"


def decide(
    rules: GateRules, challenger: dict[str, float], reference_roc_auc: float | None, champion: dict[str, float] | None
) -> list[Rule]:
    """Apply every rule; those that need a champion only when there is one. A missing or infinite score fails."""

    def rule(name: str, observed: float | None, limit: float, at_least: bool) -> Rule:
        passed = False
        if observed is not None and math.isfinite(observed):
            passed = observed >= limit if at_least else observed <= limit
        return Rule(name, observed, f"{'at least' if at_least else 'at most'} {limit:g}", passed)

    def less(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one - other

    auc, brier = challenger.get("roc_auc"), challenger.get("brier")
    found = [
        rule("roc_auc", auc, rules.min_roc_auc, True),
        rule("calibration_error", challenger.get("calibration_error"), rules.max_calibration_error, False),
        rule("gain_over_request_features", less(auc, reference_roc_auc), rules.min_gain_over_request_features, True),
    ]
    if champion is not None:
        found += [
            rule("roc_auc_regression", less(champion.get("roc_auc"), auc), rules.max_roc_auc_regression, False),
            rule("brier_regression", less(brier, champion.get("brier")), rules.max_brier_regression, False),
        ]
    return found
