"""The whole journey in a folder of its own: what each part took, beside its budget.

Seconds are wall clock; memory is the highest sum of resident sets of the command and its children, sampled.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

from fti.features.definitions import copy_definitions
from tests.benchmarks.results import Result

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_SECONDS = 0.1
READY_PATIENCE = 180


@dataclass(frozen=True)
class Measured:
    """What one command took. Budgets of None are not set."""

    name: str
    seconds: float
    peak_gb: float
    budget_seconds: float | None = None
    budget_gb: float | None = None

    def results(self) -> list[Result]:
        """Seconds and memory, each a result of its own."""
        name, seconds, gb = f"journey: {self.name}", self.budget_seconds, self.budget_gb
        return [
            Result(
                name, self.seconds, "s", target=f"<= {seconds} s" if seconds else None,
                met=self.seconds <= seconds if seconds else None,
            ),
            Result(
                f"{name}, memory", self.peak_gb, "GB", target=f"<= {gb} GB" if gb else None,
                met=self.peak_gb <= gb if gb else None,
            ),
        ]  # fmt: skip


class PeakMemory(threading.Thread):
    """Samples the memory of a process and its children until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self.bytes = 0

    def run(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            total = 0
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in family:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.bytes = max(self.bytes, total)

    def stop(self) -> float:
        """The peak, in GB."""
        self._done.set()
        self.join()
        return self.bytes / 1e9


def timed(name: str, command: list[str], environment: dict[str, str], folder: Path) -> Measured:
    """Run a command to its end. Raises CalledProcessError when it fails, with its last lines printed."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    memory = PeakMemory(process.pid)
    memory.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - began
    peak = memory.stop()
    if process.returncode:
        print(output[-4000:], file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)
    return Measured(name, seconds, peak)


def measure_service(environment: dict[str, str], folder: Path) -> Measured:
    """Start the service and wait until it is ready; then end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "fti.serving.start"],
        cwd=folder,
        env=os.environ | environment | {"SERVING_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    memory = PeakMemory(server.pid)
    memory.start()
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                    break
            except OSError:
                if server.poll() is not None or time.perf_counter() - began > READY_PATIENCE:
                    raise
                time.sleep(0.1)
        return Measured("service ready", time.perf_counter() - began, memory.stop(), budget_seconds=30)
    finally:
        server.terminate()
        server.wait()


def journey(root: Path) -> list[Measured]:
    """Features, two models, a service: as `make run`, over the whole year."""
    repo = root / "feature_repo"
    copy_definitions(repo)
    environment = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
        "TRAINING_FEAST_REPO": str(repo),
        "SERVING_FEAST_REPO": str(repo),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    features = [sys.executable, "-m", "fti.features.run", "all", "--repo", str(repo)]
    train = [
        sys.executable,
        "-m",
        "mlflow",
        "run",
        str(ROOT / "training"),
        "-e",
        "main",
        "--env-manager",
        "local",
        "-P",
    ]
    found = [timed("features, the whole year", features, environment, ROOT)]
    found += [
        timed(f"train {service}", [*train, f"feature_service={service}"], environment, root)
        for service in ("arrival_delay_v1", "arrival_delay_v2")
    ]
    whole = Measured(
        "make pipeline",
        sum(part.seconds for part in found),
        max(part.peak_gb for part in found),
        budget_seconds=180,
        budget_gb=4,
    )
    again = timed("features again, nothing changed", features, environment, ROOT)
    return [*found, whole, again, measure_service(environment, ROOT)]


def measure() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        return [result for part in journey(Path(folder)) for result in part.results()]
