"""What was logged of versions that the registry has, and of one that it has no more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fti.contract.predictions import PREDICTIONS, create, open_log
from fti.monitoring.logged import Unfetched, logged

START = datetime(2013, 10, 1, tzinfo=UTC)
ROW = {
    "row": 0, "role": "champion", "predicted_at": START, "as_of": START, "model_name": "late", "contract_sha256": "0",
    "feature_service": "late_v1", "request": "{}", "features": "{}", "ages": "{}", "prediction": 0.5,
}  # fmt: skip


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
