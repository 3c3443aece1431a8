"""Pictures of a fitted model on rows it was not fitted to: matplotlib figures out, by file name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display on a server

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay
from sklearn.inspection import permutation_importance
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

IMPORTANCE_ROWS, IMPORTANCE_REPEATS = 2000, 2


def figures(
    model: Any, inputs: pd.DataFrame, labels: pd.Series, forecasts: Mapping[str, np.ndarray], slices: pd.DataFrame,
    seed: int,
) -> dict[str, Figure]:  # fmt: skip
    """ROC, precision-recall, gain and calibration curves of all `forecasts`; importance and slices of the model's."""
    return {
        "roc.png": _curves(RocCurveDisplay, labels, forecasts),
        "precision_recall.png": _curves(PrecisionRecallDisplay, labels, forecasts),
        "calibration.png": _curves(CalibrationDisplay, labels, forecasts, n_bins=20, strategy="quantile"),
        "gain.png": _gain(labels, forecasts),
        "permutation_importance.png": _importance(model, inputs, labels, seed),
        "slices.png": _slices(slices),
    }


def search_figure(values: list[float], metric: str) -> Figure:
    """Each trial of a search, and the best so far."""
    figure, axes = _figure(6, 4)
    trials = np.arange(len(values))
    axes.plot(trials, values, "o", label="trial")
    axes.step(trials, np.minimum.accumulate(values), where="post", label="best so far")
    axes.set(xlabel="trial", ylabel=metric)
    axes.legend()
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _curves(display: Any, labels: pd.Series, forecasts: Mapping[str, np.ndarray], **options: Any) -> Figure:
    """One curve a forecast; `display` is one of scikit-learn's display classes."""
    figure, axes = _figure(6, 5)
    for name, probabilities in forecasts.items():
        display.from_predictions(labels, probabilities, name=name, ax=axes, **options)
    return figure


def _gain(labels: pd.Series, forecasts: Mapping[str, np.ndarray]) -> Figure:
    """Which share of the late flights is among the share of all flights that are forecast to be likeliest late."""
    figure, axes = _figure(6, 5)
    share = np.linspace(0, 1, len(labels) + 1)
    for name, probabilities in forecasts.items():
        late = labels.to_numpy()[np.argsort(-probabilities, kind="stable")]
        axes.plot(share, np.concatenate([[0], np.cumsum(late) / late.sum()]), label=name)
    axes.plot([0, 1], [0, 1], "k:", label="by chance")
    axes.set(xlabel="share of all rows, likeliest first", ylabel="share of the positive ones found")
    axes.legend()
    return figure


def _importance(model: Any, inputs: pd.DataFrame, labels: pd.Series, seed: int) -> Figure:
    sample = inputs.sample(min(IMPORTANCE_ROWS, len(inputs)), random_state=seed)
    drop = permutation_importance(
        model, sample, labels[sample.index], scoring="roc_auc", n_repeats=IMPORTANCE_REPEATS, random_state=seed
    )
    order = np.argsort(drop.importances_mean)
    figure, axes = _figure(7, 1 + 0.2 * len(order))
    axes.barh(inputs.columns[order], drop.importances_mean[order], xerr=drop.importances_std[order])
    axes.set_xlabel(f"AUC lost when the feature is shuffled ({len(sample)} rows)")
    return figure


def _slices(slices: pd.DataFrame) -> Figure:
    """The AUC of each slice, and its forecast beside what came."""
    names = [f"{row.slice} = {row.group} ({row.rows:,})" for row in slices.itertuples()]
    figure = Figure(figsize=(9, 1 + 0.2 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot(slices.roc_auc, names, "o")
    left.set_xlabel("AUC")
    right.plot(slices.base_rate, names, "o", label="came")
    right.plot(slices.mean_forecast, names, "x", label="forecast")
    right.set_xlabel("share of positive rows")
    right.legend()
    left.invert_yaxis()
    return figure
