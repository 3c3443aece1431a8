"""Fit a model to a feature service and register it: configuration and feature store in, a challenger version out.

Nothing is registered before all that belongs to the version is logged, so a run that dies leaves no half-made version.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
import pandas as pd
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from sklearn.pipeline import Pipeline

from training.config import ModelParameters, TrainingConfig
from training.dataset import (
    END_OF_TIME,
    PREDICTION_TIME,
    DataMissing,
    LabelledRows,
    labelled_rows,
    pin_versions,
    upcoming_request,
)
from training.metrics import scores
from training.model import TRUSTED_TYPES, build_model
from training.plots import figures
from training.promote import CHALLENGER
from validation.contract import DIGEST_TAG, FILE_NAME, SERVICE_TAG, FeatureContract, FeatureInterface, TrainingSet
from validation.errors import Refusal
from validation.gate import Gate
from validation.steps import step
from validation.suites.training_set import training_suite

PINNED = ("scikit-learn", "skops", "numpy", "pandas")


class UnknownFeatureService(Refusal):
    """The Feast registry has no feature service of that name."""


@dataclass(frozen=True)
class Fitted:
    """A model, and one of the same kind that sees only the request: what the feature store adds is the difference."""

    model: Pipeline
    reference: Pipeline
    reference_inputs: list[str]

    def predict(self, rows: LabelledRows) -> np.ndarray:
        return self.model.predict_proba(rows.inputs)[:, 1]

    def predict_reference(self, rows: LabelledRows) -> np.ndarray:
        return self.reference.predict_proba(rows.inputs[self.reference_inputs])[:, 1]


def fit(rows: LabelledRows, parameters: ModelParameters) -> Fitted:
    """Fit the model and its reference."""
    categories, asked = rows.interface.categories, rows.interface.request_inputs
    inputs, labels = rows.inputs, rows.labels
    return Fitted(
        model=build_model(categories, parameters).fit(inputs, labels),
        reference=build_model(categories, parameters).fit(inputs[asked], labels),
        reference_inputs=asked,
    )


def train(store: FeatureStore, client: MlflowClient, config: TrainingConfig, run_id: str) -> ModelVersion:
    """Build the rows, fit, log everything to the active run, register a version and make it the challenger.

    Raises UnknownFeatureService, DataMissing, and BatchRefused when the training set breaks its suite.
    """
    interface = read_interface(store, config.feature_service)
    versions = pin_versions(store, interface)
    with step("training set") as report:
        known = labelled_rows(store, interface, config.start, config.as_of)
        learn = known.between(config.start, config.fit_end, known_by=config.validation_start)
        judge = known.between(config.validation_start, config.validation_end)
        check(learn, config.feature_service)
        report.update(fit=len(learn), validation=len(judge), as_of=f"{config.as_of:%Y-%m-%dT%H:%MZ}")
    with step("fit") as report:
        fitted = fit(learn, config.model)
        report.update(inputs=len(interface.inputs))
    contract = FeatureContract(
        interface=interface,
        known_values={
            key.name: sorted(learn.frame[key.name].dropna().unique())
            for key in interface.join_keys
            if key.unknown == "reject"
        },
        training_set=TrainingSet(
            as_of=config.as_of,
            start=config.start,
            end=config.fit_end,
            rows=len(learn),
            sha256=learn.sha256,
            delta_versions=versions,
        ),
        example_request=upcoming_request(store, known, config.as_of),
    )
    with step("log"):
        log_run(config, contract, fitted, judge)
        log_holdout(store, interface, config, fitted)
        model_uri = log_model(fitted.model, contract, judge.inputs.head(3))
    with step("register") as report:
        _ensure_registered(client, config.model_name)
        version = client.create_model_version(
            config.model_name,
            source=model_uri,
            run_id=run_id,
            model_id=model_uri.rsplit("/", 1)[-1],
            tags={SERVICE_TAG: config.feature_service, DIGEST_TAG: contract.sha256},
        )
        client.set_registered_model_alias(config.model_name, CHALLENGER, version.version)
        report.update(model=config.model_name, version=version.version)
    return version


def read_interface(store: FeatureStore, feature_service: str) -> FeatureInterface:
    try:
        return FeatureInterface.from_registry(store, feature_service)
    except FeastObjectNotFoundException as error:
        there = ", ".join(sorted(service.name for service in store.list_feature_services())) or "none"
        raise UnknownFeatureService(
            f"No feature service {feature_service!r} in the Feast registry; there are: {there}. "
            "If its definition is new, run `feast -c feature_repo apply`."
        ) from error


def check(rows: LabelledRows, name: str) -> None:
    """Judge the training set by its suite and log the findings. Raises BatchRefused."""
    gate = Gate()
    label, inputs = rows.interface.label, rows.inputs
    frame = inputs.assign(**{rows.row_key: rows.frame[rows.row_key], label: rows.frame[label]})
    outcome = gate.check(frame, training_suite(name, rows.row_key, label, list(inputs.columns)))
    mlflow.log_dict({"findings": [vars(finding) for finding in outcome.findings]}, "training_set_validation.json")
    outcome.require(name)


def log_run(config: TrainingConfig, contract: FeatureContract, fitted: Fitted, judge: LabelledRows) -> None:
    """Log parameters, data, scores and plots to the active run."""
    mlflow.log_params({f"model.{name}": value for name, value in config.model.model_dump().items()})
    mlflow.log_params(
        {"fit_start": config.start, "fit_end": config.fit_end}
        | {"validation_start": config.validation_start, "validation_end": config.validation_end}
    )
    mlflow.set_tags({SERVICE_TAG: config.feature_service, DIGEST_TAG: contract.sha256, "git_commit": git_commit()})
    mlflow.log_dict(json.loads(contract.canonical()), FILE_NAME)
    reference = fitted.predict_reference(judge)
    mlflow.log_metrics(compared(judge.labels, fitted.predict(judge), reference, "validation"))
    for name, figure in figures(fitted.model, judge.inputs, judge.labels, reference, config.model.random_state).items():
        mlflow.log_figure(figure, f"plots/{name}")


def log_holdout(store: FeatureStore, interface: FeatureInterface, config: TrainingConfig, fitted: Fitted) -> None:
    """Score the rows predicted since `as_of` whose outcomes are known by now, whole and month by month.

    Nothing decides on these scores. A run as of the present has no such rows and logs none.
    """
    try:
        rows = labelled_rows(store, interface, config.as_of, END_OF_TIME)
    except DataMissing:
        return
    labels, own, reference = rows.labels, fitted.predict(rows), fitted.predict_reference(rows)
    mlflow.log_metrics(compared(labels, own, reference, "holdout"))
    months = rows.frame[PREDICTION_TIME].dt.strftime("%Y%m")
    for month in sorted(months.unique()):
        mine = (months == month).to_numpy()
        found = compared(labels[mine], own[mine], reference[mine], "holdout_month")
        mlflow.log_metrics(found, step=int(month))


def compared(labels: pd.Series, own: np.ndarray, reference: np.ndarray, prefix: str) -> dict[str, float]:
    """Scores of the model and of its reference: `{prefix}_{metric}` and `{prefix}_reference_{metric}`."""
    return {f"{prefix}_{name}": value for name, value in scores(labels, own).items()} | {
        f"{prefix}_reference_{name}": value for name, value in scores(labels, reference).items()
    }


def log_model(model: Pipeline, contract: FeatureContract, example: pd.DataFrame) -> str:
    """Log the model in the skops format, with its contract beside it; returns its URI."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / FILE_NAME
        file.write_text(contract.canonical())
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(example, model.predict_proba(example)),
            input_example=example,
            pyfunc_predict_fn="predict_proba",
            # Finding requirements by itself takes MLflow 20 s and leaves them loose.
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in PINNED],
            skops_trusted_types=TRUSTED_TYPES,
            extra_files=[str(file)],
            metadata={SERVICE_TAG: contract.interface.feature_service, DIGEST_TAG: contract.sha256},
        )
    return logged.model_uri


def _ensure_registered(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def git_commit() -> str:
    """The commit this code is at, marked when files differ from it; `unknown` outside a git checkout."""
    root = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    if commit.returncode:
        return "unknown"
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False)
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
