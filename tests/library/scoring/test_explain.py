"""Contributions are the Shapley values of the trees: beside a sum over all subsets, with a game of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from itertools import combinations
from math import factorial, log
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline
from threadpoolctl import ThreadpoolController

from fti.contract.interface import FeatureInterface, ModelInput
from fti.scoring.compiled import Compiled, Native, compiled
from fti.scoring.explain import Explainer, ExplainerBusy, Explaining, NotExplainable, explainer
from fti.training.config import load_config
from training.model import build_model

CATEGORIES, NUMBERS = ["city"], ["heat", "load", "wind", "hour"]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """A category and numbers, most with gaps; an hour that takes few values."""
    chance = np.random.default_rng(11)
    rows = 3000
    frame = pd.DataFrame({name: chance.normal(size=rows) for name in NUMBERS[:3]})
    frame["hour"] = chance.integers(0, 4, rows).astype("float64")
    frame.insert(2, "city", chance.choice(["a", "b", "c"], rows))
    for name in ("heat", "wind"):
        frame.loc[chance.random(rows) < 0.2, name] = np.nan
    return frame


@pytest.fixture(scope="module")
def interface(frame: pd.DataFrame) -> Any:
    inputs = [ModelInput(name=one, dtype="string" if one in CATEGORIES else "double", source="x") for one in frame]
    found = SimpleNamespace(inputs=inputs, task="classification")
    found.model_inputs = lambda rows: FeatureInterface.model_inputs(found, rows)
    return found


def fitted(frame: pd.DataFrame, **change: Any) -> Any:
    chance = np.random.default_rng(5)
    odds = frame.heat.fillna(1.5) * (frame.hour > 1) + (frame.city == "a") * frame.wind.fillna(-1) - frame.load
    parameters = load_config({}).model.model_copy(
        update={"max_iter": 15, "min_samples_leaf": 20, "learning_rate": 0.3, "max_features": 1.0} | change
    )
    labels = (chance.random(len(frame)) < 1 / (1 + np.exp(-odds))).astype(int)
    return build_model(CATEGORIES, parameters).fit(frame, labels)


def explained(model: Any) -> Explainer:
    found = explainer(model)
    assert isinstance(found, Explainer), found
    return found


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Some rows, and one of each kind that training has not seen."""
    rows = frame.sample(8, random_state=2).astype(object)
    rows = rows.where(rows.notna(), None).to_dict("records")
    return [
        *rows,
        dict.fromkeys(frame),
        {**rows[0], "city": "never seen"},
        {**rows[1], "load": None, "hour": None},
        {**rows[2], "heat": 1e9, "wind": -1e9},
    ]


def expectation(trees: Any, x: np.ndarray, known: Collection[int]) -> float:
    """What the trees say of `x` when only some inputs are known: down every branch, by its rows, of an unknown one."""

    def below(nodes: np.ndarray, place: int) -> float:
        node = nodes[place]
        if node["is_leaf"]:
            return float(node["value"])
        left, right = int(node["left"]), int(node["right"])
        if node["feature_idx"] in known:
            value = x[node["feature_idx"]]
            goes_left = node["missing_go_to_left"] if np.isnan(value) else value <= node["num_threshold"]
            return below(nodes, left if goes_left else right)
        counts = int(nodes[left]["count"]), int(nodes[right]["count"])
        return (counts[0] * below(nodes, left) + counts[1] * below(nodes, right)) / sum(counts)

    return float(np.ravel(trees._baseline_prediction)[0]) + sum(below(tree.nodes, 0) for (tree,) in trees._predictors)


def shapley(trees: Any, x: np.ndarray) -> tuple[float, list[float]]:
    """Base and Shapley values by their definition, over all subsets of inputs."""
    every = range(len(x))
    worth = {
        subset: expectation(trees, x, subset) for size in range(len(x) + 1) for subset in combinations(every, size)
    }

    def weight(size: int) -> float:
        return factorial(size) * factorial(len(x) - size - 1) / factorial(len(x))

    return worth[()], [
        sum(
            weight(len(subset)) * (worth[tuple(sorted((*subset, one)))] - worth[subset])
            for subset in worth
            if one not in subset
        )
        for one in every
    ]


@pytest.mark.parametrize("change", [{}, {"max_leaf_nodes": 2}, {"max_leaf_nodes": 60, "min_samples_leaf": 2}])
def test_contributions_are_shapley_values(frame, interface, change):
    """Of shallow and deep trees; with missing values, categories never seen, and inputs asked for again and again."""
    model = fitted(frame, **change)
    fast = compiled(model, interface)
    made = explained(fast)
    trees = model.named_steps["classify"]
    for row in rows_of(frame):
        (x,) = fast.table([row])
        base, wanted = shapley(trees, x)
        found = made.explain(row, float(fast.predict([row])[0]))
        assert found["base"] == pytest.approx(base, abs=1e-9)
        assert [*found["contributions"].values()] == pytest.approx(wanted, abs=1e-9)
        assert [*found["contributions"]] == [*CATEGORIES, *(name for name in frame if name not in CATEGORIES)]


def test_they_add_up_to_the_answer(frame, interface):
    """Base and contributions to the log-odds of the served probability, and the base to a probability of its own."""
    fast = compiled(fitted(frame, max_iter=300), interface)
    made = explained(fast)
    for row in rows_of(frame):
        probability = float(fast.predict([row])[0])
        found = made.explain(row, probability)
        assert found["base"] + sum(found["contributions"].values()) == pytest.approx(found["output"], abs=1e-9)
        assert found["output"] == pytest.approx(log(probability / (1 - probability)), abs=1e-6)
        assert found["base_probability"] == pytest.approx(1 / (1 + np.exp(-found["base"])), abs=1e-12)
        assert found["scale"] == "log-odds"


def test_an_input_that_no_tree_asks_for_moves_nothing(frame, interface):
    """Not by a rounding error either."""
    made = explained(compiled(fitted(frame.assign(load=1.0)), interface))
    row = rows_of(frame.assign(load=1.0))[0]
    assert made.explain(row, float(made.model.predict([row])[0]))["contributions"]["load"] == 0.0


def test_what_does_not_add_up_is_not_told(frame, interface):
    """A probability of another model, were it only a little off."""
    fast = compiled(fitted(frame), interface)
    row = rows_of(frame)[0]
    with pytest.raises(ArithmeticError, match="1e-06 off"):
        explained(fast).explain(row, float(fast.predict([row])[0]) + 1e-6)


def regressor(frame: pd.DataFrame, interface: Any, **change: Any) -> Compiled:
    """Trees for a number instead of a class, as `compiled` would take them apart."""
    numbers = frame[NUMBERS]
    encode = ColumnTransformer([("number", "passthrough", NUMBERS)])
    trees = HistGradientBoostingRegressor(max_iter=20, max_leaf_nodes=8, **change)
    pipeline = Pipeline([("encode", encode), ("regress", trees)]).fit(numbers, numbers.load.abs() + numbers.hour)
    native = Native(pipeline, interface, ThreadpoolController())
    return Compiled(encodings={}, unknown=0.0, numbers=NUMBERS, trees=None, original=native)


def test_a_number_is_explained_in_its_own_unit(frame, interface):
    """Without a link: the output is the prediction, and there is no base probability."""
    model = regressor(frame, interface)
    row = rows_of(frame)[0]
    trees = model.original.estimator.named_steps["regress"]
    prediction = float(model.original.estimator.predict(pd.DataFrame([row])[NUMBERS].astype("float64"))[0])
    found = explained(model).explain(row, prediction)
    base, wanted = shapley(trees, model.table([row])[0])
    assert (found["scale"], found["base_probability"]) == ("label", None)
    assert found["output"] == pytest.approx(prediction, abs=1e-9)
    assert found["base"] == pytest.approx(base, abs=1e-9)
    assert [*found["contributions"].values()] == pytest.approx(wanted, abs=1e-9)


def test_models_of_other_kinds_are_said_to_be_unexplained(frame, interface):
    """A calibrated classifier, and trees with a link that is neither of the two."""
    for model, said in (
        (compiled(fitted(frame, calibration="sigmoid"), interface), "such as a calibrated one"),
        (regressor(frame, interface, loss="poisson"), "HalfPoissonLoss"),
    ):
        found = explainer(model)
        assert isinstance(found, NotExplainable)
        assert said in str(found)


def test_trees_that_are_kept_otherwise_are_not_explained_and_still_served(frame, interface, caplog):
    """As another scikit-learn might: the log has the cause, and nothing is raised into the loading of a version."""
    model = regressor(frame, interface)
    for (tree,) in model.original.estimator.named_steps["regress"]._predictors:
        tree.nodes = tree.nodes[["value", "left", "right", "is_leaf"]]
    assert "not as this service expects" in str(explainer(model))
    assert "feature_idx" in caplog.text or "is_categorical" in caplog.text


def test_a_tree_that_learnt_nothing_is_its_base(frame, interface):
    """All rows alike: each tree is one leaf."""
    same = frame.assign(heat=1.0, load=1.0, wind=1.0, hour=1.0, city="a")
    fast = compiled(fitted(frame, min_samples_leaf=3000), interface)
    found = explained(fast).explain(rows_of(same)[0], float(fast.predict(rows_of(same)[:1])[0]))
    assert set(found["contributions"].values()) == {0.0}
    assert found["output"] == found["base"]


def test_more_than_a_few_are_told_to_come_again():
    """And those who gave up, or failed, leave their place to others."""
    explaining = Explaining(limit=2)

    async def use() -> None:
        busy = pytest.raises(ExplainerBusy, match="2 explanations are being made; ask again in a second")
        with explaining.place(), explaining.place(), busy, explaining.place():
            pytest.fail("a third was let in")
        with pytest.raises(ZeroDivisionError), explaining.place():
            await explaining.run(lambda: 1 / 0)
        with explaining.place():
            assert await explaining.run(dict, [("a", 1)]) == {"a": 1}

    asyncio.run(use())
    explaining.close()


def test_a_whole_model_is_explained_within_a_few_milliseconds(frame, interface):
    """400 trees of 20 leaves, as configured: its share of a core, at its fastest."""
    fast = compiled(fitted(frame, max_iter=400, learning_rate=0.05), interface)
    made = explained(fast)
    row = rows_of(frame)[0]
    probability = float(fast.predict([row])[0])
    took = []
    for _ in range(20):
        began = time.process_time()
        made.explain(row, probability)
        took.append(time.process_time() - began)
    assert min(took) < 0.02
