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

from fti.contract.task import REGRESSION, Task

IMPORTANCE_ROWS, IMPORTANCE_REPEATS = 2000, 2
RESIDUAL_BINS = 20
# What a feature's shuffling costs, to scikit-learn and in words; which score of a slice is drawn, and what came there.
SCORINGS: dict[Task, tuple[str, str]] = {
    "classification": ("roc_auc", "AUC lost"),
    "regression": ("neg_root_mean_squared_error", "RMSE added"),
}
SLICED: dict[Task, tuple[str, str, str, str]] = {
    "classification": ("roc_auc", "AUC", "base_rate", "share of positive rows"),
    "regression": ("rmse", "RMSE", "mean_label", "mean of the label"),
}


def figures(
    model: Any, inputs: pd.DataFrame, labels: pd.Series, forecasts: Mapping[str, np.ndarray], slices: pd.DataFrame,
    seed: int, task: Task = "classification",
) -> dict[str, Figure]:  # fmt: skip
    """Importance and slices of the model's; of all `forecasts`, of a probability ROC, precision-recall, gain and
    calibration curves, of a number what came and what was left over by what was predicted."""
    of_model = {
        "permutation_importance.png": _importance(model, inputs, labels, seed, task),
        "slices.png": _slices(slices, task),
    }
    if task == REGRESSION:
        predicted = {
            "predicted_vs_actual.png": _predicted(labels, forecasts["model"]),
            "residuals.png": _residuals(labels, forecasts),
        }
        return predicted | of_model
    return {
        "roc.png": _curves(RocCurveDisplay, labels, forecasts),
        "precision_recall.png": _curves(PrecisionRecallDisplay, labels, forecasts),
        "calibration.png": _curves(CalibrationDisplay, labels, forecasts, n_bins=20, strategy="quantile"),
        "gain.png": _gain(labels, forecasts),
    } | of_model


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
    """Which share of the rows labelled 1 is among the share of all rows that are forecast to be likeliest to be 1."""
    figure, axes = _figure(6, 5)
    share = np.linspace(0, 1, len(labels) + 1)
    for name, probabilities in forecasts.items():
        late = labels.to_numpy()[np.argsort(-probabilities, kind="stable")]
        axes.plot(share, np.concatenate([[0], np.cumsum(late) / late.sum()]), label=name)
    axes.plot([0, 1], [0, 1], "k:", label="by chance")
    axes.set(xlabel="share of all rows, likeliest first", ylabel="share of the positive ones found")
    axes.legend()
    return figure


def _predicted(labels: pd.Series, forecast: np.ndarray) -> Figure:
    """How often which outcome came where which was predicted, and the line where all would be."""
    figure, axes = _figure(6, 5)
    cells = axes.hexbin(forecast, labels, gridsize=40, bins="log", mincnt=1)
    ends = [min(forecast.min(), labels.min()), max(forecast.max(), labels.max())]
    axes.plot(ends, ends, "k:")
    axes.set(xlabel="predicted", ylabel="actual")
    figure.colorbar(cells, label="rows")
    return figure


def _residuals(labels: pd.Series, forecasts: Mapping[str, np.ndarray]) -> Figure:
    """What came less what was predicted, its mean and its middle half, of bins of equally many rows by prediction."""
    figure, axes = _figure(6, 5)
    for name, forecast in forecasts.items():
        residuals = labels.to_numpy() - forecast
        bins = [rows for rows in np.array_split(np.argsort(forecast, kind="stable"), RESIDUAL_BINS) if len(rows)]
        at = [forecast[rows].mean() for rows in bins]
        (line,) = axes.plot(at, [residuals[rows].mean() for rows in bins], "o-", label=name, markersize=3)
        low, high = np.array([np.quantile(residuals[rows], [0.25, 0.75]) for rows in bins]).T
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.1)
    axes.axhline(0, color="k", linestyle=":")
    axes.set(xlabel="predicted", ylabel="actual less predicted: mean, and the middle half")
    axes.legend()
    return figure


def _importance(model: Any, inputs: pd.DataFrame, labels: pd.Series, seed: int, task: Task) -> Figure:
    sample = inputs.sample(min(IMPORTANCE_ROWS, len(inputs)), random_state=seed)
    scoring, lost = SCORINGS[task]
    drop = permutation_importance(
        model, sample, labels[sample.index], scoring=scoring, n_repeats=IMPORTANCE_REPEATS, random_state=seed
    )
    order = np.argsort(drop.importances_mean)
    figure, axes = _figure(7, 1 + 0.2 * len(order))
    axes.barh(inputs.columns[order], drop.importances_mean[order], xerr=drop.importances_std[order])
    axes.set_xlabel(f"{lost} when the feature is shuffled ({len(sample)} rows)")
    return figure


def _slices(slices: pd.DataFrame, task: Task) -> Figure:
    """The AUC or RMSE of each slice, and its forecast beside what came."""
    score, words, came, axis = SLICED[task]
    names = [f"{row.slice} = {row.group} ({row.rows:,})" for row in slices.itertuples()]
    figure = Figure(figsize=(9, 1 + 0.2 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot(slices[score], names, "o")
    left.set_xlabel(words)
    right.plot(slices[came], names, "o", label="came")
    right.plot(slices.mean_forecast, names, "x", label="forecast")
    right.set_xlabel(axis)
    right.legend()
    left.invert_yaxis()
    return figure
