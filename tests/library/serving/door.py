"""A real service without a model, and raw sockets to it: for what happens before anything is predicted."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 600
CLIENT, ADMIN = "Authorization: Bearer client", "Authorization: Bearer admin"
SECONDS = 1.0  # for a header, and for a body


@dataclass
class Door:
    """A service under test. `output` is what it prints: its access log and its audit."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def raw(self, sent: bytes, wait: float = 30) -> bytes:
        """What comes back until the service closes, or for as long as `wait`."""
        with closing(self.connect()) as connection:
            with suppress(ConnectionResetError, BrokenPipeError):  # it has answered, and reads no more
                connection.sendall(sent)
            return received(connection, wait)

    def ask(self, target: str | bytes, *headers: str, method: str = "GET", body: bytes = b"") -> tuple[int, str, dict]:
        """Status, headers and JSON of an answer; the target goes out as it stands."""
        target = target.encode() if isinstance(target, str) else target
        lines = ["Host: localhost", "Connection: close", *headers, *([f"Content-Length: {len(body)}"] if body else [])]
        head = method.encode() + b" " + target + b" HTTP/1.1\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n"
        return parsed(self.raw(head + body))

    def worker(self) -> psutil.Process:
        """The process that answers."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return next(one for one in below if any(address.laddr.port == self.port for address in one.net_connections()))

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]


def received(connection: socket.socket, wait: float = 30) -> bytes:
    connection.settimeout(wait)
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except (TimeoutError, ConnectionResetError):
        pass
    return found


def status_of_one(connection: socket.socket) -> int:
    """The status of the next answer on a connection, whose body is read to its end, in however many pieces it comes."""
    answer = HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def parsed(answer: bytes) -> tuple[int, str, dict]:
    head, _, body = answer.partition(b"\r\n\r\n")
    told = json.loads(body) if b"application/json" in head and b"content-encoding" not in head else {}
    return int(head.split(b" ", 2)[1]), head.decode("latin-1").lower(), told


def closed_after(connection: socket.socket, most: float) -> float:
    """How long the service keeps a connection open."""
    began = time.monotonic()
    received(connection, most)
    return time.monotonic() - began


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, name: str, files: int | None = None, **settings: str) -> Door:
    """Begin to start a service that finds no registry; `files` is how many it may open."""
    port, output = free_port(), folder / f"{name}.log"
    told = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "SERVING_PORT": str(port),
        "SERVING_PREDICTION_LOG": "off", "SERVING_FEAST_REPO": str(folder), "BENTOML_DO_NOT_TRACK": "True",
    }  # fmt: skip
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "serving.service:PredictionService"]
    with output.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, env={**os.environ, **told, **settings},
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    if files is not None:  # the worker, which is started later, inherits it
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, files))
    return Door(process, port, output)


def wait_for(door: Door) -> Door:
    """Wait until a service answers; a model it will not have."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and door.process.poll() is None:
        try:
            if door.ask("/livez")[0] == 200:
                return door
        except (OSError, IndexError):
            pass
        time.sleep(0.3)
    raise AssertionError(door.output.read_text()[-4000:])
