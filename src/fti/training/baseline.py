"""What the feature store must better: labelled rows in; the same model's forecast without stored features out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fti.contract.task import forecast
from fti.project import project
from fti.training.config import ModelParameters
from fti.training.dataset import LabelledRows

REQUEST_FEATURES = "request_features"

Forecaster = Callable[[LabelledRows], np.ndarray]


def without_stored_features(rows: LabelledRows, parameters: ModelParameters) -> dict[str, Forecaster]:
    """The model fitted to what the request itself says, by the name of its scores: the gate asks for a gain over it.

    Where that is no input at all, the mean label is all that is known without the feature store.
    """
    interface, asked = rows.interface, rows.interface.request_inputs
    if not asked:
        mean = float(rows.labels.mean())
        return {REQUEST_FEATURES: lambda others: np.full(len(others), mean)}
    categories = [name for name in interface.categories if name in asked]
    alone = project().model.build_model(categories, parameters, interface.task).fit(rows.inputs[asked], rows.labels)
    return {REQUEST_FEATURES: lambda others: forecast(alone, others.inputs[asked], interface.task)}
