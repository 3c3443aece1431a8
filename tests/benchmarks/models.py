"""The training pipeline on the year: what each step takes, what ten times the rows take, and how good the model is.

How good: rolled monthly, as it would have been lived. For each month a model is fitted to what was known at its start
and scored on its flights; the scores are those of October to December together.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from feast import FeatureStore
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score

from fti.contract.metrics import scores
from fti.contract.registered import fetch_version
from fti.training.baseline import without_stored_features
from fti.training.config import load_config
from fti.training.dataset import END_OF_TIME, labelled_rows
from fti.training.evaluate import evaluate
from fti.training.leaks import auc_alone
from fti.training.promote import challenger_of
from fti.training.run_record import log_model
from fti.training.train import fit, read_interface, train
from tests.benchmarks.journey import PeakMemory
from tests.benchmarks.results import Result
from training.references import references

ROOT = Path(__file__).resolve().parents[2]
MONTHS = ("2013-10-01", "2013-11-01", "2013-12-01", "2014-01-02")
COPIES = 10


def measure() -> list[Result]:
    """Measure all: some five minutes and 3 GB of memory, in a registry of its own, on the features of the year."""
    store, config = FeatureStore(repo_path=str(ROOT / "feature_repo")), load_config({})
    with tempfile.TemporaryDirectory() as folder, _empty_registry(Path(folder)):
        found = _steps(store, config)
    return found + _quality(store, config)


@contextmanager
def _empty_registry(folder: Path) -> Iterator[None]:
    """A registry of its own; MLflow puts its artifacts into the folder it is in."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    try:
        with chdir(folder):
            yield
    finally:
        mlflow.set_tracking_uri(before)


def _steps(store: FeatureStore, config) -> list[Result]:
    client, memory = MlflowClient(), PeakMemory(os.getpid())
    mlflow.set_experiment("benchmark")  # the tables of a new registry are not a training run's
    memory.start()
    began = time.perf_counter()
    with mlflow.start_run() as run:
        version = train(store, client, config, run.info.run_id)
    whole, peak = time.perf_counter() - began, memory.stop()
    began = time.perf_counter()
    evaluate(store, client, config, challenger_of(client, config.model_name), None)
    gate = time.perf_counter() - began
    folder, contract = fetch_version(version)
    model = mlflow.sklearn.load_model(str(folder))
    began = time.perf_counter()
    rows = labelled_rows(store, contract.interface, config.start, config.as_of)
    dataset = time.perf_counter() - began
    learn = rows.between(config.start, config.fit_end, known_by=config.validation_start)
    began = time.perf_counter()
    with mlflow.start_run():
        log_model(model, contract, learn.inputs)
    logged = time.perf_counter() - began
    began = time.perf_counter()
    fit(learn, config)
    once = time.perf_counter() - began
    many = type(learn)(pd.concat([learn.frame] * COPIES, ignore_index=True), learn.interface, learn.row_key)
    began = time.perf_counter()
    fit(many, config)
    tenfold = time.perf_counter() - began
    return [
        Result("models: train to a registered version", whole, "s", target="< 60 s", met=whole < 60),
        Result("models: train to a registered version, memory", peak, "GB"),
        Result(f"models: training set, {len(rows):,} rows", dataset, "s"),
        Result(f"models: fit, {len(learn):,} rows", once, "s"),
        Result(f"models: fit, {len(many):,} rows", tenfold, "s", f"{len(learn):,} rows, {once:.1f} s", tenfold / once),
        Result("models: log_model", logged, "s", target="< 1 s", met=logged < 1),
        Result("models: gate", gate, "s"),
    ]


def _quality(store: FeatureStore, config) -> list[Result]:
    interface = read_interface(store, config.feature_service)
    rows = labelled_rows(store, interface, config.start, END_OF_TIME)
    labels: list[np.ndarray] = []
    forecasts: dict[str, list[np.ndarray]] = {}
    months = [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in MONTHS]
    for month, following in pairwise(months):
        learn = rows.between(config.start, month - config.label_delay, known_by=month)
        judge = rows.between(month, following)
        model = fit(learn, config)
        labels.append(judge.labels.to_numpy())
        named = {"model": lambda others, model=model: model.predict_proba(others.inputs)[:, 1]}
        named |= without_stored_features(learn, config.model) | references(learn, config.model)
        for name, predict in named.items():
            forecasts.setdefault(name, []).append(predict(judge))
    came = np.concatenate(labels)
    own = np.concatenate(forecasts.pop("model"))
    found = scores(pd.Series(came), own)
    others = {name: float(roc_auc_score(came, np.concatenate(parts))) for name, parts in forecasts.items()}
    auc, error = found["roc_auc"], found["calibration_error"]
    alone = auc_alone(rows.inputs.drop(columns=interface.categories), rows.labels).auc_alone.max()
    measured = "models: ROC AUC, October to December"
    return [
        Result(measured, auc, "", target=">= 0.77", met=auc >= 0.77),
        *(
            Result(measured, auc, "", f"{name.replace('_', ' ')}, {other:.3f}", auc - other)
            for name, other in others.items()
        ),
        Result("models: calibration error", error, "", target="< 0.015", met=error < 0.015),
        *(
            Result(f"models: {name.replace('_', ' ')}", found[name], "")
            for name in ("average_precision", "log_loss", "brier")
        ),
        Result("models: the best single feature's ROC AUC", float(alone), ""),
    ]
