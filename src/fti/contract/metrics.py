"""Scores of a forecast, of a probability or of a number: labels and forecasts in, named numbers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from fti.contract.task import CLASSIFICATION, REGRESSION, Task

CALIBRATION_BINS = 20
DRAWN_CELLS = 2_000_000  # draws times rows that are in memory at once: 16 MB an array
MISSING = "missing"


def _log_loss(labels: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    tiny = np.finfo(forecast.dtype).eps  # as scikit-learn clips
    return -np.log(np.clip(np.where(labels == 1, forecast, 1 - forecast), tiny, 1 - tiny))


# What a row contributes to a score that is a mean over rows. Of `bias`, above 0 the forecast is too high.
MEANS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "brier": lambda labels, forecast: (forecast - labels) ** 2,
    "log_loss": _log_loss,
    "bias": lambda labels, forecast: forecast - labels,
    "mae": lambda labels, forecast: np.abs(forecast - labels),
}
RANKING = ("roc_auc", "average_precision")  # of one outcome alone there is none
# What is told of each slice of the rows.
SLICE_COLUMNS: dict[Task, tuple[str, ...]] = {
    "classification": (
        "base_rate", "mean_forecast", "roc_auc", "average_precision", "brier", "log_loss", "calibration_error",
    ),
    "regression": ("mean_label", "mean_forecast", "rmse", "mae", "r2", "bias", "label_std"),
}  # fmt: skip
# The one score that a model is called good or bad by.
HEADLINE: dict[Task, str] = {"classification": "roc_auc", "regression": "rmse"}


def scores(labels: pd.Series, forecast: np.ndarray, task: Task = "classification") -> dict[str, float]:
    """The scores of a task.

    Classification: ROC AUC, average precision, log loss, Brier score, calibration error, base rate and row count; of
    rows with one outcome only the AUC and the average precision are undefined and left out. Regression: RMSE, MAE, R2,
    bias (above 0 the forecast is too high), mean and standard deviation of the labels, and row count; of rows with one
    label only R2 is undefined and left out.
    """
    return _of_probabilities(labels, forecast) if task == CLASSIFICATION else _of_numbers(labels, forecast)


def gain(own: float, other: float, task: Task) -> float:
    """How much better a headline score is than another: AUC won, or the share of the other's RMSE that is gone."""
    return own - other if task == CLASSIFICATION else 1 - own / other if other else 0.0


def _of_numbers(labels: pd.Series, forecast: np.ndarray) -> dict[str, float]:
    found = {
        "rmse": float(root_mean_squared_error(labels, forecast)),
        "mae": float(mean_absolute_error(labels, forecast)),
        "bias": float(forecast.mean() - labels.mean()),
        "mean_label": float(labels.mean()),
        "label_std": float(labels.std(ddof=0)),
        "rows": float(len(labels)),
    }
    if labels.nunique() > 1:
        found["r2"] = float(r2_score(labels, forecast))
    return found


def _of_probabilities(labels: pd.Series, probabilities: np.ndarray) -> dict[str, float]:
    found = {
        "log_loss": float(log_loss(labels, probabilities, labels=[0, 1])),
        "brier": float(brier_score_loss(labels, probabilities)),
        "calibration_error": calibration_error(labels, probabilities),
        "base_rate": float(labels.mean()),
        "rows": float(len(labels)),
    }
    if labels.nunique() == 2:
        found["roc_auc"] = float(roc_auc_score(labels, probabilities))
        found["average_precision"] = float(average_precision_score(labels, probabilities))
    return found


def calibration_error(labels: pd.Series, probabilities: np.ndarray) -> float:
    """Expected calibration error over bins of equally many rows (Naeini et al. 2015, Nixon et al. 2019)."""
    order = np.argsort(probabilities, kind="stable")
    gaps = [
        len(rows) * abs(float(probabilities[rows].mean()) - float(labels.to_numpy()[rows].mean()))
        for rows in np.array_split(order, CALIBRATION_BINS)
        if len(rows)
    ]
    return sum(gaps) / len(labels)


@dataclass(frozen=True)
class Difference:
    """A metric of one forecast less that of another, on the same rows, and the interval it lies in by chance."""

    value: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """No chance in the drawing of days explains it."""
        return self.low > 0 or self.high < 0


def differences(
    labels: np.ndarray, one: np.ndarray, other: np.ndarray, blocks: np.ndarray, metrics: Sequence[str],
    resamples: int, confidence: float, seed: int, task: Task = "classification",
) -> dict[str, Difference]:  # fmt: skip
    """`one` less `other` in each metric, with the two-sided bootstrap interval of that confidence.

    Paired: both are scored on the same draw. Drawn are whole `blocks`, days here, because the flights of a day share
    its weather: drawn one by one, they would seem to say more than they do (Künsch 1989). Metrics must be WEIGHABLE.
    """
    codes, draws = _draws(blocks, resamples, seed)
    draws = draws[_of_both(labels, codes, draws, task)]
    if not len(draws):
        return {}
    times = np.vstack([np.ones_like(draws[:1]), draws])  # first each block once: the rows as they are
    found = {}
    for metric in metrics:
        apart = _drawn(metric, labels, one, codes, times) - _drawn(metric, labels, other, codes, times)
        found[metric] = Difference(float(apart[0]), *_between(apart[1:], confidence))
    return found


def intervals(
    labels: np.ndarray, forecast: np.ndarray, blocks: np.ndarray, metrics: Sequence[str],
    resamples: int, confidence: float, seed: int, task: Task = "classification",
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """The two-sided bootstrap interval of each metric, drawn as in `differences`; none where one is undefined."""
    codes, draws = _draws(blocks, resamples, seed)
    ranked = draws[_of_both(labels, codes, draws, task)]
    of_metric = {metric: ranked if metric in RANKING else draws for metric in metrics}
    return {
        metric: _between(_drawn(metric, labels, forecast, codes, mine), confidence)
        for metric, mine in of_metric.items()
        if len(mine)
    }


def _draws(blocks: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The block of each row, and how often each draw has each block."""
    names, codes = np.unique(blocks, return_inverse=True)
    return codes, np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=resamples
    )


def _of_both(labels: np.ndarray, codes: np.ndarray, draws: np.ndarray, task: Task) -> np.ndarray:
    """Which draws have both outcomes, as RANKING needs."""
    if task == REGRESSION:
        return np.ones(len(draws), dtype=bool)
    late = draws @ np.bincount(codes, labels, draws.shape[1])
    return (late > 0) & (late < draws @ np.bincount(codes, minlength=draws.shape[1]))


def _drawn(metric: str, labels: np.ndarray, forecast: np.ndarray, codes: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """A score of each draw. What blocks contribute is summed once, so a draw costs as much as there are blocks."""
    blocks = draws.shape[1]

    def mean(values: np.ndarray) -> np.ndarray:
        return (draws @ np.bincount(codes, values, blocks)) / (draws @ np.bincount(codes, minlength=blocks))

    if metric in MEANS:
        return mean(MEANS[metric](labels, forecast))
    if metric in {"rmse", "r2"}:
        # No means over rows, but made of such.
        squared = mean((forecast - labels) ** 2)
        centred = labels - labels.mean()  # the variance of large numbers would be the small difference of two larger
        variance = mean(centred**2) - mean(centred) ** 2
        unexplained = np.divide(squared, variance, out=np.full(len(draws), np.nan), where=variance > 0)
        return np.sqrt(squared) if metric == "rmse" else 1 - unexplained
    if metric == "roc_auc":
        late, other = (np.bincount(codes[labels == outcome], minlength=blocks) for outcome in (1, 0))
        ranked = ((draws @ _ranked_right(labels, forecast, codes, blocks)) * draws).sum(axis=1)
        return ranked / ((draws @ late) * (draws @ other))
    order = np.argsort(forecast, kind="stable")
    starts = np.flatnonzero(np.diff(forecast[order], prepend=-np.inf))  # of rows with the same forecast
    few = np.array_split(draws, -(-len(draws) * len(order) // DRAWN_CELLS))
    return np.concatenate([_average_precision(labels[order], starts, some[:, codes[order]]) for some in few])


def _average_precision(labels: np.ndarray, starts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Of each draw: the mean, over its positives, of the precision among all rows with no lower a forecast."""
    positive, rows = (np.add.reduceat(one, starts, axis=1) for one in (times * labels, times))
    hits, called = (one[:, ::-1].cumsum(axis=1)[:, ::-1] for one in (positive, rows))
    precision = np.divide(hits, called, out=np.zeros(hits.shape), where=called > 0)
    return np.einsum("ij,ij->i", positive, precision) / positive.sum(axis=1)


def _ranked_right(labels: np.ndarray, forecast: np.ndarray, codes: np.ndarray, blocks: int) -> np.ndarray:
    """Of block i's positives and block j's negatives, how many pairs are in the right order; a tie is half a one."""
    positive = labels == 1
    pairs = np.zeros((blocks, blocks))
    for block in range(blocks):
        negatives = np.sort(forecast[~positive & (codes == block)])
        below, upto = (np.searchsorted(negatives, forecast[positive], side) for side in ("left", "right"))
        pairs[:, block] = np.bincount(codes[positive], (below + upto) / 2, blocks)
    return pairs


def _between(values: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def slice_scores(
    columns: pd.DataFrame, cuts: Mapping[str, Sequence[float]], labels: pd.Series, forecast: np.ndarray,
    task: Task = "classification",
) -> pd.DataFrame:  # fmt: skip
    """Scores of each slice of the rows: columns slice, group, rows, mean_forecast and those of `scores` of the task.

    A text column has a slice for each value; a number one for each stretch between its `cuts`, and one where it is
    missing. Columns that are not there are left out.
    """
    rows = []
    for name in cuts:
        if name not in columns:
            continue
        groups = _groups(columns[name], cuts[name])
        for group in groups.cat.categories:
            mine = (groups == group).to_numpy()
            if not mine.any():
                continue
            found = scores(labels[mine], forecast[mine], task)
            rows.append({"slice": name, "group": group, "mean_forecast": float(forecast[mine].mean())} | found)
    table = pd.DataFrame(rows, columns=["slice", "group", "rows", *SLICE_COLUMNS[task]])
    return table.astype({"rows": "int64"})


def _groups(values: pd.Series, cuts: Sequence[float]) -> pd.Series:
    """The slice of each row: categories of text, in order."""
    if not pd.api.types.is_numeric_dtype(values):
        return values.fillna(MISSING).astype(str).astype("category")
    edges = [-np.inf, *sorted(cuts), np.inf]
    names = ["known"]
    if cuts:
        between = (f"{low:g} to {high:g}" for low, high in pairwise(edges[1:-1]))
        names = [f"below {edges[1]:g}", *between, f"from {edges[-2]:g}"]
    return pd.cut(values, edges, right=False, labels=names).cat.add_categories(MISSING).fillna(MISSING)
