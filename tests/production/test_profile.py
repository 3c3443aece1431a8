"""The production profile on real servers: the whole journey, who may do what, and what happens when a server dies.

`make test-production` runs it; `make test` does not: it takes as long as half of all other tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import psycopg
import pytest
import redis
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from deploy.production import main as production
from deploy.stack import HOST, SERVERS, Stack
from tests.conftest import ROOT
from validation.monitoring.results import saved
from validation.predictions import open_log, read

pytestmark = pytest.mark.production
PATIENCE = 120
AS_OF = pd.Timestamp("2013-10-01", tz="UTC")
FLIGHT = {
    "as_of": "2013-10-01T00:00:00Z", "carrier": "DL", "origin": "LGA", "dest": "ATL",
    "scheduled_departure": "2013-10-01T12:00:00Z", "scheduled_arrival": "2013-10-01T14:30:00Z",
}  # fmt: skip


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Up, with features, a model, and a service that answers."""
    folder = Path(tempfile.mkdtemp(prefix="fti"))  # a socket's path is short, and Postgres is another user
    folder.chmod(0o755)
    here = Stack(folder / "production")
    try:
        assert production(["--folder", str(here.root), "up"]) == 0
        run(here, "features", "-m", "feature_repo.pipeline.run", "all")
        run(here, "loop", "-m", "mlflow", "run", "training", "-e", "main", "--env-manager", "local",
            "-P", "feature_service=arrival_delay_v1")  # fmt: skip
        until(lambda: ask(here).status_code == 200)
        yield here
    finally:
        assert production(["--folder", str(here.root), "down"]) == 0
        assert not [process for process in psutil.process_iter(["cmdline"]) if str(here.root) in str(process.info)]
        shutil.rmtree(folder)


def run(stack: Stack, role: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with_role = ["-m", "deploy.production", "--folder", str(stack.root), "run", role]
    done = subprocess.run(
        [sys.executable, *with_role, sys.executable, *arguments],
        cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode in codes, done.stderr[-4000:]


def ask(stack: Stack, **change: Any) -> requests.Response:
    return requests.post(f"{stack.url('service')}/predict", json=FLIGHT | change, timeout=30)


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if true():
                return
        except requests.RequestException:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)


def environment(stack: Stack, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack.environment(role).items():
        monkeypatch.setenv(name, value)


def test_the_service_answers_from_these_servers_and_logs_there(stack):
    response = ask(stack)
    answer, name = response.json(), response.headers["X-Request-ID"]
    assert 0 < answer["probability"] < 1
    assert answer["missing"] == []

    def logged() -> pd.DataFrame:
        rows = read(open_log(stack.postgres("monitor", "predictions")), AS_OF, AS_OF + pd.Timedelta(days=1))
        return rows[rows.request_id == name]

    until(lambda: len(logged()) == 1)
    (row,) = logged().to_dict("records")
    assert row["probability"] == answer["probability"]
    assert json.loads(row["features"]) == {name: one["value"] for name, one in answer["features"].items()}


def test_what_was_served_is_what_the_offline_store_says(stack):
    """Valkey and the Delta tables in the object store, compared value by value by the monitor; and batch scores."""
    run(stack, "loop", "-m", "serving.batch", "--as-of", "2013-10-01")
    for carrier in ("DL", "UA", "B6"):
        assert ask(stack, carrier=carrier).status_code == 200
    end = AS_OF + pd.Timedelta(hours=6)
    engine = open_log(stack.postgres("monitor", "predictions"))
    until(lambda: (read(engine, AS_OF, end).role == "champion").sum() >= 3)
    run(stack, "loop", "-m", "validation.monitoring.run", "--as-of", end.isoformat(), "--days", "1", codes=(0, 3))
    found = {one.subject.rpartition(", ")[2]: one for one in saved(engine, end) if one.metric == "consistency"}
    assert {kind: one.value for kind, one in found.items()} == {"batch": 1.0, "champion": 1.0}
    assert found["champion"].rows >= 3


def test_serving_can_read_features_and_models_and_change_neither(stack, monkeypatch):
    reader = redis.Redis(HOST, stack.port("valkey"), username="serving", password=stack.password("valkey-serving"))
    with pytest.raises(redis.exceptions.NoPermissionError):
        reader.hset("key", "field", "value")
    with pytest.raises(redis.exceptions.NoPermissionError):
        reader.flushall()
    for database, statement in {
        "feast": "DELETE FROM feature_views", "predictions": "DELETE FROM predictions", "mlflow": "SELECT 1"
    }.items():  # fmt: skip
        with (
            pytest.raises(psycopg.Error, match="permission denied"),
            psycopg.connect(
                host=HOST,
                port=stack.port("postgres"),
                user="serving",
                password=stack.password("serving"),
                dbname=database,
            ) as connection,
        ):
            connection.execute(statement)
    environment(stack, "serving", monkeypatch)
    client = MlflowClient()
    version = client.get_model_version_by_alias("arrival-delay", "champion").version
    with pytest.raises(MlflowException, match="Permission denied"):
        client.set_registered_model_alias("arrival-delay", "champion", version)
    with pytest.raises(MlflowException, match="Permission denied"):
        client.delete_model_version("arrival-delay", version)


def test_nobody_gets_in_without_a_password(stack):
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(HOST, stack.port("valkey")).ping()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=HOST, port=stack.port("postgres"), user="features", dbname="feast", password="guess")
    assert (
        requests.get(f"{stack.url('mlflow')}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=10).status_code
        == 401
    )


def test_secrets_are_their_owners_alone(stack):
    """Every file that holds a password, and none of them in what processes are called."""
    passwords = stack.settings["passwords"].values()
    files = [file for file in stack.root.rglob("*") if file.is_file() and "postgres" not in file.parts]
    holding = [file for file in files if any(password.encode() in file.read_bytes() for password in passwords)]
    assert {file.name for file in holding} >= {"settings.json", "supervisor.conf", "users.acl", "serving.env"}
    assert {file.stat().st_mode & 0o077 for file in holding} == {0}
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [one for one in commands if any(password in " ".join(one) for password in passwords)]


@pytest.mark.parametrize("server", [name for name in SERVERS if name != "objects"])
def test_a_server_that_is_killed_comes_back_and_so_do_answers(stack, server):
    before = ask(stack).json()["probability"]
    port = stack.port(server)
    listening = {one.pid for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port}
    for process in [psutil.Process(pid) for pid in listening]:
        process.kill()
    until(lambda: ask(stack).status_code == 200)
    assert ask(stack).json()["probability"] == before
    assert production(["--folder", str(stack.root), "up"]) == 0
