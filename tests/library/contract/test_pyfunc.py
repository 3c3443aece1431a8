"""A registered model takes the frames that Feast gives, as they are, and says what the service says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from tests import ships

MOMENTS = [ships.NOON - timedelta(minutes=minutes) for minutes in (0, 31, 62, 93)]
ASKED = [
    {"ship": ship, "port": port, "sails_at": moment}
    for ship, port, moment in zip([*ships.SHIPS], ["Oslo", None, "Kiel", "Riga"], MOMENTS, strict=True)
]
ENTITY_ROWS = [row | {"sailing_hour": int(row["sails_at"].timestamp()) // 3600} for row in ASKED]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A built repository with a champion in mlflow.db beside it."""
    built = ships.build(tmp_path_factory.mktemp("ships"))
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MLFLOW_TRACKING_URI", ships.register(built))
        yield built


@pytest.fixture(scope="module")
def store(repo: Path) -> FeatureStore:
    return FeatureStore(repo_path=str(repo))


@pytest.fixture(scope="module")
def champion(repo: Path) -> Any:
    return mlflow.pyfunc.load_model("models:/lateness@champion")


@pytest.fixture(scope="module")
def served(repo: Path) -> list[float]:
    """What the service says of ASKED."""
    return said_online(repo, "1")


def said_online(repo: Path, number: str) -> list[float]:
    from fti.scoring.loading import find_version, load

    model = load(find_version("lateness", "champion", number), repo)
    return [outcome.value for outcome in model.predict([row | {"as_of": ships.NOON} for row in ASKED])]


def online(store: FeatureStore) -> pd.DataFrame:
    service = store.get_feature_service("late_v1")
    return store.get_online_features(features=service, entity_rows=ENTITY_ROWS).to_df()


def historical(store: FeatureStore) -> pd.DataFrame:
    entities = pd.DataFrame(ENTITY_ROWS).assign(event_timestamp=ships.NOON)
    return store.get_historical_features(entities, store.get_feature_service("late_v1")).to_df()


def test_online_frames_score_as_the_service_does(store, champion, served):
    """Keys and request fields are beside the features, in Feast's order, and some cells are None."""
    said = champion.predict(online(store))
    assert list(said.columns) == ["probability"]
    assert said["probability"].tolist() == served


def test_historical_frames_score_as_the_service_does(store, champion, served):
    """With timestamps, nullable whole numbers and booleans, and in the order of the store."""
    frame = historical(store)
    assert {"Int64", "boolean"} <= set(frame.dtypes.astype(str))
    said = champion.predict(frame).assign(ship=frame["ship"]).set_index("ship")["probability"]
    assert [said[row["ship"]] for row in ASKED] == served


def test_a_version_is_found_by_its_number_too(store, served):
    """And its signature names inputs and the output."""
    model = mlflow.pyfunc.load_model("models:/lateness/1")
    assert model.predict(online(store))["probability"].tolist() == served
    assert model.metadata.get_output_schema().input_names() == ["probability"]
    assert model.metadata.get_input_schema().input_names()[-2:] == ["ship", "port"]


def test_a_compiled_model_differs_in_the_last_digit_from_a_service_and_in_none_from_a_batch(repo, store):
    """The service asks treelite, which adds the trees up in another order; batch scoring asks scikit-learn, as here."""
    from fti.contract.registered import fetch_version, load_model
    from fti.contract.task import forecast
    from fti.scoring.loading import find_version

    ships.register(repo, calibration="none")
    frame = online(store)
    said = mlflow.pyfunc.load_model("models:/lateness/2").predict(frame)["probability"].tolist()
    np.testing.assert_allclose(said, said_online(repo, "2"), rtol=0, atol=1e-15)
    version = find_version("lateness", "champion", "2")
    folder, contract = fetch_version(version)
    assert (
        said == forecast(load_model(version, folder), contract.interface.model_inputs(frame), "classification").tolist()
    )
    mlflow.MlflowClient().set_registered_model_alias("lateness", "champion", "1")


@pytest.mark.parametrize(
    "kind",
    ["object", "category", "string", "arrow", "float", "shuffled", "indexed"],
)
def test_any_type_that_says_the_same_scores_the_same(store, champion, served, kind):
    """Text as categories, numbers as objects or Arrow's, whole numbers and booleans as floats, another order."""
    frame = online(store)
    texts = ["ship", "port"]
    numbers = [name for name in frame if name not in (*texts, "sailing_hour")]
    match kind:
        case "object":
            frame = frame.astype(object).where(frame.notna(), None)
        case "category":
            frame = frame.astype(dict.fromkeys(texts, "category"))
        case "string":
            frame = frame.astype(dict.fromkeys(texts, "string"))
        case "arrow":
            frame = frame.convert_dtypes(dtype_backend="pyarrow")
        case "float":
            frame = frame.astype(dict.fromkeys(numbers, "float64"))
        case "shuffled":
            frame = frame[sorted(frame.columns, reverse=True)]
        case "indexed":
            frame = frame.set_axis([7, 7, 3, 1])
    said = champion.predict(frame)
    assert said["probability"].tolist() == served
    assert said.index.equals(frame.index)


def test_a_frame_without_an_input_is_refused_by_name(store, champion):
    """Never a forecast from a null that is not there."""
    with pytest.raises(mlflow.MlflowException, match="missing inputs \\['ship_trips'\\]"):
        champion.predict(online(store).drop(columns="ship_trips"))


@pytest.mark.parametrize(("column", "value"), [("ship_trips", "many"), ("ship", 7), ("port_depth", [1.0])])
def test_a_value_of_another_kind_is_refused_by_name(store, champion, column, value):
    """Text is no number, nor is a number text."""
    frame = online(store).astype({column: object})
    frame.at[0, column] = value
    with pytest.raises(ValueError, match=f"Column '{column}' has"):
        champion.predict(frame)


def test_an_infinite_input_is_a_missing_one(store, champion):
    """As in training and in serving."""
    frame = online(store)
    endless, unknown = frame.assign(port_depth=np.inf), frame.assign(port_depth=np.nan)
    assert champion.predict(endless).equals(champion.predict(unknown))


def declared(champion: Any, **policy: Any) -> Any:
    """The champion, as if the view `port_depth` had been declared otherwise."""
    from fti.contract.pyfunc import FrameModel

    model = champion._model_impl
    views = [
        view.model_copy(update=policy) if view.name == "port_depth" else view for view in model.interface.stored_views
    ]
    return FrameModel(model.estimator, model.interface.model_copy(update={"stored_views": views}))


def test_a_view_that_may_not_be_missing_leaves_its_row_without_a_forecast(store, champion, served):
    """NaN under its index; the rows beside it are answered as ever. The second row has no port, the third no depth."""
    said = declared(champion, when_missing="reject").predict(online(store).set_index("ship", drop=False))["probability"]
    assert said.index.tolist() == ships.SHIPS
    assert [None if math.isnan(value) else value for value in said] == [served[0], None, None, served[3]]


def test_a_default_is_taken_for_what_is_missing(store, champion):
    """As in training and in serving."""
    frame = online(store)
    model = declared(champion, when_missing="default", defaults={"port_depth": 3.5})
    assert model.predict(frame).equals(champion.predict(frame.fillna({"port_depth": 3.5})))


def test_no_rows_have_no_forecasts(store, champion):
    """An empty day is an answer, not an error."""
    said = champion.predict(historical(store).head(0))
    assert (list(said.columns), len(said)) == (["probability"], 0)


def test_the_model_holds_no_pickle_and_no_code(champion):
    """pyfunc reads the same skops file as the service; what runs is this library."""
    flavors = champion.metadata.flavors
    assert flavors["python_function"]["loader_module"] == "fti.contract.pyfunc"
    assert "code" not in flavors["python_function"]
    assert flavors["sklearn"]["serialization_format"] == "skops"


def test_a_pickle_is_not_loaded(repo, tmp_path):
    """Whatever an MLmodel file says."""
    from mlflow.artifacts import download_artifacts

    folder = Path(download_artifacts("models:/lateness@champion", dst_path=str(tmp_path)))
    description = folder / "MLmodel"
    description.write_text(
        description.read_text().replace("serialization_format: skops", "serialization_format: pickle")
    )
    with pytest.raises(ValueError, match="expected skops"):
        mlflow.pyfunc.load_model(str(folder))


def test_mlflow_serves_and_evaluates_it(store, champion, served):
    """The scoring server's app takes JSON with nulls, whole numbers and booleans; `evaluate` finds the named column."""
    from mlflow.models import evaluate
    from mlflow.pyfunc.scoring_server import init
    from starlette.testclient import TestClient

    frame = online(store)
    body = '{"dataframe_records": ' + frame.to_json(orient="records", double_precision=15) + "}"
    answer = TestClient(init(champion)).post("/invocations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose([row["probability"] for row in answer.json()["predictions"]], served, rtol=1e-12)
    found = evaluate(
        champion, frame.assign(label=[1.0, 0.0, 0.0, 1.0]), targets="label", model_type="regressor",
        evaluator_config={"log_explainer": False},
    )  # fmt: skip
    assert found.metrics["mean_squared_error"] == pytest.approx(np.mean((np.array(served) - [1, 0, 0, 1]) ** 2))
