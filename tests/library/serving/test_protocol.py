"""What a real service takes from a connection: targets, header sizes, pace and numbers, before any key is looked at."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, closing, suppress

import pytest

from tests.library.serving.door import ADMIN, CLIENT, SECONDS, closed_after, parsed, received, status_of_one

# ---- targets --------------------------------------------------------------------------------------------------------

ODD = [
    *(f"/{path}{end}" for path in ("metrics", "status", "requests", "features") for end in ("%0a", "%0A", "%0d%0a")),
    *(f"/metrics{end}" for end in ("%00", "%0b", "%7f", "%c2%85", "%e2%80%a8", "%ff", "%c0%af", "%2f", "%5c", "\\")),
    *("*", "metrics", "http://localhost/metrics", "https://localhost/livez", "//metrics", "//localhost/metrics"),
    *("/./metrics", "/docs/../metrics", "/%2e/metrics", "/docs/%2e%2e/metrics", "/metrics/.", "/docs//metrics"),
    *("/metrics%", "/metrics%zz", "/metrics#x", "/livez%0a", "/readyz%0A", "/livez%00", "/static_content/%2e%2e/x"),
    *("/metrics?x=\u00e9", "/metr\u00eccs"),
]


@pytest.mark.parametrize("target", ODD)
def test_a_target_of_two_readings_is_refused_before_anything_else(door, target):
    """For every key and without one, with the headers and the line in the log that every answer has."""
    for key in (ADMIN, CLIENT, "X: y"):
        status, head, told = door.ask(target, key)
        assert (status, list(told)) == (400, ["error"])
        assert "x-content-type-options: nosniff" in head
        request_id = head.partition("x-request-id: ")[2].partition("\r\n")[0]
        (line,) = [line for line in door.lines() if line["request_id"] == request_id]
        assert (line["status"], line["client"]) == (400, "")


@pytest.mark.parametrize("target", ["/metrics\n", "/metrics\x0b", "/metrics\x00", b"/metrics\xff"])
def test_raw_control_characters_are_no_request(door, target):
    """They end the request line, or the connection, and never reach a route."""
    status, head, _ = door.ask(target, ADMIN)
    assert status == 400
    assert "x-frame-options: deny" in head


def test_the_frameworks_own_routes_are_behind_the_keys(door):
    """BentoML answers the probes and nothing else; what it would answer besides is not there."""
    for path in ("/schema.json", "/docs.json", "/static_content/index.css", "/metrics", "/nothing", "/livez/x", "/"):
        assert door.ask(path)[0] == 401, path
        assert door.ask(path, CLIENT)[0] in {200, 403, 404}, path
    assert door.ask("/schema.json", ADMIN)[0] == door.ask("/docs.json", ADMIN)[0] == 404
    assert door.ask("/livez")[0] == door.ask("/livez?verbose=1")[0] == 200
    assert door.ask("/readyz")[0] == 503
    assert door.ask("/livez", method="POST", body=b"x")[0] == 401


def test_a_slash_at_the_end_redirects_nobody(door):
    """A redirect would name this machine and http, which are wrong behind a proxy."""
    for path in ("/docs/", "/model/", "/predict/"):
        status, head, _ = door.ask(path, CLIENT)
        assert status == 404
        assert "location" not in head


def test_two_hosts_are_refused(door):
    """A proxy may go by the one and the service by the other."""
    assert door.ask("/model", CLIENT, "Host: other.example")[0] == 400


def test_a_websocket_finds_nothing(door):
    """It is a request as any other, and wants a key."""
    upgrade = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    head = "\r\n".join(["GET /metrics HTTP/1.1", "Host: localhost", "Connection: Upgrade", *upgrade, "", ""])
    assert parsed(door.raw(head.encode(), wait=3))[0] == 401


# ---- sizes ----------------------------------------------------------------------------------------------------------

BIG = 60 * 2**20
GET = b"GET /model HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("before", "piece", "statuses"),
    [
        (GET + b"X: ", b"a" * 65536, {431}),
        (GET + b"a", b"a" * 65536, {431}),
        (GET, b"X-Many: 1\r\n" * 4000, {431}),
        (b"GET /", b"a" * 65536, {414}),
        (b"GET /?", b"a" * 65536, {414}),
        (b"", b"a" * 65536, {400}),
        (CHUNKED + b"0\r\nX: ", b"a" * 65536, {401, 431}),
        (CHUNKED + b"1;", b"a" * 65536, {401, 431}),
        (CHUNKED, b"1\r\na\r\n" * 10000, {401}),
        (GET.replace(b"GET", b"POST") + b"Content-Length: 99999999\r\n\r\n", b"a" * 65536, {401}),
        (b"", (GET + b"\r\n") * 1000, {400, 401}),
    ],
)
def test_what_one_connection_sends_stalls_nobody(door, before, piece, statuses):
    """Sixty megabytes where a header, a target or a refused body would be: the memory stays, and so does the pace."""
    worker = door.worker()
    memory, slowest, done = worker.memory_info().rss, 0.0, threading.Event()

    def others() -> None:
        nonlocal slowest
        while not done.is_set():
            began = time.monotonic()
            assert door.ask("/nothing", CLIENT)[0] == 404
            slowest = max(slowest, time.monotonic() - began)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        with closing(door.connect()) as connection:
            sent = 0
            try:
                connection.sendall(before)
                while sent < BIG:
                    sent += connection.send(piece)
            except (ConnectionResetError, BrokenPipeError):
                pass
            answer = received(connection, 10)
    finally:
        done.set()
        thread.join()
    assert not answer or int(answer.split(b" ", 2)[1]) in statuses
    assert piece.startswith(b"GET") or answer.count(b"HTTP/1.1 ") <= 1
    assert worker.memory_info().rss - memory < 30 * 2**20
    assert slowest < 1.5


@pytest.mark.parametrize(
    ("sent", "status"),
    [(GET + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431), (GET + b"X: " + b"a" * 20_000 + b"\r\n\r\n", 401),
     (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414)],
)  # fmt: skip
def test_a_header_has_a_size(door, sent, status):
    """It is told to who sends more, with the headers that every answer has; one of the usual size passes."""
    found, head, told = parsed(door.raw(sent, wait=4))
    assert found == status
    assert "x-frame-options: deny" in head
    assert list(told) == ["error"]


# ---- pace and numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"G", GET, GET + b"X: a", b"\r\n"])
def test_a_header_that_does_not_arrive_ends_the_connection(door, sent):
    """After SERVING_HEADER_SECONDS; however little it brings now and then."""
    with closing(door.connect()) as connection:
        connection.sendall(sent)
        connection.settimeout(0.1)
        began, answer = time.monotonic(), b""
        while time.monotonic() - began < 10:
            try:
                piece = connection.recv(65536)
                if not piece:
                    break
                answer += piece
            except TimeoutError:
                if sent.startswith(b"GET"):
                    connection.sendall(b"a")
            except ConnectionResetError:
                break
        assert time.monotonic() - began < SECONDS + 4
    assert not answer or parsed(answer)[0] == 408
    assert bool(answer) is bool(sent.strip())


def test_a_second_header_that_does_not_arrive_ends_the_connection(door):
    """One byte after an answer does not keep a connection for ever."""
    for byte in (b"G", b"\r\n"):
        with closing(door.connect()) as connection:
            connection.sendall(GET + b"\r\n")
            assert status_of_one(connection) == 401
            connection.sendall(byte)
            assert closed_after(connection, 15) < SECONDS + 5


@pytest.mark.parametrize("key", [b"", CLIENT.encode() + b"\r\n"])
def test_a_body_that_stalls_after_its_answer_ends_the_connection(door, key):
    """Refused for its key or its size, and then silent, or with a byte now and then."""
    chunk = b"11000\r\n" + b"a" * 0x11000 + b"\r\n"
    for trickle in (b"", b"1\r\na\r\n"):
        with closing(door.connect()) as connection:
            connection.sendall(CHUNKED.replace(b"Transfer", key + b"Transfer") + chunk)
            assert status_of_one(connection) in {401, 413}
            began = time.monotonic()
            try:
                while trickle and time.monotonic() - began < 10:
                    connection.sendall(trickle)
                    time.sleep(0.1)
            except (ConnectionResetError, BrokenPipeError):
                pass
            closed_after(connection, 10)
            assert time.monotonic() - began < 7


def test_an_early_answer_leaves_a_connection_that_can_be_used(door):
    """A client that goes on to send what it has begun asks again on the same connection."""
    with closing(door.connect()) as connection:
        connection.sendall(CHUNKED)
        assert status_of_one(connection) == 401
        connection.sendall(b"3\r\nabc\r\n0\r\n\r\n" + GET + b"\r\n")
        assert status_of_one(connection) == 401


def test_connections_that_wait_give_way_to_those_that_ask(door):
    """More of them than the service may open files for; probes and clients are answered all the while."""
    with ExitStack() as held:
        for number in range(400):
            connection = held.enter_context(closing(socket.create_connection(("127.0.0.1", door.port), timeout=30)))
            connection.sendall(GET if number % 2 else b"")
            if number % 50 == 49:
                assert door.ask("/livez")[0] == 200
                assert door.ask("/nothing", CLIENT)[0] == 404


def test_requests_that_wait_leave_room_for_probes(door):
    """Bodies that do not arrive, of a client with a key, take every place: another request is told to come again."""
    head = CHUNKED.replace(b"Transfer", CLIENT.encode() + b"\r\nContent-Type: application/json\r\nTransfer")
    statuses = []
    with ExitStack() as held:
        for _ in range(230):
            connection = held.enter_context(closing(socket.create_connection(("127.0.0.1", door.port), timeout=30)))
            with suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(head)
        statuses = [door.ask(path, CLIENT)[0] for path in ("/livez", "/nothing", "/livez")]
    assert statuses[0] == statuses[2] == 200
    assert statuses[1] in {503, 404}
    time.sleep(SECONDS + 1)
    assert door.ask("/nothing", CLIENT)[0] == 404
