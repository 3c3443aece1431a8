"""What the feature store has to better, where the request by itself says nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from fti.contract.metrics import HEADLINE, gain, scores
from fti.training.baseline import without_stored_features
from fti.training.config import load_config
from fti.training.dataset import LabelledRows


@pytest.mark.parametrize(("task", "rule"), [("classification", 0.7 - 0.5), ("regression", 1 - 0.7 / 1.5)])
def test_a_service_that_takes_nothing_from_the_request_is_weighed_against_the_mean(task, rule):
    """No `key_features`, no feature of the request: the gate still has a reference, and its rule a score to judge."""
    labels = [0, 0, 1, 1] if task == "classification" else [1.0, 1.0, 4.0, 4.0]
    interface = SimpleNamespace(request_inputs=[], categories=[], task=task, label="late")
    rows = LabelledRows(pd.DataFrame({"load": [1.0, 2.0, 3.0, 4.0], "late": labels}), interface, "flight_id")
    (predict,) = without_stored_features(rows, load_config({}).model).values()
    assert predict(rows).tolist() == [sum(labels) / 4] * 4
    reference = scores(rows.labels, predict(rows), task)[HEADLINE[task]]
    assert gain(0.7, reference, task) == pytest.approx(rule)
