"""What a training run leaves in MLflow: rows, forecasts and a fitted model in; data, scores and artifacts out."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from feast import FeatureStore
from mlflow.artifacts import download_artifacts
from mlflow.data import pandas_dataset
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.models import Model
from threadpoolctl import threadpool_limits
from upath import UPath

from fti.contract import pyfunc
from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import FeatureInterface
from fti.contract.metrics import scores, slice_scores
from fti.contract.registered import DIGEST_TAG, FILE_NAME, GOLDEN_NAME, GOLDEN_SAID, SERVICE_TAG, folder_sha256
from fti.contract.spine import PREDICTION_TIME
from fti.contract.task import Task, forecast
from fti.contract.training_profile import PREDICTION, PROFILE_ARTIFACT, profile
from fti.project import project
from fti.training.baseline import Forecaster
from fti.training.config import TrainingConfig
from fti.training.dataset import END_OF_TIME, DataMissing, LabelledRows, labelled_rows, store_rows
from fti.training.plots import figures

PINNED = ("scikit-learn", "skops", "numpy", "pandas")
GOLDEN_ROWS = 20
CONFIG_ARTIFACT = "training_config.json"


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
        logged = Model.log(
            artifact_path=None,
            name="model",
            flavor=pyfunc,
            sk_model=model,
            signature=pyfunc.signature(contract.interface),
            input_example=example,
            pyfunc_predict_fn="predict",
            # Finding requirements by itself takes MLflow 20 s and leaves them loose. `fti` is none of them: an index of
            # the same name elsewhere would be asked for it.
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in PINNED],
            skops_trusted_types=project().model.TRUSTED_TYPES,
            extra_files=[str(Path(folder) / name) for name in files],
            metadata={SERVICE_TAG: contract.interface.feature_service, DIGEST_TAG: contract.sha256},
        )
        return logged.model_uri, folder_sha256(Path(download_artifacts(logged.model_uri)))
