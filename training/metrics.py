"""Scores of a probability forecast: labels and probabilities in, named numbers out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

CALIBRATION_BINS = 20


def scores(labels: pd.Series, probabilities: np.ndarray) -> dict[str, float]:
    """ROC AUC, average precision, log loss, Brier score, calibration error, base rate and row count.

    Of rows with one outcome only the AUC and the average precision are undefined and left out.
    """
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
