"""A registered champion for a built repository: real rows, a small model, and all that training leaves in a version."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from feast import FeatureStore
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fti.contract.feature_contract import FeatureContract, TrainingSet
from fti.contract.feature_service import read_interface
from fti.contract.registered import DIGEST_TAG, MODEL_DIGEST_TAG, SERVICE_TAG
from fti.project import project
from fti.training.config import ModelParameters
from fti.training.dataset import labelled_rows
from fti.training.run_record import log_model
from training.model import build_model

TINY = {
    "max_iter": 20, "learning_rate": 0.1, "max_leaf_nodes": 7, "min_samples_leaf": 5, "l2_regularization": 0.0,
    "max_features": 1.0, "random_state": 0,
}  # fmt: skip


def register(
    repo: Path, name: str, service: str, start: datetime, as_of: datetime, example: dict[str, Any],
    labels: Any = None, calibration: str = "none",
) -> str:  # fmt: skip
    """Fit a model to the rows from `start` to `as_of`, register it under `name`, and make it the champion.

    MLflow's registry is mlflow.db beside the repository; returns its URI. `labels` makes others from the rows'.
    """
    project()  # found here, before the folder changes
    store = FeatureStore(repo_path=str(repo))
    interface = read_interface(store, service)
    rows = labelled_rows(store, interface, start, as_of)
    outcomes: pd.Series = labels(rows.labels) if labels else rows.labels
    # Trees make no bins of a column without any value.
    inputs = rows.inputs.apply(lambda column: column.fillna(0.0) if column.isna().all() else column)
    parameters = ModelParameters.model_validate(TINY | {"calibration": calibration})
    model = build_model(interface.categories, parameters).fit(inputs, outcomes)
    contract = FeatureContract(
        interface=interface,
        known_values={},
        training_set=TrainingSet(
            as_of=as_of, start=start, end=as_of, rows=len(rows), sha256=rows.sha256, delta_versions={}
        ),
        example_request=example,
    )
    uri = f"sqlite:///{repo.parent / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MLFLOW_TRACKING_URI", uri)  # and not MLflow's own setting, which outlives a test
        here.chdir(repo.parent)  # where MLflow makes the folder of artifacts
        with mlflow.start_run() as run:
            source, digest = log_model(model, contract, rows.inputs)
        client = MlflowClient()
        with suppress(MlflowException):  # it is there already
            client.create_registered_model(name)
        tags = {SERVICE_TAG: service, DIGEST_TAG: contract.sha256, MODEL_DIGEST_TAG: digest}
        version = client.create_model_version(
            name, source=source, run_id=run.info.run_id, model_id=source.rsplit("/", 1)[-1], tags=tags
        )
        client.set_registered_model_alias(name, "champion", version.version)
    return uri
