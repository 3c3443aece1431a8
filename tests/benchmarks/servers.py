"""Servers to measure: a command in; a process on its own core, that answers, and that is gone afterwards, out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PATIENCE = 180


class NotStarted(RuntimeError):
    """A server ended, or did not answer, before it could be measured."""


@dataclass(frozen=True)
class Cores:
    """Where things run: a server on the first core, the load on the last; on the same where there is one only."""

    usable: tuple[int, ...]

    @classmethod
    def here(cls) -> Cores:
        """Those that this process may use; macOS has no way to choose among them."""
        return cls(tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (0,))

    @property
    def server(self) -> set[int]:
        return {self.usable[0]}

    @property
    def load(self) -> set[int]:
        return {self.usable[-1]}


@dataclass(frozen=True)
class Server:
    """A server that answers, after so many seconds."""

    process: psutil.Process
    port: int
    seconds: float

    @property
    def worker(self) -> psutil.Process:
        """The one of its processes that does the work: what supervises it is small."""
        return max(_family(self.process), key=lambda one: one.memory_info().rss)

    @property
    def processor_seconds(self) -> float:
        """What it and its processes have used by now."""
        return sum(one.cpu_times().user + one.cpu_times().system for one in _family(self.process))


@contextmanager
def on_cores(chosen: set[int]) -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on some cores, where that can be had."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def serving(
    command: Sequence[str], ready: str, chosen: set[int], environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """Start a command of this environment, `{port}` replaced, and wait until `ready` is 200. Raises NotStarted."""
    port = free_port()
    words = [word.format(port=port) for word in command]
    variables = {name: value.format(port=port) for name, value in (environment or {}).items()}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        with on_cores(chosen):
            process = psutil.Popen(
                [str(BIN / words[0]), *words[1:]],
                cwd=ROOT, env=os.environ | variables | {"PATH": path}, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            while not _answers(f"http://127.0.0.1:{port}{ready}"):
                if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                    log.seek(0)
                    raise NotStarted(f"{' '.join(words)}\n{log.read().decode(errors='replace')[-4000:]}")
                time.sleep(0.05)
            yield Server(process, port, time.perf_counter() - began)
        finally:
            _end(process)


@contextmanager
def prediction_service(chosen: set[int], workers: int = 1) -> Iterator[Server]:
    """The service under test, as its users start it; what it logs is not kept."""
    with tempfile.TemporaryDirectory() as folder:
        log = {"SERVING_PREDICTION_LOG": f"sqlite:///{folder}/predictions.db"}
        variables = log | {"SERVING_HOST": "127.0.0.1", "SERVING_PORT": "{port}", "SERVING_WORKERS": str(workers)}
        with serving(["bentoml", "serve", "serving.service:PredictionService"], "/readyz", chosen, variables) as server:
            yield server


def _answers(address: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=5):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _end(process: psutil.Popen) -> None:
    """End a server and all that it has started, by force what does not end by itself."""
    if process.poll() is not None:
        return
    family = _family(process)
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=15)
    for one in alive:
        one.kill()
    psutil.wait_procs(alive, timeout=5)
