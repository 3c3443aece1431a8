"""Fit a model to a feature service and register it: configuration and feature store in, a challenger version out.

Nothing is registered before all that belongs to the version is logged, so a run that dies leaves no half-made version.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.data import pandas_dataset
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from threadpoolctl import threadpool_limits
from upath import UPath

from training.baseline import Forecaster, without_stored_features
from training.card import record
from training.config import TrainingConfig
from training.dataset import (
    END_OF_TIME,
    DataMissing,
    LabelledRows,
    labelled_rows,
    pin_versions,
    store_rows,
    training_sets,
    upcoming_request,
)
from training.leaks import can_tell, told_alone
from training.model import TRUSTED_TYPES, build_model
from training.plots import figures
from training.promote import EXISTS, make_challenger
from training.references import references
from training.search import search
from validation.contract import (
    CAUSE_TAG,
    DIGEST_TAG,
    FILE_NAME,
    GOLDEN_NAME,
    GOLDEN_SAID,
    MODEL_DIGEST_TAG,
    SERVICE_TAG,
    FeatureContract,
    FeatureInterface,
    TrainingSet,
    folder_sha256,
)
from validation.errors import Refusal
from validation.gate import Gate
from validation.metrics import scores, slice_scores
from validation.monitoring.drift import PREDICTION, PROFILE_ARTIFACT, profile
from validation.rules import leak_suite, training_suite
from validation.spine import PREDICTION_TIME
from validation.steps import step
from validation.suites.training_set import LIMITS
from validation.task import Task, forecast, predicts_by

PINNED = ("scikit-learn", "skops", "numpy", "pandas")
GOLDEN_ROWS = 20
CONFIG_ARTIFACT = "training_config.json"


class UnknownFeatureService(Refusal):
    """The Feast registry has no feature service of that name."""


def train(
    store: FeatureStore, client: MlflowClient, config: TrainingConfig, run_id: str, cause: str = ""
) -> ModelVersion:
    """Build the rows, fit, log everything to the active run, register a version and make it the challenger.

    Raises UnknownFeatureService, DataMissing, and BatchRefused when the training set breaks its suite.
    """
    mlflow.set_tags({SERVICE_TAG: config.feature_service, "git_commit": git_commit()})
    interface = read_interface(store, config.feature_service)
    versions = pin_versions(store, interface)
    with step("training set") as report:
        known = labelled_rows(store, interface, config.start, config.as_of)
        learn, judge = split(known, config)
        check(learn, config.feature_service)
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
        forecasters |= without_stored_features(learn, config.model) | references(learn, config.model)
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
        _ensure_registered(client, config.model_name)
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
    return build_model(rows.interface.categories, config.model, rows.interface.task).fit(rows.inputs, rows.labels)


def known_of(keys: pd.Series) -> list[str] | list[int]:
    """The values of a key, in order; whole numbers also where pandas holds them as floats, for some are missing."""
    known = keys.dropna()
    return sorted((known.astype("int64") if pd.api.types.is_numeric_dtype(known) else known).unique().tolist())


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
    """Judge the training set by its suites and log the findings. Raises BatchRefused."""
    gate = Gate()
    label, inputs, task = rows.interface.label, rows.inputs, rows.interface.task
    frame = inputs.assign(**{rows.row_key: rows.frame[rows.row_key], label: rows.frame[label]})
    outcomes = [gate.check(frame, training_suite(name, rows.row_key, label, list(inputs.columns), task, LIMITS))]
    if can_tell(rows.labels, task):
        numbers = inputs.drop(columns=rows.interface.categories)
        outcomes.append(gate.check(told_alone(numbers, rows.labels, task), leak_suite(name, task, LIMITS)))
    mlflow.log_dict({"findings": [vars(finding) for finding in gate.findings]}, "training_set_validation.json")
    for outcome in outcomes:
        outcome.require(
            name,
            "Nothing was fitted or registered. Mend the features it is made of, or the rule in "
            "validation/suites/training_set.py if that is wrong, and run again.",
        )


def log_dataset(rows: LabelledRows, table: UPath) -> None:
    """Keep the rows as a Delta table version, and name that as the data of the run."""
    version = store_rows(rows, table)
    data = pandas_dataset.from_pandas(
        rows.frame[[rows.row_key, PREDICTION_TIME, *rows.inputs, rows.interface.label]],
        source=DeltaDatasetSource(path=str(table), delta_table_version=version),
        targets=rows.interface.label,
        name=rows.interface.feature_service,
        digest=rows.sha256[:32],  # MLflow takes 36 characters; the contract has all of it
    )
    mlflow.log_input(data, context="training")
    mlflow.log_params({"training_set.table": str(table), "training_set.version": version})


def log_run(
    config: TrainingConfig, contract: FeatureContract, model: Any, forecasters: Mapping[str, Forecaster],
    learn: LabelledRows, judge: LabelledRows,
) -> None:  # fmt: skip
    """Log parameters, data, scores and plots to the active run."""
    mlflow.log_params({f"model.{name}": value for name, value in config.model.model_dump().items()})
    mlflow.log_params(
        {"fit_start": config.start, "fit_end": config.fit_end}
        | {"validation_start": config.validation_start, "validation_end": config.validation_end}
    )
    mlflow.set_tag(DIGEST_TAG, contract.sha256)
    mlflow.log_dict(config.model_dump(mode="json"), CONFIG_ARTIFACT)
    mlflow.log_dict(json.loads(contract.canonical()), FILE_NAME)
    forecasts = {name: predict(judge) for name, predict in forecasters.items()}
    moments = learn.frame[PREDICTION_TIME]
    columns = profile(learn.inputs, moments) | profile(learn.labels.to_frame())
    # What the model says of rows it was not fitted to; how much that changes in a year, the others tell too.
    said = profile(pd.DataFrame({PREDICTION: forecasts["model"]}))[PREDICTION]
    columns[PREDICTION] = said.with_usual(pd.Series(forecasters["model"](learn)), moments)
    mlflow.log_dict({name: found.model_dump(mode="json") for name, found in columns.items()}, PROFILE_ARTIFACT)
    task = contract.interface.task
    mlflow.log_metrics(compared(judge.labels, forecasts, "validation", task))
    slices = slice_scores(judge.inputs, config.slices, judge.labels, forecasts["model"], task)
    mlflow.log_table(slices, "slices.json")
    drawn = figures(model, judge.inputs, judge.labels, forecasts, slices, config.model.random_state, task)
    for name, figure in drawn.items():
        mlflow.log_figure(figure, f"plots/{name}")


def log_holdout(
    store: FeatureStore, interface: FeatureInterface, config: TrainingConfig, forecasters: Mapping[str, Forecaster]
) -> None:
    """Score the rows predicted since `as_of` whose outcomes are known by now, whole and month by month.

    Nothing decides on these scores. A run as of the present has no such rows and logs none.
    """
    try:
        rows = labelled_rows(store, interface, config.as_of, END_OF_TIME)
    except DataMissing:
        return
    labels, forecasts = rows.labels, {name: predict(rows) for name, predict in forecasters.items()}
    mlflow.log_metrics(compared(labels, forecasts, "holdout", interface.task))
    months = rows.frame[PREDICTION_TIME].dt.strftime("%Y%m")
    for month in sorted(months.unique()):
        mine = (months == month).to_numpy()
        found = {name: said[mine] for name, said in forecasts.items()}
        mlflow.log_metrics(compared(labels[mine], found, "holdout_month", interface.task), step=int(month))


def compared(labels: pd.Series, forecasts: Mapping[str, np.ndarray], prefix: str, task: Task) -> dict[str, float]:
    """Scores by name: `{prefix}_{metric}` of the model, `{prefix}_{reference}_{metric}` of each reference."""
    return {
        "_".join([prefix, *([name] if name != "model" else []), metric]): value
        for name, said in forecasts.items()
        for metric, value in scores(labels, said, task).items()
    }


def log_model(model: Any, contract: FeatureContract, inputs: pd.DataFrame) -> tuple[str, str]:
    """Log the model in the skops format, with its contract and golden rows, some of `inputs`, beside it.

    Returns its URI and the hash of its files.
    """
    task = contract.interface.task
    example, golden = inputs.head(3), inputs.iloc[np.linspace(0, len(inputs) - 1, GOLDEN_ROWS).astype(int)]
    # A row or two: threads would only wait for one another.
    with TemporaryDirectory() as folder, threadpool_limits(1):
        files = {
            FILE_NAME: contract.canonical(),
            GOLDEN_NAME: json.dumps(
                {
                    "inputs": golden.astype(object).where(golden.notna(), None).to_dict("records"),
                    GOLDEN_SAID[task]: forecast(model, golden, task).tolist(),
                }
            ),
        }
        for name, content in files.items():
            (Path(folder) / name).write_text(content)
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(example, getattr(model, predicts_by(task))(example)),
            input_example=example,
            pyfunc_predict_fn=predicts_by(task),
            # Finding requirements by itself takes MLflow 20 s and leaves them loose.
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in PINNED],
            skops_trusted_types=TRUSTED_TYPES,
            extra_files=[str(Path(folder) / name) for name in files],
            metadata={SERVICE_TAG: contract.interface.feature_service, DIGEST_TAG: contract.sha256},
        )
        return logged.model_uri, folder_sha256(Path(download_artifacts(logged.model_uri)))


def _ensure_registered(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != EXISTS:
            raise


def git_commit() -> str:
    """The commit this code is at, marked when files differ from it; `unknown` outside a git checkout."""
    root = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    if commit.returncode:
        return "unknown"
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False)
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
