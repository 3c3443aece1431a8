"""What a model has to be better than, fitted to the same rows: labelled rows in; forecasts by name out. [yours]"""

from __future__ import annotations

from fti.training.baseline import Forecaster
from fti.training.config import ModelParameters
from fti.training.dataset import LabelledRows

SAME_HOUR = {"same_hour_last_week": "sensor_hour_people_1w", "same_hour_of_four_weeks": "sensor_hour_mean_people_4w"}


def references(rows: LabelledRows, _: ModelParameters) -> dict[str, Forecaster]:
    """What this hour was last week, or of four weeks; if not counted then, the mean of all."""
    mean = float(rows.labels.mean())
    return {name: _read_from(column, mean) for name, column in SAME_HOUR.items() if column in rows.inputs}


def _read_from(column: str, otherwise: float) -> Forecaster:
    return lambda others: others.inputs[column].fillna(otherwise).to_numpy()
