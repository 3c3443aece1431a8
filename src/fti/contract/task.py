"""What a label asks of a model: a fitted estimator and its inputs in; one number a row, the forecast, out.

A label that is 0 or 1 is classified: the forecast is the probability of 1. A label that is a number is regressed: the
forecast is that number, in the label's unit. The contract of a version says which (`FeatureInterface.task`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Task = Literal["classification", "regression"]
TASKS = CLASSIFICATION, REGRESSION = ("classification", "regression")
# The type of a label's column, and the field of an answer that holds the forecast.
LABEL_DTYPE: dict[Task, Any] = {"classification": "int64", "regression": "float64"}
ANSWER: dict[Task, str] = {"classification": "probability", "regression": "prediction"}

# The scores of which metrics.py tells a difference from chance: it needs those of rows drawn several times.
WEIGHABLE = ("roc_auc", "average_precision", "brier", "log_loss", "rmse", "mae", "r2", "bias")


def predicts_by(task: Task) -> Literal["predict_proba", "predict"]:
    """The method of an estimator that makes the forecasts of a task."""
    return "predict_proba" if task == CLASSIFICATION else "predict"


def forecast(model: Any, inputs: pd.DataFrame, task: Task) -> np.ndarray:
    """What a fitted estimator says of rows of model inputs, one number each."""
    found: np.ndarray = getattr(model, predicts_by(task))(inputs)
    return found[:, 1] if task == CLASSIFICATION else found
