"""What a model has to be better than, fitted to the same rows: labelled rows in; forecasts by name out. [yours]"""

from __future__ import annotations

import pandas as pd

from fti.contract.task import Task, forecast
from fti.training.baseline import Forecaster
from fti.training.config import ModelParameters
from fti.training.dataset import LabelledRows
from training.model import linear_model

LINEAR: dict[Task, str] = {"classification": "logistic_regression", "regression": "ridge"}
# Rows of the overall mean that each group of the climatology is given: a route with three flights says little.
PRIOR_ROWS = 20
HOUR = "dep_local_hour"


def references(rows: LabelledRows, parameters: ModelParameters) -> dict[str, Forecaster]:
    """Fit them: a linear model on all inputs, and the climatology of route and hour.

    A feature service without a local hour has no climatology.
    """
    interface = rows.interface
    categories, task, inputs = interface.categories, interface.task, rows.inputs
    numbers = [str(name) for name in inputs if name not in categories]
    linear = linear_model(categories, numbers, parameters.random_state, task).fit(inputs, rows.labels)
    found: dict[str, Forecaster] = {LINEAR[task]: lambda others: forecast(linear, others.inputs, task)}
    if HOUR in inputs:
        found["climatology"] = _climatology(rows)
    return found


def _climatology(rows: LabelledRows) -> Forecaster:
    """The mean label of each route and local hour, a share of late flights if it is 0 or 1, drawn to the overall mean
    where flights are few."""
    labels = rows.labels.astype("float64")
    overall = float(labels.mean())
    grouped = labels.groupby(_route_and_hour(rows.inputs))
    share = (grouped.sum() + PRIOR_ROWS * overall) / (grouped.count() + PRIOR_ROWS)
    return lambda others: _route_and_hour(others.inputs).map(share).fillna(overall).to_numpy()


def _route_and_hour(inputs: pd.DataFrame) -> pd.Series:
    return inputs.origin + "-" + inputs.dest + "-" + inputs[HOUR].floordiv(1).astype(str)
