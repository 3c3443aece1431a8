"""Fit a model to a feature service and register it: configuration and feature store in, a challenger version out.

Nothing is registered before all that belongs to the version is logged, so a run that dies leaves no half-made version.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import mlflow
import pandas as pd
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fti.contract.declared_types import require_fitting
from fti.contract.definitions import require_sound
from fti.contract.feature_contract import FeatureContract, TrainingSet
from fti.contract.feature_service import read_interface as read_from_registry
from fti.contract.interface import FeatureInterface
from fti.contract.registered import ABSENT, CAUSE_TAG, DIGEST_TAG, MODEL_DIGEST_TAG, PROJECT_TAG, SERVICE_TAG
from fti.contract.task import forecast
from fti.errors import Refusal
from fti.project import project
from fti.steps import step
from fti.training.baseline import without_stored_features
from fti.training.card import record
from fti.training.config import TrainingConfig
from fti.training.dataset import LabelledRows, labelled_rows, pin_versions, training_sets, upcoming_request
from fti.training.known_services import unknown
from fti.training.leaks import told_alone
from fti.training.promote import make_challenger
from fti.training.run_record import log_dataset, log_holdout, log_model, log_run
from fti.training.search import search
from fti.training.turn import EXISTS
from fti.validation.gate import Gate
from fti.validation.rules import judging_suite, leak_suite, training_suite

MEND = (
    "Nothing was fitted or registered. Mend the features it is made of, or the rule in "
    "validation/training_set.py if that is wrong, and run again."
)
MEND_JUDGES = (
    "Nothing was fitted or registered. These rows would judge the fit: mend their outcomes, or choose another as_of or "
    "more validation_days, and run again."
)


class ModelOfAnother(Refusal):
    """The registered model is another project's."""


def train(
    store: FeatureStore, client: MlflowClient, config: TrainingConfig, run_id: str, cause: str = ""
) -> ModelVersion:
    """Build the rows, fit, log everything to the active run, register a version and make it the challenger.

    Raises ModelOfAnother, UnknownFeatureService, DataMissing, and BatchRefused when the training set breaks its suite.
    """
    _registered(client, config.model_name, store.project)
    mlflow.set_tags({SERVICE_TAG: config.feature_service, "git_commit": git_commit()})
    interface = read_interface(store, config.feature_service)
    versions = pin_versions(store, interface)
    with step("training set") as report:
        known = labelled_rows(store, interface, config.start, config.as_of)
        learn, judge = split(known, config)
        check(learn, judge, config.feature_service)
        log_dataset(learn, training_sets(store, config.feature_service))
        report.update(fit=len(learn), validation=len(judge), as_of=f"{config.as_of:%Y-%m-%dT%H:%MZ}")
    if config.search.trials:
        with step("search") as report:
            config = config.model_copy(update={"model": search(learn, config)})
            report.update(trials=config.search.trials)
    with step("fit") as report:
        model = fit(learn, config)
        report.update(inputs=len(interface.inputs))
    with step("fit references") as report:
        forecasters = {"model": lambda rows: forecast(model, rows.inputs, interface.task)}
        forecasters |= without_stored_features(learn, config.model) | project().references.references(
            learn, config.model
        )
        report.update(references=len(forecasters) - 1)
    contract = FeatureContract(
        interface=interface,
        known_values={
            key.name: known_of(learn.frame[key.name]) for key in interface.join_keys if key.unknown == "reject"
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
        log_run(config, contract, model, forecasters, learn, judge)
        log_holdout(store, interface, config, forecasters)
    with step("log model"):
        model_uri, digest = log_model(model, contract, judge.inputs)
    with step("register") as report:
        _ensure_registered(client, config.model_name, store.project)
        version = client.create_model_version(
            config.model_name,
            source=model_uri,
            run_id=run_id,
            model_id=model_uri.rsplit("/", 1)[-1],
            tags={SERVICE_TAG: config.feature_service, DIGEST_TAG: contract.sha256, MODEL_DIGEST_TAG: digest}
            | ({CAUSE_TAG: cause} if cause else {}),
        )
        make_challenger(client, version)
        report.update(model=config.model_name, version=version.version)
    record(client, version)
    return version


def split(known: LabelledRows, config: TrainingConfig) -> tuple[LabelledRows, LabelledRows]:
    """The rows to fit to, whose outcomes were known when the others begin, and those that judge the fit."""
    return (
        known.between(config.start, config.fit_end, known_by=config.validation_start),
        known.between(config.validation_start, config.validation_end),
    )


def fit(rows: LabelledRows, config: TrainingConfig) -> Any:
    """The model, fitted."""
    return (
        project()
        .model.build_model(rows.interface.categories, config.model, rows.interface.task)
        .fit(rows.inputs, rows.labels)
    )


def known_of(keys: pd.Series) -> list[str] | list[int]:
    """The values of a key, in order; whole numbers also where pandas holds them as floats, for some are missing."""
    known = keys.dropna()
    return sorted((known.astype("int64") if pd.api.types.is_numeric_dtype(known) else known).unique().tolist())


def read_interface(store: FeatureStore, feature_service: str) -> FeatureInterface:
    """Return what a feature service asks, if it can be trained on and served alike.

    Raises UnknownFeatureService, DefinitionUnsound, FieldMistyped.
    """
    try:
        store.get_feature_service(feature_service)
    except FeastObjectNotFoundException as error:
        raise unknown(feature_service, [service.name for service in store.list_feature_services()]) from error
    require_sound(store, [feature_service])
    interface = read_from_registry(store, feature_service)
    views = {view.source for view in interface.stored_views} | {interface.spine_view, interface.label_view}
    require_fitting(store, [store.get_feature_view(name) for name in sorted(views)])
    return interface


def check(learn: LabelledRows, judge: LabelledRows, name: str) -> None:
    """Check the rows to fit to and those that judge the fit by their suites; log the findings. Raises BatchRefused."""
    gate, interface = Gate(), learn.interface
    key, label, task, inputs = learn.row_key, interface.label, interface.task, learn.inputs
    frame = inputs.assign(**{key: learn.frame[key], label: learn.frame[label]})
    try:
        gate.check(
            frame, training_suite(name, key, label, list(inputs.columns), task, project().training_set.LIMITS)
        ).require(name, MEND)
        gate.check(
            judge.frame[[key, label]], judging_suite(name, key, label, task, project().training_set.LIMITS)
        ).require(name, MEND_JUDGES)
        # Not before: what a feature tells of the outcomes needs outcomes, and not all the same.
        told = told_alone(inputs.drop(columns=interface.categories), learn.labels, task)
        gate.check(told, leak_suite(name, task, project().training_set.LIMITS)).require(name, MEND)
    finally:
        mlflow.log_dict({"findings": [vars(finding) for finding in gate.findings]}, "training_set_validation.json")


def _registered(client: MlflowClient, name: str, project: str) -> bool:
    """Return whether a registered model is there and says that it is this Feast project's. Raises ModelOfAnother."""
    try:
        owner = client.get_registered_model(name).tags.get(PROJECT_TAG)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return False
    if owner not in (None, project):
        raise ModelOfAnother(
            f"The registered model {name!r} belongs to the project {owner!r}, and this is {project!r}: their versions "
            "would take over from one another. Nothing was fitted or registered. Give this one another model_name in "
            f"[tool.fti] and training/config.yaml; or, if it was called {owner!r} before, set the model's tag "
            f"{PROJECT_TAG} in MLflow to {project!r}."
        )
    return owner == project


def _ensure_registered(client: MlflowClient, name: str, project: str) -> None:
    if _registered(client, name, project):
        return
    try:
        client.create_registered_model(name, tags={PROJECT_TAG: project})
    except MlflowException as error:
        if error.error_code != EXISTS:
            raise
        client.set_registered_model_tag(name, PROJECT_TAG, project)


def git_commit() -> str:
    """The commit this code is at, marked when files differ from it. Outside a git checkout, as in an image, what
    GIT_COMMIT says, or `unknown`."""
    root, told = project().root, os.environ.get("GIT_COMMIT") or "unknown"
    if shutil.which("git") is None:
        return told
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    if commit.returncode:
        return told
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False)
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
