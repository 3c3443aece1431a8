"""Judge a challenger: two registered versions in; their scores on the same rows and the gate's decision out.

Each version reads the feature store through its own contract, so models with different features meet on equal terms.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import mlflow
import pandas as pd
from feast import FeatureStore
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from training.config import TrainingConfig
from training.dataset import LabelledRows, labelled_rows, pin_versions
from training.gate import AGAINST_TAG, DECISION_TAG, REASONS_TAG, Decision, decide
from training.metrics import scores
from validation.contract import fetch_version
from validation.errors import Refusal
from validation.steps import step

REFERENCE_METRIC = "validation_reference_roc_auc"


class NotComparable(Refusal):
    """The two versions cannot be judged on the same rows."""


def evaluate(
    store: FeatureStore,
    client: MlflowClient,
    config: TrainingConfig,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> Decision:
    """Score both versions on the challenger's validation rows, decide, and record it with the challenger.

    Raises NotComparable when the two do not predict the same outcomes.
    """
    contract, run_id = fetch_version(challenger)[1], str(challenger.run_id)
    start, end = contract.training_set.end + config.label_delay, contract.training_set.as_of - config.label_delay
    with step("evaluate") as report:
        forecast, labels = _forecast(store, challenger, start, end, contract.training_set.as_of)
        champion_scores = None
        if champion is not None and str(champion.version) != str(challenger.version):
            other, other_labels = _forecast(store, champion, start, end, contract.training_set.as_of)
            if not labels.equals(other_labels):
                raise NotComparable(
                    f"Versions {challenger.version} and {champion.version} have not the same outcomes for the rows of "
                    f"[{start:%Y-%m-%d}, {end:%Y-%m-%d}): they predict different things. Give one another model_name."
                )
            champion_scores = scores(other_labels, other.to_numpy())
        own_scores = scores(labels, forecast.to_numpy())
        report.update(rows=len(labels), challenger=challenger.version, champion=champion.version if champion else None)
    decision = Decision(
        challenger=str(challenger.version),
        champion=str(champion.version) if champion and champion_scores else None,
        start=start,
        end=end,
        challenger_scores=own_scores,
        champion_scores=champion_scores,
        rules=decide(
            config.gate,
            own_scores,
            client.get_run(run_id).data.metrics.get(REFERENCE_METRIC),
            champion_scores,
        ),
    )
    client.log_dict(run_id, asdict(decision) | {"passed": decision.passed}, "gate.json")
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
