"""What a model has to be better than, fitted to the same rows: labelled rows in; forecasts by name out. [yours]"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.config import ModelParameters
from training.dataset import LabelledRows
from training.model import build_model
from validation.task import forecast

REQUEST_FEATURES = "request_features"
SAME_HOUR = {"same_hour_last_week": "sensor_hour_people_1w", "same_hour_of_four_weeks": "sensor_hour_mean_people_4w"}

Forecaster = Callable[[LabelledRows], np.ndarray]


def references(rows: LabelledRows, parameters: ModelParameters) -> dict[str, Forecaster]:
    """The same model without stored features, and what this hour was last week, or of four weeks; if not counted then,
    the mean of all."""
    interface, asked = rows.interface, rows.interface.request_inputs
    alone = build_model(interface.categories, parameters, interface.task).fit(rows.inputs[asked], rows.labels)
    found: dict[str, Forecaster] = {
        REQUEST_FEATURES: lambda others: forecast(alone, others.inputs[asked], interface.task)
    }
    mean = float(rows.labels.mean())
    for name, column in SAME_HOUR.items():
        if column in rows.inputs:
            found[name] = _read_from(column, mean)
    return found


def _read_from(column: str, otherwise: float) -> Forecaster:
    return lambda others: others.inputs[column].fillna(otherwise).to_numpy()
