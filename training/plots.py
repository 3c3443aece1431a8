"""Pictures of a fitted model on rows it was not fitted to: matplotlib figures out, by file name."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display on a server

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay
from sklearn.inspection import permutation_importance
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay
from sklearn.pipeline import Pipeline

IMPORTANCE_ROWS, IMPORTANCE_REPEATS = 2000, 2


def figures(
    model: Pipeline, inputs: pd.DataFrame, labels: pd.Series, reference: np.ndarray, seed: int
) -> dict[str, Figure]:
    """ROC, precision-recall and calibration curves beside those of a reference forecast, and permutation importance."""
    forecasts = {"model": model.predict_proba(inputs)[:, 1], "request-time features only": reference}
    return {
        "roc.png": _curves(RocCurveDisplay, labels, forecasts),
        "precision_recall.png": _curves(PrecisionRecallDisplay, labels, forecasts),
        "calibration.png": _curves(CalibrationDisplay, labels, forecasts, n_bins=20, strategy="quantile"),
        "permutation_importance.png": _importance(model, inputs, labels, seed),
    }


def _curves(display: Any, labels: pd.Series, forecasts: dict[str, np.ndarray], **options: Any) -> Figure:
    """One curve a forecast; `display` is one of scikit-learn's display classes."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for name, probabilities in forecasts.items():
        display.from_predictions(labels, probabilities, name=name, ax=axes, **options)
    return figure


def _importance(model: Pipeline, inputs: pd.DataFrame, labels: pd.Series, seed: int) -> Figure:
    sample = inputs.sample(min(IMPORTANCE_ROWS, len(inputs)), random_state=seed)
    drop = permutation_importance(
        model, sample, labels[sample.index], scoring="roc_auc", n_repeats=IMPORTANCE_REPEATS, random_state=seed
    )
    order = np.argsort(drop.importances_mean)
    figure = Figure(figsize=(7, 1 + 0.2 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.barh(inputs.columns[order], drop.importances_mean[order], xerr=drop.importances_std[order])
    axes.set_xlabel(f"AUC lost when the feature is shuffled ({len(sample)} rows)")
    return figure
