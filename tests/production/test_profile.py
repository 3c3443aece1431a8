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
from itertools import pairwise
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

from fti.contract.predictions import open_log, read
from fti.contract.results import saved
from fti.deploy.production import main as production
from fti.deploy.stack import HOST, SERVERS, Stack
from fti.deploy.supervision import control
from tests.conftest import ROOT
from tests.receiver import OK

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
        run(here, "features", "-m", "fti.features.run", "all")
        run(here, "loop", "-m", "mlflow", "run", "training", "-e", "main", "--env-manager", "local",
            "-P", "feature_service=arrival_delay_v1")  # fmt: skip
        until(lambda: len(metrics(here, "fti_model_version{")) == here.workers)  # each has the model
        yield here
    finally:
        assert production(["--folder", str(here.root), "down"]) == 0
        assert not [process for process in psutil.process_iter(["cmdline"]) if str(here.root) in str(process.info)]
        shutil.rmtree(folder)


def run(stack: Stack, role: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with_role = ["-m", "fti.deploy.production", "--folder", str(stack.root), "run", role]
    done = subprocess.run(
        [sys.executable, *with_role, sys.executable, *arguments],
        cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode in codes, done.stderr[-4000:]


def ask(stack: Stack, **change: Any) -> requests.Response:
    return requests.post(f"{stack.url('service')}/predict", json=FLIGHT | change, timeout=30)


def status_of(stack: Stack) -> int:
    return ask(stack).status_code


def metrics(stack: Stack, start: str) -> list[float]:
    """The samples of the service whose line starts so; what a worker exports has a series of its own for each."""
    lines = requests.get(f"{stack.url('service')}/metrics", timeout=30).text.splitlines()
    return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(start)]


def listening(stack: Stack, server: str) -> list[psutil.Process]:
    """The processes at a server's port."""
    port = stack.port(server)
    pids = {one.pid for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port}
    return [psutil.Process(pid) for pid in pids]


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
    assert row["prediction"] == answer["probability"]
    assert json.loads(row["features"]) == {name: one["value"] for name, one in answer["features"].items()}


def test_what_was_served_is_what_the_offline_store_says(stack):
    """Valkey and the Delta tables in the object store, compared value by value by the monitor; and batch scores."""
    run(stack, "loop", "-m", "fti.serving.batch", "--as-of", "2013-10-01")
    for carrier in ("DL", "UA", "B6"):
        assert ask(stack, carrier=carrier).status_code == 200
    end = AS_OF + pd.Timedelta(hours=6)
    engine = open_log(stack.postgres("monitor", "predictions"))
    until(lambda: (read(engine, AS_OF, end).role == "champion").sum() >= 3)
    run(stack, "loop", "-m", "fti.monitoring.run", "--as-of", end.isoformat(), "--days", "1", codes=(0, 3))
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


def test_serving_reads_what_monitors_and_the_loop_found_and_changes_nothing_of_it(stack):
    """The report of the service has all its parts on Postgres, with a reader's rights."""
    told = requests.get(f"{stack.url('service')}/status", timeout=30).json()
    assert told["problems"] == []
    assert told["versions"]["champion"]["decision"] == "passed"
    assert {"consistency", "freshness"} <= {one["monitor"] for one in told["monitors"]}
    assert told["traffic"]["requests"] >= 3
    assert {one["state"] for one in told["views"]} <= {"fresh", "stale"}
    offered = requests.get(f"{stack.url('service')}/requests", params={"limit": 5}, timeout=30).json()
    assert (len(offered["requests"]), offered["problems"]) == (5, [])
    with psycopg.connect(
        host=HOST, port=stack.port("postgres"), user="serving", password=stack.password("serving"), dbname="predictions"
    ) as connection:
        for table in ("monitor_results", "cycle_steps", "retrainings"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] >= 0
            with pytest.raises(psycopg.Error, match="permission denied"), connection.transaction():
                connection.execute(f"DELETE FROM {table}")


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


# ---- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [name for name in SERVERS if name != "objects"])
def test_a_server_that_is_killed_comes_back_and_so_do_answers(stack, server):
    before = ask(stack).json()["probability"]
    for process in listening(stack, server):
        process.kill()
    until(lambda: ask(stack).status_code == 200)
    assert ask(stack).json()["probability"] == before
    assert production(["--folder", str(stack.root), "up"]) == 0


def test_a_killed_worker_is_replaced_and_the_other_answers(stack):
    """Of the service's two: nobody waits for the new one."""
    workers = sorted(listening(stack, "service"), key=lambda process: process.pid)
    (first, *_) = [one for one in workers if "_bentoml_impl.worker.service" in " ".join(one.cmdline())]
    first.kill()
    asked = []
    until(lambda: asked.append(status_of(stack)) or len(asked) == 20)
    assert asked.count(200) >= 19, "the one that the killed worker was at work on"
    until(lambda: len(listening(stack, "service")) == len(workers))


def test_an_online_store_that_came_back_empty_scores_nobody_and_is_filled_anew(stack, receive, monkeypatch):
    """Detected by the service at once, by the monitor with an alert, and rebuilt from the offline store."""
    before = ask(stack).json()["probability"]
    shutil.rmtree(stack.root / "valkey" / "appendonlydir")
    (server,) = listening(stack, "valkey")
    server.kill()
    until(lambda: "empty" in ask(stack).text)
    assert ask(stack).status_code == 503
    receiver, end = receive(OK), AS_OF + pd.Timedelta(hours=7)
    monkeypatch.setenv("MONITORING_WEBHOOK_URL", receiver.url)
    run(stack, "loop", "-m", "fti.monitoring.run", "--as-of", end.isoformat(), "--days", "1", codes=(3,))
    ((_, _, alert),) = receiver.seen
    assert "origin_weather: online_rows_lost 1." in alert["text"]
    run(stack, "features", "-m", "fti.features.run", "materialize")
    until(lambda: ask(stack).status_code == 200)
    assert ask(stack).json()["probability"] == before


def test_a_stalled_online_store_bounds_the_wait_and_is_said_to_be_away(stack):
    """As when the network between them swallows packets: connections stay, and nothing comes back."""
    before = ask(stack).json()["probability"]
    (server,) = listening(stack, "valkey")
    server.suspend()
    try:
        for _ in range(5):
            began = time.monotonic()
            answer = ask(stack)
            assert time.monotonic() - began < 3
            assert (answer.status_code, "online store" in answer.json()["error"]) == (503, True)
    finally:
        server.resume()
    until(lambda: ask(stack).status_code == 200)
    assert ask(stack).json()["probability"] == before


def test_the_tracking_server_may_be_away_for_minutes(stack):
    """Every request is answered and the service stays ready, while it says and counts that it cannot follow; then it
    follows, without a restart, to where the alias points now."""

    def refused() -> float:
        return sum(metrics(stack, "fti_refusals_total{"))

    away, before, workers = 180, refused(), set(listening(stack, "service"))
    counted: list[float] = []
    control(stack, "stop", "mlflow")
    try:
        began = time.monotonic()
        while (now := time.monotonic() - began) < away:
            assert ask(stack).status_code == 200
            ready = requests.get(f"{stack.url('service')}/readyz", timeout=30)
            assert ready.status_code == 200, (now, ready.text, metrics(stack, "fti_model_version{"))
            if now > 30 * (len(counted) + 1):
                counted.append(refused())
            time.sleep(0.5)
        told = requests.get(f"{stack.url('service')}/status", timeout=30).json()
    finally:
        control(stack, "start", "mlflow")
    # As often as the alert RegistryNotFollowed needs, of each half minute: two workers that ask every five seconds.
    assert all(later - earlier >= 3 for earlier, later in pairwise([before, *counted])), counted
    assert any("The MLflow registry does not answer" in problem for problem in told["problems"])
    assert production(["--folder", str(stack.root), "up"]) == 0
    assert set(listening(stack, "service")) == workers
    with pytest.MonkeyPatch.context() as here:
        environment(stack, "training", here)
        client, name = MlflowClient(), "arrival-delay"
        old = client.get_model_version_by_alias(name, "champion")
        logged = old.source.removeprefix("models:/")  # by which the server allows it as a source
        new = client.create_model_version(name, old.source, old.run_id, tags=old.tags, model_id=logged)
        client.set_registered_model_alias(name, "champion", new.version)
    began = time.monotonic()
    until(lambda: {ask(stack).json()["model"]["version"] for _ in range(20)} == {str(new.version)})
    assert time.monotonic() - began < 30


def test_what_is_answered_while_the_log_is_away_is_logged_when_it_is_back(stack):
    control(stack, "stop", "postgres")
    answers = [ask(stack) for _ in range(5)]
    control(stack, "start", "postgres")
    assert {answer.status_code for answer in answers} == {200}
    names = {answer.headers["X-Request-ID"] for answer in answers}
    assert production(["--folder", str(stack.root), "up"]) == 0
    engine = open_log(stack.postgres("monitor", "predictions"))
    until(lambda: names <= set(read(engine, AS_OF, AS_OF + pd.Timedelta(days=1)).request_id))


def test_rotated_credentials_close_the_old_ones_and_cost_no_answer_for_long(stack):
    before, old = ask(stack).json()["probability"], dict(stack.settings["passwords"])
    assert production(["--folder", str(stack.root), "up", "--rotate"]) == 0
    now = Stack(stack.root)
    assert now.password("serving") != old["serving"]
    until(lambda: ask(now).status_code == 200)
    assert ask(now).json()["probability"] == before
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(HOST, now.port("valkey"), username="serving", password=old["valkey-serving"]).ping()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=HOST, port=now.port("postgres"), user="serving", dbname="feast", password=old["serving"])
    registry = f"{now.url('mlflow')}/api/2.0/mlflow/registered-models/get?name=arrival-delay"
    until(lambda: requests.get(registry, auth=("serving", old["mlflow-serving"]), timeout=10).status_code == 401)
    assert requests.get(registry, auth=("serving", now.password("mlflow-serving")), timeout=10).status_code == 200
    run(now, "features", "-m", "fti.features.run", "apply")
