"""Judge a challenger: two registered versions in; their scores on the same rows and the gate's decision out.

Each version reads the feature store through its own contract, so models with different features meet on equal terms.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from datetime import datetime

import mlflow
import numpy as np
import pandas as pd
from feast import FeatureStore
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from training.config import GateRules, TrainingConfig
from training.dataset import LabelledRows, labelled_rows, pin_versions
from training.metrics import scores
from validation.contract import FeatureContract, fetch_version
from validation.steps import step

DECISION_TAG, AGAINST_TAG, REASONS_TAG = "gate.decision", "gate.against", "gate.reasons"
REFERENCE_METRIC = "validation_reference_roc_auc"
logger = logging.getLogger("training")


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
    """Apply every rule; those that need a champion only when there is one. A missing or non-finite score fails its rule."""

    def rule(name: str, observed: float | None, limit: float, at_least: bool) -> Rule:
        known = observed is not None and bool(np.isfinite(observed))
        passed = known and (observed >= limit if at_least else observed <= limit)
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


def evaluate(
    store: FeatureStore, client: MlflowClient, config: TrainingConfig, challenger: ModelVersion, champion: ModelVersion | None
) -> Decision:
    """Score both versions on the challenger's validation rows, decide, and write the decision to its run and its tags."""
    contract = fetch_version(challenger)[1]
    start, end = contract.training_set.end + config.label_delay, contract.training_set.as_of - config.label_delay
    with step("evaluate") as report:
        forecast, labels = _forecast(store, challenger, start, end, contract.training_set.as_of)
        champion_scores = None
        if champion is not None and str(champion.version) != str(challenger.version):
            other, other_labels = _forecast(store, champion, start, end, contract.training_set.as_of)
            shared = forecast.index.intersection(other.index)
            forecast, labels, other, other_labels = (part.loc[shared] for part in (forecast, labels, other, other_labels))
            champion_scores = scores(other_labels, other.to_numpy())
        own_scores = scores(labels, forecast.to_numpy())
        report.update(rows=len(labels), challenger=challenger.version, champion=champion and champion.version)
    decision = Decision(
        challenger=str(challenger.version),
        champion=str(champion.version) if champion_scores is not None else None,
        start=start,
        end=end,
        challenger_scores=own_scores,
        champion_scores=champion_scores,
        rules=decide(
            config.gate,
            own_scores,
            client.get_run(challenger.run_id).data.metrics.get(REFERENCE_METRIC),
            champion_scores,
        ),
    )
    client.log_dict(challenger.run_id, asdict(decision) | {"passed": decision.passed}, "gate.json")
    for tag, value in {
        DECISION_TAG: "passed" if decision.passed else "failed",
        AGAINST_TAG: decision.champion or "none",
        REASONS_TAG: decision.reasons,
    }.items():
        client.set_model_version_tag(challenger.name, challenger.version, tag, value)
    return decision


def _forecast(
    store: FeatureStore, version: ModelVersion, start: datetime, end: datetime, as_of: datetime
) -> tuple[pd.Series, pd.Series]:
    """A version's probabilities for the rows predicted in `[start, end)`, and their labels, by row key."""
    folder, contract = fetch_version(version)
    contract.verify(store)
    pin_versions(store, contract.interface)
    rows: LabelledRows = labelled_rows(store, contract.interface, start, as_of).between(start, end)
    keys = rows.frame[rows.row_key]
    model = mlflow.sklearn.load_model(str(folder))
    return pd.Series(model.predict_proba(rows.inputs)[:, 1], index=keys), rows.labels.set_axis(keys)
