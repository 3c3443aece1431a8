"""A label that is a number, through all three pipelines: a flight's delay in minutes, by tags in the Feast registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from jsonschema import Draft202012Validator
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sqlalchemy import Engine, select, update

from fti.contract.feature_service import read_interface
from fti.contract.predictions import PREDICTIONS, create, open_log, read
from fti.contract.results import Result, saved
from fti.monitoring import run
from fti.serving import batch
from fti.training.config import TrainingConfig
from tests.conftest import ROOT, Workspace
from tests.oracle import Oracle

NAME = "arrival-minutes"
AS_OF = datetime(2013, 10, 1, tzinfo=UTC)
START, DAYS, DELAY = datetime(2013, 10, 2, tzinfo=UTC), 5, timedelta(hours=48)
END = START + timedelta(days=DAYS)
CHANGES: dict[str, Any] = {
    "model_name": NAME, "feature_service": "arrival_minutes_v1", "start": "2013-08-20", "validation_days": 14,
}  # fmt: skip
GATE = {
    "metrics": {
        "rmse": {"better": "lower", "limit": 60, "max_regression": 0.5},
        "gain_over_request_features": {"better": "higher", "limit": 0.0},
    },
    "slices": {"metric": "rmse", "better": "lower", "limit": 120, "min_rows": 500},
}


@dataclass(frozen=True)
class Learnt:
    """A Feast repository of its own over the year's tables, and what was trained and promoted on it."""

    repo: Path
    store: Any
    client: MlflowClient
    config: TrainingConfig
    version: ModelVersion
    decision: Any

    @property
    def metrics(self) -> dict[str, float]:
        return self.client.get_run(self.version.run_id).data.metrics


def declare(repo: Path) -> None:
    """Register the minutes as a label, and what `arrival_delay_v1` reads for it."""
    from feast import FeatureService, FeatureStore, FeatureView, Field
    from feast.types import Float64

    store = FeatureStore(repo_path=str(repo))
    known, service = store.get_feature_view("flight_outcome"), store.get_feature_service("arrival_delay_v1")
    label = FeatureView(
        name="flight_minutes",
        entities=[store.get_entity("flight")],
        ttl=timedelta(0),
        online=False,
        schema=[Field(name="arr_delay_minutes", dtype=Float64, tags={"unit": "minutes"})],
        source=known.batch_source,
        tags={
            "label": "arr_delay_minutes",
            "definition": "after the scheduled arrival",
            "task": "regression",
        },
    )
    on_demand = {view.name for view in store.list_on_demand_feature_views()}
    views = [
        (store.get_on_demand_feature_view if one.name in on_demand else store.get_feature_view)(one.name)
        for one in service.feature_view_projections
    ]
    tags = {**service.tags, "label": label.name}
    store.apply([label, FeatureService(name=CHANGES["feature_service"], features=views, tags=tags)])


@pytest.fixture(scope="module")
def learnt(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learnt]:
    from feast import FeatureStore

    from fti.training.evaluate import evaluate
    from fti.training.promote import challenger_of, promote
    from fti.training.train import train
    from fti.training.trial import try_version

    root = tmp_path_factory.mktemp("regression")
    repo = root / "feature_repo"
    shutil.copytree(trained.repo, repo, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(trained.root / "data" / "feast", root / "data" / "feast")
    (root / "data" / "features").symlink_to(trained.root / "data" / "features")
    declare(repo)
    written = yaml.safe_load((ROOT / "training" / "config.yaml").read_text()) | CHANGES
    written["model"] |= {"max_iter": 40, "learning_rate": 0.1, "max_features": 1.0}
    written["gate"] |= GATE
    config = TrainingConfig.model_validate(written)
    with pytest.MonkeyPatch.context() as here:
        here.chdir(root)
        here.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        here.setenv("SERVING_FEAST_REPO", str(repo))
        here.setenv("SERVING_MODEL_NAME", NAME)
        store, client = FeatureStore(repo_path=str(repo)), MlflowClient()
        with mlflow.start_run() as active:
            version = train(store, client, config, active.info.run_id)
        decision = evaluate(store, client, config, challenger_of(client, NAME), None)
        promote(client, NAME, "enabled", partial(try_version, store))
        yield Learnt(repo, store, client, config, version, decision)


@pytest.fixture(scope="module")
def minutes() -> pd.Series:
    """The delay of each flight that landed, from the raw file alone."""
    flights = Oracle().flights
    return flights[flights.arr_delay.notna()].set_index("flight_id").arr_delay


def test_the_contract_says_what_is_predicted_and_in_what(learnt):
    """The task and the unit are in the record of the version, and of no version that classifies."""
    from fti.contract.registered import fetch_version

    _, contract = fetch_version(learnt.version)
    assert (contract.interface.task, contract.interface.unit) == ("regression", "minutes")
    assert json.loads(contract.canonical())["interface"]["task"] == "regression"
    classifies = read_interface(learnt.store, "arrival_delay_v1").model_dump(mode="json")
    assert not {"task", "unit"} & set(classifies)


def test_the_gate_judges_by_errors(learnt):
    """Limits, slices and the gain over what the request alone tells, as a share of its RMSE."""
    scores = learnt.decision.challenger_scores
    assert learnt.decision.passed
    alone = learnt.metrics["validation_request_features_rmse"]
    assert scores["gain_over_request_features"] == pytest.approx(1 - scores["rmse"] / alone)
    assert scores["rmse"] == pytest.approx(learnt.metrics["validation_rmse"])
    sliced = [rule for rule in learnt.decision.rules if rule.of_slice]
    assert len(sliced) > 3
    assert all(rule.name.startswith("rmse[") and rule.required == "at most 120" for rule in sliced)


def test_a_champion_is_compared_by_the_bootstrap(learnt):
    """The same model again is no worse: the whole interval of its RMSE's difference is nothing."""
    from fti.training.evaluate import evaluate, table
    from fti.training.train import train

    with mlflow.start_run() as active:
        again = train(learnt.store, learnt.client, learnt.config, active.info.run_id)
    decision = evaluate(learnt.store, learnt.client, learnt.config, again, learnt.version)
    apart = decision.differences["rmse"]
    assert (apart.value, apart.low, apart.high) == (0, 0, 0)
    assert {rule.name for rule in decision.rules if rule.passed} >= {"rmse", "rmse_regression"}
    assert "rmse differs by +0.0000" in table(decision)


def test_a_run_shows_what_came_by_what_was_predicted(learnt):
    plots = {Path(file.path).name for file in learnt.client.list_artifacts(learnt.version.run_id, "plots")}
    assert plots == {"predicted_vs_actual.png", "residuals.png", "permutation_importance.png", "slices.png"}


def test_the_recorded_scores_are_those_of_the_raw_file(learnt, minutes):
    """What scikit-learn says of October to December, of the model as it is loaded from the registry."""
    from fti.contract.registered import fetch_version
    from fti.training.dataset import END_OF_TIME, labelled_rows

    folder, contract = fetch_version(learnt.version)
    rows = labelled_rows(learnt.store, contract.interface, AS_OF, END_OF_TIME)
    said = mlflow.sklearn.load_model(str(folder)).predict(rows.inputs)
    came = minutes[rows.frame.flight_id]
    for metric, score in (("rmse", root_mean_squared_error), ("mae", mean_absolute_error), ("r2", r2_score)):
        assert learnt.metrics[f"holdout_{metric}"] == pytest.approx(score(came, said))
    assert learnt.metrics["holdout_bias"] == pytest.approx(np.mean(said - came))
    assert learnt.metrics["holdout_rmse"] < learnt.metrics["holdout_request_features_rmse"]


def test_it_can_be_built_again(learnt):
    from fti.training.reproduce import reproduce

    found = reproduce(learnt.store, learnt.client, learnt.version)
    assert not found.differs
    assert len(found.same) == 2


def test_an_answer_is_a_number_in_its_unit(learnt):
    """The compiled trees say what scikit-learn says of the same features, and OpenAPI describes that."""
    from fti.contract.registered import fetch_version
    from fti.scoring.compiled import Compiled
    from fti.scoring.loading import load
    from fti.scoring.served_model import Prediction
    from fti.serving.http.openapi import document
    from fti.serving.prediction_log import log_entry

    folder, contract = fetch_version(learnt.version)
    served = load(learnt.client.get_model_version(NAME, learnt.version.version), learnt.repo)
    assert isinstance(served.model, Compiled)
    request, warnings = served.parse(json.dumps(contract.example_request).encode(), AS_OF)
    (outcome,) = served.predict([request])
    assert isinstance(outcome, Prediction)
    inputs = contract.interface.model_inputs(pd.DataFrame([outcome.row.values]))
    (wanted,) = mlflow.sklearn.load_model(str(folder)).predict(inputs)
    answer = json.loads(json.dumps(served.about | served.describe(outcome, warnings), default=str))
    assert answer["prediction"] == pytest.approx(wanted, abs=1e-9)
    assert answer["unit"] == "minutes"
    assert "probability" not in answer
    described = document(served)["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    Draft202012Validator(described["schema"]).validate(answer)
    assert not Draft202012Validator(described["schema"]).is_valid(answer | {"unit": "hours"})
    entry = log_entry(served, outcome, "test", 0, "champion", AS_OF, 1.0)
    assert entry.prediction == answer["prediction"]


@pytest.fixture(scope="module")
def scored(learnt: Learnt, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A log with the champion's scores of five days."""
    url = f"sqlite:///{tmp_path_factory.mktemp('scored') / 'log.db'}"
    assert batch.main(["--as-of", START.isoformat(), "--days", str(DAYS), "--url", url]) == 0
    return open_log(url)


def judged(engine: Engine) -> tuple[int, dict[str, dict[str, Result]]]:
    """The monitors' exit code as of when the outcomes are known, and what they found, by monitor and metric."""
    folder = Path(str(engine.url.database)).parent
    files = ["--report", str(folder / "report.html"), "--prometheus", str(folder / "monitor.prom"), "--no-alert"]
    code = run.main(["--as-of", (END + DELAY).isoformat(), "--days", str(DAYS), "--url", str(engine.url), *files])
    found: dict[str, dict[str, Result]] = {}
    for one in saved(engine, END + DELAY):
        if one.verdict:
            found.setdefault(one.monitor, {})[one.metric] = one
    return code, found


def test_quality_is_told_in_errors_and_no_calm_week_is_in_breach(scored, minutes):
    _, found = judged(scored)
    quality, predicted = found["quality"], read(scored, START, END)
    came = predicted.row_key.map(minutes)
    there = came.notna().to_numpy()
    said, came = predicted.prediction[there], came[there]
    assert quality["rmse"].rows == there.sum()
    for metric, score in (("rmse", root_mean_squared_error), ("mae", mean_absolute_error), ("r2", r2_score)):
        assert quality[metric].value == pytest.approx(score(came, said))
        assert quality[metric].low < quality[metric].value < quality[metric].high
    assert quality["bias"].value == pytest.approx(said.mean() - came.mean())
    assert quality["mean_label"].value == pytest.approx(came.mean())
    assert quality["rmse"].verdict == "healthy"
    assert "in training's validation it was" in quality["rmse"].details
    every = saved(scored, END + DELAY)
    assert any(one.metric.startswith("rmse[carrier=") for one in every)
    assert found["drift"]["prediction"].value is not None
    assert "RMSE" in Path(str(scored.url.database)).with_name("report.html").read_text()


def test_answers_in_another_unit_are_in_breach(scored, tmp_path):
    """Hours for minutes and an hour too much: errors and bias beyond chance, and answers where there were none."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    with scored.connect() as source, engine.begin() as target:
        target.execute(PREDICTIONS.insert(), [dict(row) for row in source.execute(select(PREDICTIONS)).mappings()])
        target.execute(update(PREDICTIONS).values(prediction=60 + PREDICTIONS.c.prediction / 60))
    code, found = judged(engine)
    assert code == run.BREACHED
    assert {found["quality"][metric].verdict for metric in ("rmse", "mae", "bias")} == {"breach"}
    assert found["drift"]["prediction"].verdict == "breach"
