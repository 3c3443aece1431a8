"""The log of predictions, read in batches: against plain JSON and pandas; versions that are no more."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import select

from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import FeatureInterface
from fti.contract.predictions import PREDICTIONS, create, open_log
from fti.contract.spine import PREDICTION_TIME
from fti.monitoring.logged import Predictions, Unfetched, logged, together

START = datetime(2024, 1, 1, tzinfo=UTC)
INTERFACE = FeatureInterface.model_validate({
    "feature_service": "pumps_v1",
    "inputs": [{"name": name, "dtype": kind, "source": "wear"} for name, kind in
               {"heat": "double", "Heat": "int64", "on": "bool", "site": "string", "big": "int64"}.items()],
    "join_keys": [],
    "request_fields": [{"name": name, "dtype": kind, "required": True, "description": "-"} for name, kind in
                       {"site": "string", "opened": "unix_timestamp", "count": "int64", "hot": "bool"}.items()],
    "stored_views": [{"name": name, "join_keys": ["site"], "ttl_seconds": 0, "missing": "-", "features": {}}
                     for name in ("wear", "it's")],
    "on_demand_views": [], "spine_view": "runs", "label_view": "failures", "label": "failed",
    "label_definition": "-", "prediction_anchor": "opened", "prediction_lead_minutes": 0,
})  # fmt: skip
FEATURES = [
    {"heat": 0.1 + 0.2, "Heat": 3, "on": True, "site": "a", "big": 2**53 + 2},
    {"heat": None, "Heat": None, "on": None, "site": None, "big": None},
    {"heat": 24, "Heat": 24.0, "on": 1.0, "site": "ü \"'\\ \n", "big": -1},
    {"heat": 5e-324, "site": ""},
]
REQUESTS = [
    {"site": "a", "opened": "2024-01-01T01:00:00.123456Z", "count": 2**53 + 1, "hot": True},
    {"site": None, "opened": None, "count": None, "hot": None},
    {"site": "b", "opened": "2024-01-01T01:00:00+00:00", "count": 5, "hot": False},
    {"site": "", "opened": "2023-12-31T23:00:00Z", "count": 0, "hot": True},
]
ROW = {
    "row": 0, "role": "champion", "predicted_at": START, "as_of": START, "model_name": "late", "contract_sha256": "0",
    "feature_service": "late_v1", "request": "{}", "features": "{}", "ages": "{}", "prediction": 0.5,
}  # fmt: skip


@pytest.fixture
def predictions(url: str) -> Predictions:
    """Eight rows in no order, of which the last four say how old their features were."""
    engine = open_log(url)
    create(engine)
    about = {
        "role": "champion", "predicted_at": START, "model_name": "m", "model_version": "1", "contract_sha256": "0",
        "feature_service": "pumps_v1",
    }  # fmt: skip
    rows = [
        about | {
            "request_id": f"r{number}", "row": 0, "as_of": START + timedelta(hours=number // 2),
            "prediction": number / 7,
            "request": json.dumps(REQUESTS[number % 4]), "features": json.dumps(FEATURES[number % 4]),
            "ages": json.dumps({"wear": 1.5, "it's": None} if number > 3 else {}, separators=(",", ":")),
            "row_key": None if number % 2 else f"k{number}",
        }
        for number in range(8)
    ]  # fmt: skip
    with engine.begin() as connection:
        connection.execute(PREDICTIONS.insert(), rows[::-1])
    columns = PREDICTIONS.c
    asked = select(
        columns.as_of, columns.request, columns.features, columns.ages, columns.prediction, columns.row_key
    ).order_by(columns.as_of, columns.request_id, columns.row)
    return Predictions("m", "1", "champion", "run", FeatureContract.model_construct(interface=INTERFACE), engine, asked)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_batches_together_are_the_log(predictions: Predictions, rows: int) -> None:
    """Every value to the last bit, in order, in the types of the contract, whatever the size of a batch."""
    served = together(list(predictions.batches(rows)))
    assert served.predictions.tolist() == [number / 7 for number in range(8)]
    assert served.row_keys.tolist() == ["k0", None, "k2", None, "k4", None, "k6", None]
    wanted = INTERFACE.model_inputs(
        pd.DataFrame([json.loads(json.dumps(one)) for one in FEATURES] * 2, columns=[*FEATURES[0]], dtype=object)
    )
    pd.testing.assert_frame_equal(served.features, wanted, check_exact=True)
    asked = served.requests
    assert asked["count"].tolist() == [2**53 + 1, pd.NA, 5, 0] * 2
    assert asked["site"].tolist() == ["a", None, "b", ""] * 2
    assert [None if pd.isna(one) else one.isoformat() for one in asked["opened"]][:4] == [
        "2024-01-01T01:00:00.123456+00:00", None, "2024-01-01T01:00:00+00:00", "2023-12-31T23:00:00+00:00",
    ]  # fmt: skip
    assert asked[PREDICTION_TIME].tolist() == [START + timedelta(hours=number // 2) for number in range(8)]
    assert {str(kind) for kind in asked.dtypes} == {"object", "datetime64[us, UTC]", "Int64", "boolean"}
    assert served.ages["wear"].isna().tolist() == [True] * 4 + [False] * 4
    assert served.ages["it's"].isna().all()


def test_a_batch_that_does_not_say_how_old_its_rows_were_has_no_ages(predictions: Predictions) -> None:
    """As of batch scoring."""
    first, second = predictions.batches(4)
    assert [*first.ages] == []
    assert len(first.ages) == 4
    assert [*second.ages] == ["wear", "it's"]


def test_a_version_that_cannot_be_fetched_is_told_and_keeps_nobody_from_the_others(tmp_path: Path, monkeypatch):
    """One that was deleted, and one whose files are gone; a registry that does not answer is an error."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = MlflowClient()
    client.create_registered_model("late")
    for _ in range(2):
        client.create_model_version("late", source=f"file://{tmp_path / 'nowhere'}")
    client.delete_model_version("late", "1")
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    rows = [ROW | {"request_id": f"{version}-{n}", "model_version": version} for version in "12" for n in range(3)]
    with engine.begin() as connection:
        connection.execute(PREDICTIONS.insert(), rows)
    deleted, lost = logged(engine, "late", START, START + timedelta(days=1))
    assert isinstance(deleted, Unfetched)
    assert isinstance(lost, Unfetched)
    assert (deleted.subject, deleted.rows) == ("late version 1, champion", 3)
    assert "has no version 1 of 'late' any more" in deleted.why
    assert "its files cannot be fetched" in lost.why
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException):
        list(logged(engine, "late", START, START + timedelta(days=1)))
