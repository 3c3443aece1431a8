"""A webhook's other end, on this machine: what alerts are sent to in tests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from fti.monitoring.alert import AlertSettings

SECRET = "T0/B0/a-secret"
OK: tuple[int, dict[str, str]] = (200, {})


@dataclass
class Receiver:
    """Answers with each of `plan` in turn, the last one for ever: a status and headers, or seconds to say nothing."""

    plan: list[tuple[int, dict[str, str]] | float]
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/{SECRET}"

    def settings(self, attempts: int = 3, timeout: float = 5) -> AlertSettings:
        url = SecretStr(self.url)
        return AlertSettings(webhook_url=url, webhook_attempts=attempts, webhook_timeout_seconds=timeout)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers.get("Content-Length", 0))) or b"null")
        turn = self.plan[min(len(self.seen), len(self.plan) - 1)]
        self.seen.append((handler.path, dict(handler.headers.items()), body))
        self.times.append(time.monotonic())
        if isinstance(turn, float):
            time.sleep(turn)
            return
        handler.send_response_only(turn[0])  # without a date of its own
        for name, value in turn[1].items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@pytest.fixture
def receive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Receiver]]:
    """Start receivers on ports of this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(*plan: tuple[int, dict[str, str]] | float) -> Receiver:
        receiver = Receiver(list(plan))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.answer(self)

            def do_GET(self) -> None:
                receiver.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        receiver.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return receiver

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
