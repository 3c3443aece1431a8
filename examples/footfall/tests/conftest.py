"""One workspace a session: fifteen weeks of counts through the real pipelines, by the commands that people type."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fti.features.definitions import copy_definitions

ROOT = Path(__file__).resolve().parents[1]
START, END, AS_OF = "2024-02-15", "2024-06-08", "2024-06-01"


@dataclass(frozen=True)
class Workspace:
    """A copy of the definitions, with tables, stores, runs and predictions of its own."""

    root: Path

    @property
    def repo(self) -> Path:
        return self.root / "feature_repo"

    @property
    def environment(self) -> dict[str, str]:
        """What points every command to it, and to this project whatever else is installed."""
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
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
        """Run a module of the project; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=where, env=self.environment, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode in may_end_with, done.stderr[-4000:] + done.stdout[-2000:]
        return done.stdout


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Features published, applied, and materialized as of AS_OF."""
    made = Workspace(tmp_path_factory.mktemp("workspace"))
    copy_definitions(made.repo)
    interval = ["--start", START, "--end", END, "--as-of", AS_OF]
    made.run("fti.features.run", "all", "--repo", str(made.repo), *interval)
    return made


@pytest.fixture(scope="session")
def trained(workspace: Workspace) -> Workspace:
    """A model on the newest feature service, trained as of AS_OF, judged and promoted."""
    command = ["mlflow", "run", str(ROOT / "training"), "-e", "main", "--env-manager", "local", "-P", f"as_of={AS_OF}"]
    workspace.run(*command, where=workspace.root)
    return workspace
