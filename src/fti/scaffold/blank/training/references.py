"""What a model has to be better than, fitted to the same rows: labelled rows in; forecasts by name out. [yours]"""

from __future__ import annotations

from fti.training.baseline import Forecaster
from fti.training.config import ModelParameters
from fti.training.dataset import LabelledRows

YESTERDAY = "shop_mean_visitors_24h"


def references(rows: LabelledRows, _: ModelParameters) -> dict[str, Forecaster]:
    """Return one naive forecast: the mean hour of the last day; where that is unknown, the mean of all."""
    mean = float(rows.labels.mean())
    return {"mean_of_last_day": lambda others: others.inputs[YESTERDAY].fillna(mean).to_numpy()}
