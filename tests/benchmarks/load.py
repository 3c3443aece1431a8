"""A load generator of one core: questions over keep-alive connections in; how long the answers took, out.

HTTP/1.1 by hand: client libraries take longer than the servers. An answer has a length and is 200, or the load fails.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
# Servers close a connection that was idle for five seconds, and a question may just then be under way.
IDLE_SECONDS = 2.0


class LoadFailed(RuntimeError):
    """An answer that is not 200, or none."""


@dataclass(frozen=True)
class Load:
    """What a load found: answers, their rate a second, milliseconds, the share of its core that the generator used."""

    answers: int
    rate: float
    p50: float
    p99: float
    busy: float


class Connection(asyncio.Protocol):
    """A keep-alive connection, one question at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(HEAD_END)
        if not ended or self._answer is None or self._answer.done():
            return
        length = LENGTH.search(head)
        if length is not None and len(body) < int(length[1]):
            return
        self._received = b""
        if length is not None and head.startswith(b"HTTP/1.1 200 "):
            self._answer.set_result(body)
        else:
            self._answer.set_exception(LoadFailed((head + HEAD_END + body)[:1000].decode(errors="replace")))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LoadFailed(f"the server closed the connection ({error})"))

    async def ask(self, request: bytes) -> bytes:
        """The body of the answer. Raises LoadFailed."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self._transport.close()


@dataclass(frozen=True)
class Target:
    """A stack under load: its ports, and how the question of a number is asked, given a connection to each."""

    ports: tuple[int, ...]
    ask: Callable[[Sequence[Connection], int], Awaitable[bytes]]


def post(path: str, body: Any) -> bytes:
    """A request, as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(content)}".encode() + HEAD_END + content


def posts(port: int, path: str, bodies: Sequence[Any]) -> Target:
    """One question after the other, over and over again."""
    requests = [post(path, body) for body in bodies]
    return Target((port,), lambda connections, number: connections[0].ask(requests[number % len(requests)]))


def answers(target: Target, count: int) -> list[bytes]:
    """The answers to the first questions, one at a time. Raises LoadFailed."""

    async def ask() -> list[bytes]:
        async with _connected(target) as connections:
            return [await target.ask(connections, number) for number in range(count)]

    return asyncio.run(ask())


def closed_loop(target: Target, connections: int, seconds: float) -> Load:
    """As many answers as there are: each connection asks again when it was answered. Raises LoadFailed."""
    taken: list[float] = []
    numbers = itertools.count()

    async def client(until: float) -> None:
        async with _connected(target) as lines:
            while (began := time.perf_counter()) < until:
                await target.ask(lines, next(numbers))
                taken.append(time.perf_counter() - began)

    async def clients() -> None:
        until = time.perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(client(until))

    return _measured(clients(), taken)


def open_loop(target: Target, rate: float, connections: int, seconds: float) -> Load:
    """Questions come by chance, `rate` a second on average, whether the ones before were answered or not.

    Who finds all connections taken waits, and the wait counts. Raises LoadFailed.
    """
    taken: list[float] = []
    gaps = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds))
    idle: list[tuple[float, list[Connection]]] = []

    async def ask(number: int, free: asyncio.Semaphore) -> None:
        began = time.perf_counter()
        async with free:
            while idle and began - idle[-1][0] > IDLE_SECONDS:
                _close(idle.pop()[1])
            lines = idle.pop()[1] if idle else await _connect(target)
            await target.ask(lines, number)
            idle.append((time.perf_counter(), lines))
        taken.append(time.perf_counter() - began)

    async def arrivals() -> None:
        free, due = asyncio.Semaphore(connections), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, gap in enumerate(gaps):
                due += gap
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                group.create_task(ask(number, free))
        for _, lines in idle:
            _close(lines)

    return _measured(arrivals(), taken)


def _measured(work: Coroutine[Any, Any, None], taken: list[float]) -> Load:
    began, used = time.perf_counter(), time.process_time()
    try:
        asyncio.run(work)
    except* LoadFailed as failures:
        raise LoadFailed(str(failures.exceptions[0])) from failures
    elapsed = time.perf_counter() - began
    p50, p99 = np.percentile(taken, [50, 99]) * 1000
    return Load(len(taken), len(taken) / elapsed, float(p50), float(p99), (time.process_time() - used) / elapsed)


@asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[list[Connection]]:
    connections = await _connect(target)
    try:
        yield connections
    finally:
        _close(connections)


async def _connect(target: Target) -> list[Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for port in target.ports]


def _close(connections: Sequence[Connection]) -> None:
    for connection in connections:
        connection.close()
