"""One workspace a session: raw events to a served model, by the commands that people type, on tables of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interval import AS_OF, END, START

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600


@dataclass(frozen=True)
class Workspace:
    """A copy of the definitions, with tables, stores, runs and predictions of its own."""

    root: Path

    @property
    def repo(self) -> Path:
        return self.root / "feature_repo"

    @property
    def environment(self) -> dict[str, str]:
        """What points every command to this project and to the workspace."""
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FTI_PROJECT": str(ROOT),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.root / 'mlflow.db'}",
            "TRAINING_FEAST_REPO": str(self.repo),
            "SERVING_FEAST_REPO": str(self.repo),
            "SERVING_PREDICTION_LOG": f"sqlite:///{self.root / 'predictions.db'}",
            "OMP_WAIT_POLICY": "PASSIVE",
            "BENTOML_DO_NOT_TRACK": "True",
            "FEAST_USAGE": "False",
            "GX_ANALYTICS_ENABLED": "False",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }

    def run(self, *command: str, where: Path = ROOT, may_end_with: tuple[int, ...] = (0,)) -> str:
        """Run a module; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=where,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        assert done.returncode in may_end_with, done.stderr[-4000:] + done.stdout[-2000:]
        return done.stdout

    def train(self, feature_service: str = "") -> None:
        """Train, judge and promote a model as of AS_OF; without a feature service, the one in config.yaml."""
        chosen = ["-P", f"feature_service={feature_service}"] if feature_service else []
        entry = [str(ROOT / "training"), "-e", "main", "--env-manager", "local", "-P", f"as_of={AS_OF}"]
        self.run("mlflow", "run", *entry, *chosen, where=self.root)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Features published, applied, and materialized as of AS_OF."""
    from fti.features.definitions import copy_definitions

    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    copy_definitions(workspace.repo)
    interval = ["--start", START, "--end", END, "--as-of", AS_OF]
    workspace.run("fti.cli", "features", "--repo", str(workspace.repo), *interval)
    return workspace


@pytest.fixture(scope="session")
def trained(workspace: Workspace) -> Workspace:
    """The model that config.yaml names, trained and judged."""
    workspace.train()
    return workspace


@pytest.fixture(scope="session")
def service(trained: Workspace) -> Iterator[str]:
    """The address of the service, started as `make serve` does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log, address = trained.root / "service.log", f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "fti.cli", "serve"],
            cwd=ROOT,
            env=trained.environment | {"SERVING_PORT": str(port)},
            stdout=output,
            stderr=output,
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while not _is_ready(address):
                assert server.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()
            server.wait(60)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
