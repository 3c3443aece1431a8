"""The compiled form of a model gives what scikit-learn gives, or scikit-learn serves."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fti.contract.interface import FeatureInterface, ModelInput
from fti.contract.task import CLASSIFICATION, REGRESSION
from fti.scoring import compiled as module
from fti.scoring.compiled import Compiled, Native, compiled
from fti.scoring.explain import explainer
from fti.training.config import load_config
from training.model import build_model

CATEGORIES, NUMBERS = ["city", "line"], ["heat", "load", "wind"]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Categories and numbers with gaps, and an order of columns that is not the encoder's."""
    chance = np.random.default_rng(4)
    rows = 4000
    frame = pd.DataFrame({name: chance.normal(size=rows) for name in NUMBERS})
    for name in CATEGORIES:
        frame.insert(1, name, chance.choice(["a", "b", "c", None], rows, p=[0.5, 0.3, 0.15, 0.05]))
    frame.loc[chance.random(rows) < 0.1, "heat"] = np.nan
    return frame


@pytest.fixture(scope="module")
def interface(frame: pd.DataFrame) -> Any:
    inputs = [
        ModelInput(name=name, dtype="string" if name in CATEGORIES else "double", source="request") for name in frame
    ]
    return _of_inputs(inputs, CLASSIFICATION)


def _of_inputs(inputs: list[ModelInput], task: str) -> Any:
    found = SimpleNamespace(inputs=inputs, task=task)
    found.model_inputs = lambda rows: FeatureInterface.model_inputs(found, rows)
    return found


@pytest.fixture
def of_numbers(interface: Any) -> Any:
    """The same inputs for a label that is a number."""
    return _of_inputs(interface.inputs, REGRESSION)


def fitted(frame: pd.DataFrame, **change: Any) -> Any:
    chance = np.random.default_rng(5)
    risk = 1 / (1 + np.exp(-frame.heat.fillna(1) - (frame.city == "a") + frame.wind * frame.load))
    parameters = load_config({}).model.model_copy(update={"max_iter": 40, "min_samples_leaf": 20} | change)
    return build_model(CATEGORIES, parameters).fit(frame, (chance.random(len(frame)) < risk).astype(int))


def fitted_to_numbers(frame: pd.DataFrame, loss: str = "squared_error", **change: Any) -> Any:
    """Of labels in the thousands: their sums have no ninth decimal."""
    chance = np.random.default_rng(6)
    counted = 5000 + 900 * frame.heat.fillna(1) - 400 * (frame.city == "a") + 300 * frame.wind * frame.load
    parameters = load_config({}).model.model_copy(update={"max_iter": 40, "min_samples_leaf": 20} | change)
    model = build_model(CATEGORIES, parameters, REGRESSION).set_params(regress__loss=loss)
    return model.fit(frame, (counted + chance.normal(0, 200, len(frame))).clip(lower=1))


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def test_it_gives_what_scikit_learn_gives(frame, interface):
    """Known, unknown and missing values, one row and many, keys in any order."""
    model = fitted(frame)
    fast = compiled(model, interface)
    assert isinstance(fast, Compiled)
    some = frame.sample(500, random_state=1)
    some.iloc[:20, some.columns.get_loc("city")] = "never seen"
    some.iloc[10:30, some.columns.get_loc("load")] = np.nan
    rows = rows_of(some)
    wanted = model.predict_proba(some)[:, 1]
    assert np.abs(fast.predict(rows) - wanted).max() < 1e-12
    assert [fast.predict([row])[0] for row in rows[:50]] == fast.predict(rows[:50]).tolist()
    turned = [dict(reversed(row.items())) for row in rows]
    assert fast.predict(turned).tolist() == fast.predict(rows).tolist()


def test_a_number_is_what_scikit_learn_says_too(frame, of_numbers):
    """Known, unknown and missing values, encoded by mean numbers, in both forms."""
    model = fitted_to_numbers(frame)
    fast, native = compiled(model, of_numbers), Native(model, of_numbers, module.ThreadpoolController())
    assert isinstance(fast, Compiled)
    some = frame.sample(500, random_state=1)
    some.iloc[:20, some.columns.get_loc("city")] = "never seen"
    some.iloc[10:30, some.columns.get_loc("load")] = np.nan
    wanted = model.predict(some)
    assert wanted.min() > 1000
    assert fast.predict(rows_of(some)) == pytest.approx(wanted, rel=1e-12)
    assert native.predict(rows_of(some)).tolist() == fast.predict_frame(some).tolist() == wanted.tolist()


def test_counts_by_a_log_link_come_out_the_same(frame, of_numbers):
    """Poisson's trees add up logarithms: whichever form serves them, it says what scikit-learn says."""
    model = fitted_to_numbers(frame, loss="poisson")
    served = compiled(model, of_numbers)
    assert served.predict(rows_of(frame.head(200))) == pytest.approx(model.predict(frame.head(200)), rel=1e-9)


def test_both_forms_predict_columns_too(frame, interface):
    """As scikit-learn does, to the last bit: what scores a month is not what answers a request, but says the same."""
    model = fitted(frame)
    wanted = model.predict_proba(frame)[:, 1].tolist()
    for form in (compiled(model, interface), Native(model, interface, module.ThreadpoolController())):
        assert form.predict_frame(interface.model_inputs(frame)).tolist() == wanted


def test_the_native_form_gives_it_too(frame, interface):
    """The frame it makes has the columns and types of training."""
    model = fitted(frame)
    native = Native(model, interface, module.ThreadpoolController())
    assert native.predict(rows_of(frame.head(50))).tolist() == model.predict_proba(frame.head(50))[:, 1].tolist()


@pytest.mark.parametrize("kind", ["calibrated", "linear"])
def test_another_kind_of_model_is_served_as_it_is(frame, interface, caplog, kind):
    """With a line in the log that says which."""
    if kind == "calibrated":
        model = fitted(frame, calibration="isotonic")
        rows = frame.head(50)
    else:
        numbers = frame.assign(city=0.0, line=1.0).fillna(0.0)
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(numbers, numbers.heat > 0)
        rows = numbers.head(50)
    with caplog.at_level(logging.WARNING, "bentoml.serving"):
        slow = compiled(model, interface)
    assert isinstance(slow, Native)
    assert "served by scikit-learn, not compiled" in caplog.text
    if kind == "calibrated":
        assert slow.predict(rows_of(rows)).tolist() == model.predict_proba(rows)[:, 1].tolist()


@pytest.mark.parametrize("task", [CLASSIFICATION, REGRESSION])
def test_a_model_of_numbers_alone_is_compiled_too(frame, task):
    """A feature service without `key_features` has no category: its encoder was never fitted."""
    numbers = frame[NUMBERS]
    parameters = load_config({}).model.model_copy(update={"max_iter": 40, "min_samples_leaf": 20})
    said = numbers.heat.fillna(1) - numbers.wind * numbers.load
    model = build_model([], parameters, task).fit(numbers, said if task == REGRESSION else (said > 0).astype(int))
    inputs = [ModelInput(name=name, dtype="double", source="a_view") for name in NUMBERS]
    fast = compiled(model, _of_inputs(inputs, task))
    assert isinstance(fast, Compiled)
    assert fast.unknown is None
    wanted = model.predict(numbers) if task == REGRESSION else model.predict_proba(numbers)[:, 1]
    assert fast.predict(rows_of(numbers)) == pytest.approx(wanted, rel=1e-9)
    row, told = rows_of(numbers)[0], explainer(fast)
    contributions = told.explain(row, float(fast.predict([row])[0]))["contributions"]
    assert contributions.keys() == set(NUMBERS)


def test_trees_that_treelite_does_not_take_are_served_by_scikit_learn(frame, interface, caplog, monkeypatch):
    """A model that cannot be compiled, for whatever reason, can be served: the log says why it is slower."""

    def refuses(_: Any) -> None:
        raise NotImplementedError("no such trees")

    monkeypatch.setattr("treelite.sklearn.import_model", refuses)
    model = fitted(frame)
    slow = compiled(model, interface)
    assert isinstance(slow, Native)
    assert slow.predict(rows_of(frame.head(50))).tolist() == model.predict_proba(frame.head(50))[:, 1].tolist()
    assert "served by scikit-learn" in caplog.text
    assert "no such trees" in caplog.text


def test_a_form_that_differs_is_not_served(frame, interface, caplog, monkeypatch):
    """One encoding that is off by a little is found by the probes."""
    real = module._compile

    def off(estimator: Any) -> Compiled:
        fast = real(estimator)
        codes = {name: dict(values) for name, values in fast.encodings.items()}
        codes["city"]["a"] += 0.3
        return replace(fast, encodings=codes)

    monkeypatch.setattr(module, "_compile", off)
    assert isinstance(compiled(fitted(frame), interface), Native)
    assert "it differs by" in caplog.text
