"""A checkout of its own for commands that change things: files of git, state of the trained workspace, environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_project(to: Path, trained: Path) -> Path:
    """Make `to` a checkout in which `make run` seems to have been run up to serving; returns it."""
    to.mkdir(parents=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    for folder in ("data", "mlruns"):
        shutil.copytree(trained / folder, to / folder)
    shutil.copy2(trained / "mlflow.db", to / "mlflow.db")
    _link_environment(to)
    return to


def _link_environment(project: Path) -> None:
    """Make `.venv` look set up: links to this environment, and the files by which .ci/setup knows its own work."""
    environment, own = Path(sys.prefix), project / ".venv"
    own.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (own / name).symlink_to(environment / name)
    definitions = "eval \"$(grep -E '^(identity|contents)\\(\\)' .ci/setup)\""
    script = f"{definitions}; identity >.venv/.ready; contents >.venv/.contents"
    subprocess.run(["sh", "-c", script], cwd=project, check=True)
