"""Scores of what was served, beside those of training."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fti.contract.spine import PREDICTION_TIME
from fti.monitoring.logged import Logged
from fti.monitoring.quality import quality


@pytest.mark.parametrize(("task", "strange"), [("classification", [0.5, 2.0]), ("regression", [np.inf, -np.inf])])
def test_labels_that_training_refuses_are_left_out_and_counted(task: Any, strange: list[float]) -> None:
    """As whole numbers they would be other labels."""
    start = datetime(2013, 10, 1, tzinfo=UTC)
    labels = pd.Series([0.0, 1.0, np.nan, *strange] * 100)
    rows = len(labels)
    contract: Any = SimpleNamespace(interface=SimpleNamespace(task=task))
    moments = pd.DataFrame({PREDICTION_TIME: pd.date_range(start, periods=rows, freq="min")})
    nothing = pd.DataFrame(index=range(rows))
    served = Logged("m", "1", "champion", "run", contract, moments, nothing, nothing, pd.Series([0.5] * rows), labels)
    found = {one.metric: one for one in quality(served, labels, {}, {}, start, start + timedelta(days=1))}
    assert (found["unusable_labels"].value, found["unusable_labels"].verdict) == (200, "investigate")
    assert found["label_coverage"].value == 200 / rows
    whole = quality(served, labels.where(labels.isin((0, 1))), {}, {}, start, start + timedelta(days=1))
    assert [one for name, one in found.items() if name != "unusable_labels"] == whole
