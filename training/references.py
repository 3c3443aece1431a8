"""What a model has to be better than, fitted to the same rows: labelled rows in; forecasts by name out. [yours]"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from training.config import ModelParameters
from training.dataset import LabelledRows
from training.model import build_model, linear_model
from validation.task import Task, forecast

REQUEST_FEATURES = "request_features"
LINEAR: dict[Task, str] = {"classification": "logistic_regression", "regression": "ridge"}
# Rows of the overall mean that each group of the climatology is given: a route with three flights says little.
PRIOR_ROWS = 20
HOUR = "dep_local_hour"

Forecaster = Callable[[LabelledRows], np.ndarray]


def references(rows: LabelledRows, parameters: ModelParameters) -> dict[str, Forecaster]:
    """Fit them: the same model without stored features, a linear model on all, and the climatology of route and hour.

    A feature service without a local hour has no climatology.
    """
    interface = rows.interface
    categories, asked, task = interface.categories, interface.request_inputs, interface.task
    inputs, labels = rows.inputs, rows.labels
    alone = build_model(categories, parameters, task).fit(inputs[asked], labels)
    numbers = [str(name) for name in inputs if name not in categories]
    linear = linear_model(categories, numbers, parameters.random_state, task).fit(inputs, labels)
    found: dict[str, Forecaster] = {
        REQUEST_FEATURES: lambda others: forecast(alone, others.inputs[asked], task),
        LINEAR[task]: lambda others: forecast(linear, others.inputs, task),
    }
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
