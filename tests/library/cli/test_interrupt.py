"""Ctrl-C, as a terminal sends it: to every process of the command's group."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.library.cli.test_commands import ROOT, project  # noqa: F401 - a fixture

INTERRUPTED = 130
Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def started(project: Path) -> Iterator[Started]:  # noqa: F811
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str, **environment: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SERVING_", "MAKE"))}
        process = subprocess.Popen(
            [sys.executable, "-m", "fti.cli", *words], cwd=project, env=clean | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()


def imports(process: subprocess.Popen[str], name: str) -> bool:
    """Whether a process has loaded a file of a package."""
    return f"/{name}" in Path(f"/proc/{process.pid}/maps").read_text()


def wait_until(true: Callable[[], bool], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("package", ["pydantic_core", "numpy"])
def test_ctrl_c_ends_a_command_in_one_line(started: Started, package: str) -> None:
    """While libraries are imported, too, where an exception shows most."""
    process = started("evaluate", MLFLOW_TRACKING_URI="http://127.0.0.1:9")  # which nobody answers
    wait_until(lambda: imports(process, package))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (INTERRUPTED, "interrupted\n")


def test_ctrl_c_while_the_service_starts_ends_it_at_once(project: Path, started: Started) -> None:  # noqa: F811
    """BentoML's workers import for seconds and hear of no signal meanwhile: none of them is left."""
    shutil.copytree(ROOT / "serving", project / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = started("serve", "--port", port, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    family = psutil.Process(process.pid)
    wait_until(lambda: len(family.children(recursive=True)) >= 2)
    processes = family.children(recursive=True)
    asked = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - asked < 10
    assert process.returncode == INTERRUPTED
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert psutil.wait_procs(processes, timeout=10)[1] == []


def test_a_command_of_commands_ends_with_the_one_that_runs(started: Started) -> None:
    """One line, not one for each process."""
    process = started("pipeline")
    family = psutil.Process(process.pid)
    wait_until(lambda: bool(family.children()))
    wait_until(lambda: "/numpy" in Path(f"/proc/{family.children()[0].pid}/maps").read_text())
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if "..." not in line]
    assert (process.returncode, lines) == (INTERRUPTED, ["interrupted"])
