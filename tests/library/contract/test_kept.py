"""Model versions and runs that a policy lets go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from fti.contract.kept import PARENT, delete_old
from fti.contract.registered import SERVICE_TAG

MODEL, SERVICES = "pump-failure", ["pump_v1", "pump_v2"]
DAY = timedelta(days=1)
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"


def run(client: MlflowClient, experiment: str, days_ago: float | None, **tags: str) -> str:
    """A run that ended so long ago; None: it is still running."""
    made = client.create_run(experiment, tags=tags).info.run_id
    if days_ago is not None:
        client.set_terminated(made, end_time=int((NOW - days_ago * DAY).timestamp() * 1000))
    return made


def test_old_runs_of_no_version_and_old_versions_without_an_alias_go_and_nothing_else(template: str, tmp_path: Path):
    """More of them than one page has; the trials of a run go with it; another project's stay."""
    client = MlflowClient(template)
    experiment = client.create_experiment("pumps")
    service = {SERVICE_TAG: "pump_v1"}
    kept = {
        "of a version": run(client, experiment, 500, **service),
        "of a champion": run(client, experiment, 500, **service),
        "young": run(client, experiment, 1, **service),
        "running": run(client, experiment, None, **service),
        "of another project": run(client, experiment, 500, **{SERVICE_TAG: "delay_v1"}),
    }
    old = [run(client, experiment, 500, **{SERVICE_TAG: name}) for name in SERVICES * 2]
    trials = [run(client, experiment, 500, **{PARENT: old[0]}) for _ in range(3)]
    for name in (MODEL, "another"):
        client.create_registered_model(name)
        client.create_model_version(name, str(tmp_path), kept["of a champion"])
        client.create_model_version(name, str(tmp_path), kept["of a version"])
    client.set_registered_model_alias(MODEL, "champion", "1")
    assert delete_old(client, MODEL, SERVICES, NOW - 400 * DAY) == (0, 4)
    living = {one.info.run_id for one in client.search_runs([experiment])}
    assert living == set(kept.values())
    hidden = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
    assert {one.info.run_id for one in hidden} == {*old, *trials}
    assert delete_old(client, MODEL, SERVICES, NOW + DAY) == (1, 1)  # the young one, too
    assert [one.version for one in client.search_model_versions(f"name = '{MODEL}'")] == [1]
    assert len(client.search_model_versions("name = 'another'")) == 2
    assert delete_old(client, "unknown", [], NOW + DAY) == (0, 0)


def test_all_pages_are_read(template: str, monkeypatch: pytest.MonkeyPatch):
    client = MlflowClient(template)
    experiment = client.create_experiment("many")
    for _ in range(7):
        run(client, experiment, 500, **{SERVICE_TAG: "many_v1"})
    search = client.search_runs
    monkeypatch.setattr(client, "search_runs", lambda *given, **named: search(*given, **named, max_results=2))
    assert delete_old(client, "many", ["many_v1"], NOW - 400 * DAY) == (0, 7)
