"""The journey: raw events to features, a model that passes the gate, a prediction over HTTP, a day scored in bulk."""

from __future__ import annotations

import json
import math
import sqlite3
import urllib.request
from contextlib import closing
from typing import Any

from fti.contract.registered import REASONS_TAG
from fti.project import project
from tests.conftest import Workspace
from tests.interval import AS_OF


def fetch(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_the_model_passes_the_gate(trained: Workspace) -> None:
    """The version that was trained is the champion; if the gate refused it, its reasons are shown."""
    from mlflow import MlflowClient

    client, name = MlflowClient(f"sqlite:///{trained.root / 'mlflow.db'}"), project().model_name
    model = client.get_registered_model(name)
    newest = max(client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version))
    reasons = newest.tags.get(REASONS_TAG, "it was never judged")
    assert "champion" in model.aliases, f"The gate refused version {newest.version}: {reasons}"


def test_the_service_answers_its_own_example(service: str) -> None:
    """The request that the service describes itself with gets a finite number, and is explained by its inputs."""
    described = fetch(f"{service}/openapi.json")["paths"]["/predict"]["post"]
    example = described["requestBody"]["content"]["application/json"]["schema"]["example"]
    answer = fetch(f"{service}/predict", example)
    assert math.isfinite(answer.get("probability", answer.get("prediction")))


def test_a_day_is_scored_in_bulk_and_watched(trained: Workspace) -> None:
    """Every row to predict of a day is scored once, and the monitors judge what they can."""
    trained.run("fti.cli", "batch", "--as-of", AS_OF, "--days", "1")
    with closing(sqlite3.connect(trained.root / "predictions.db")) as log:
        (rows, keys) = log.execute(
            "SELECT count(*), count(DISTINCT row_key) FROM predictions WHERE row_key IS NOT NULL"
        ).fetchone()
    assert rows == keys > 0
