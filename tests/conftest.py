"""One workspace a session: the real year through the real feature pipeline, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from fti.deploy.programs import valkey_binary
from fti.features.definitions import copy_definitions
from tests.receiver import receive as receive  # noqa: PLC0414 - a fixture for all

ROOT = Path(__file__).resolve().parents[1]

# Nothing phones home from a test, and scikit-learn's threads wait without spinning, as in training/MLproject.
os.environ.update(
    OMP_WAIT_POLICY="PASSIVE",
    BENTOML_DO_NOT_TRACK="True",
    FEAST_USAGE="False",
    GX_ANALYTICS_ENABLED="False",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
)
# A shell lets what it runs in the background ignore Ctrl-C, and every process inherits that: tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Workspace:
    """`repo` is a copy of the Feast definitions; tables and the online store lie in `root/data`."""

    root: Path

    @property
    def repo(self) -> Path:
        return self.root / "feature_repo"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def online_store(self) -> Path:
        return self.root / "data" / "feast" / "online_wal.db"


def copy_registry(of: Workspace, to: Path) -> None:
    """Copy a registry of files into a folder, with a link to its artifacts: a copy takes none but those beside it."""
    shutil.copy(of.root / "mlflow.db", to / "mlflow.db")
    (to / "mlruns").symlink_to(of.root / "mlruns")


def empty(database: Path, tables: str = "%") -> None:
    """Delete the rows of those tables of an SQLite file that are named like this."""
    with closing(sqlite3.connect(database)) as connection, connection:
        known = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE ?"
        for (table,) in connection.execute(known, [tables]).fetchall():
            connection.execute(f'DELETE FROM "{table}"')


@contextmanager
def emptied(database: Path, tables: str = "%") -> Iterator[None]:
    """`empty`, until the end: then all is as it was, also for who has the file open."""
    with closing(sqlite3.connect(database)) as here, closing(sqlite3.connect(":memory:")) as kept:
        here.backup(kept)
        try:
            empty(database, tables)
            yield
        finally:
            kept.backup(here)


class OneWorkspace(LoadScopeScheduling):
    """Tests that share a workspace share a worker, and so does each other file: fixtures are made once."""

    def _split_scope(self, nodeid: str) -> str:
        shared = nodeid.startswith("tests/project/journeys/")
        return "workspace" if shared else nodeid.split("::", maxsplit=1)[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneWorkspace:
    return OneWorkspace(config, log)


@pytest.fixture(scope="module", autouse=True)
def no_registry_of_before() -> Iterator[None]:
    """MLflow keeps the registry that a module named last, also in the environment: the next one would ask it."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Features of the whole year, applied, and materialized as of 2013-10-01."""
    made = Workspace(tmp_path_factory.mktemp("workspace"))
    copy_definitions(made.repo)
    command = [sys.executable, "-m", "fti.features.run", "all", "--repo", str(made.repo)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-4000:]
    return made


@pytest.fixture(scope="session")
def trained(workspace: Workspace) -> Workspace:
    """Version 1 on arrival_delay_v1, promoted; then version 2 on arrival_delay_v2, promoted.

    The first in this process, which has imported Feast already; the second by `mlflow run`, as users do.
    """
    from fti.training.run import main

    # MLflow puts the artifacts of a new SQLite registry into the folder it is in.
    with pytest.MonkeyPatch.context() as here:
        here.chdir(workspace.root)
        here.setenv("TRAINING_FEAST_REPO", str(workspace.repo))
        here.setenv("MLFLOW_TRACKING_URI", workspace.tracking_uri)
        assert main(["main", "--feature-service", "arrival_delay_v1"]) == 0
    result = mlflow_run(workspace, "main", feature_service="arrival_delay_v2")
    assert result.returncode == 0, result.stderr[-4000:]
    return workspace


@pytest.fixture(scope="module")
def commands_see_workspace(trained: Workspace) -> Iterator[None]:
    """What points command lines in this process to the workspace."""
    with pytest.MonkeyPatch.context() as here:
        here.setenv("SERVING_FEAST_REPO", str(trained.repo))
        here.setenv("MLFLOW_TRACKING_URI", trained.tracking_uri)
        yield


@pytest.fixture(scope="module")
def valkey_server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A Valkey server, and its address for Feast."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", "lock"]
    with subprocess.Popen([valkey_binary(), *options], stdout=subprocess.DEVNULL) as server:
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.05)
            yield server, f"127.0.0.1:{port},password=lock"
        finally:
            server.kill()


@pytest.fixture(scope="module")
def valkey(valkey_server: tuple[subprocess.Popen[bytes], str]) -> str:
    return valkey_server[1]


def mlflow_run(workspace: Workspace, entry_point: str, **parameters: str) -> subprocess.CompletedProcess[str]:
    """Run an entry point of the training project over a workspace's feature store and registry."""
    given = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mlflow",
            "run",
            str(ROOT / "training"),
            "-e",
            entry_point,
            "--env-manager",
            "local",
            *given,
        ],
        cwd=workspace.root,
        env=os.environ
        | {"MLFLOW_TRACKING_URI": workspace.tracking_uri, "TRAINING_FEAST_REPO": str(workspace.repo)}
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
