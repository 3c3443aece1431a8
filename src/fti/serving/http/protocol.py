"""What a connection may hold, and for how long: uvicorn's HTTP protocol with bounds.

uvicorn 0.54 buffers a header line of any length, waits for ever for the rest of a request whose answer is out, and
takes every connection. BentoML 1.4 starts uvicorn without its settings, so `bound_connections` in serving/service.py
names this class as the protocol that uvicorn chooses by itself.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
import uuid
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fti.serving import metrics
from fti.serving.http.middleware import HEADERS, Json, access_line
from fti.serving.http.target import MAX_TARGET, PROBES, TARGET
from fti.serving.keys import Client
from fti.serving.settings import ServingSettings

SETTINGS = ServingSettings()
LINGER_SECONDS = 1.0  # for an answer to arrive before a connection with unread bytes is reset
REST_SECONDS, REST_BYTES = 2.0, 262_144  # of a request that was answered before it had arrived
MOST_PIPELINED = 100
# Connections and files beyond the limit: for probes, and for what answering a request opens.
ROOM_FOR_PROBES, ROOM_FOR_FILES, FEWEST = 8, 32, 8


@cache
def most_connections() -> int:
    """Connections that a worker takes: as set, or as many as the process may open files for. Asked once it runs."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return SETTINGS.max_connections
    room = allowed - len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else allowed // 2
    return max(FEWEST, min(SETTINGS.max_connections, room - ROOM_FOR_PROBES - ROOM_FOR_FILES))


class RefusedEarly(Exception):
    """Stops the parser: the protocol's `_refusal` says why."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection. When there are many, those without a request in progress give way, the longest waiting first."""

    _waiting: ClassVar[dict[BoundedProtocol, None]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ws_protocol_class = None  # there are no WebSockets here
        if isinstance(self.app, ProxyHeadersMiddleware):
            self.app = self.app.app  # it believes every proxy on this machine; serving/forwarded.py decides
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._refusal = (400, "This is no HTTP request.")
        self._refused = False
        self._open = self._in_header = self._got_body = False  # of the message that arrives
        self._named = self._fed = self._rest = 0  # its bytes: of whole headers; of pieces without a body; too late
        self._since = time.perf_counter()

    # ---- connections ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting[self] = None
        self._arm(SETTINGS.header_seconds, self._too_late)
        if len(self.connections) > most_connections() + ROOM_FOR_PROBES:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.pop(self, None)
        self._disarm()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(SETTINGS.timeout_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # ---- what arrives -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # it is read, for the answer to arrive, and dropped
        was_in_header, self._got_body = self._in_header, False
        is_rest = self._open and not was_in_header and not self._busy()
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if is_rest and self._open:
            self._rest += len(data)
            if self._rest > REST_BYTES:
                self._leave()
                return
        # A piece in which a header begins is no longer than one read of the socket.
        if was_in_header if self._in_header else self._open and not self._got_body:
            self._fed += len(data)
            if self._fed > SETTINGS.max_header_bytes:
                self._refuse(*_too_large())
                return
        is_idle = self.timeout_keep_alive_task is None and not self._busy()
        if self._timer is None and (self._in_header or is_idle):
            self._arm(SETTINGS.header_seconds, self._too_late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._open = self._in_header = True
        self._named = self._fed = self._rest = 0
        self._since = time.perf_counter()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_TARGET:
            self._stop(414, f"The request target has more than {MAX_TARGET} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._named += len(name) + len(value) + 4
        if self._named > SETTINGS.max_header_bytes:
            self._stop(*_too_large())
        if self._in_header:  # trailers are nobody's: the app has read its headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        self._waiting.pop(self, None)
        if len(self.pipeline) >= MOST_PIPELINED:
            self._stop(400, f"More than {MOST_PIPELINED} requests wait on this connection.")
        target = self.url
        is_probe = target.partition(b"?")[0] in PROBES
        if not is_probe and len(self.connections) - len(self._waiting) > most_connections():
            self._stop(503, "Too many requests are under way; try again in a moment.")
        self.scope["state"][TARGET] = target
        if not target.startswith(b"/"):
            self.url = b"/"  # which uvicorn can parse: http/target.py refuses what was asked
        super().on_headers_complete()
        self._in_header, self._fed = False, 0

    def on_body(self, body: bytes) -> None:
        self._got_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._open = False
        super().on_message_complete()
        if self.cycle.response_complete:
            self._disarm()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._arm(SETTINGS.timeout_seconds, self.transport.abort)
        elif not self._busy():
            self._waiting[self] = None
            if self._open and not self._in_header:
                self._arm(REST_SECONDS, self.transport.abort)

    def _busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: an upgrade that is not taken is a request like others."""

    # ---- what is refused here ---------------------------------------------------------------------------------------

    def _stop(self, status: int, error: str) -> None:
        self._refusal = (status, error)
        raise RefusedEarly

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words, where ours say more
        self._refuse(*self._refusal)

    def _too_late(self) -> None:
        self._timer = None
        if self._busy():
            self._arm(SETTINGS.header_seconds, self._too_late)
        elif self._in_header:
            self._refuse(408, f"The request's header did not arrive within {SETTINGS.header_seconds:g} seconds.")
        else:
            self.transport.close()

    def _refuse(self, status: int, error: str) -> None:
        """Answer as the middleware does, in the log too, and close. An answer under way is not written into."""
        self._refused = True
        if self.transport.is_closing() or (self._busy() and (self.pipeline or self.cycle.response_started)):
            self.transport.abort()
            return
        if self._busy():
            self.cycle.disconnected = True  # what answers it need not go on
            self.cycle.message_event.set()
        elif self._open and not self._in_header:
            self._leave()  # this message has its answer
            return
        request_id, answer = uuid.uuid4().hex, Json({"error": error})
        headers = [*answer.raw_headers, *HEADERS, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", bytes(answer.body)]))
        seconds = time.perf_counter() - self._since
        metrics.child(metrics.REQUESTS, "other", status).observe(seconds)
        if SETTINGS.access_log:
            path = getattr(self, "url", b"")[:MAX_TARGET].decode("ascii", "backslashreplace")
            scope = {"method": self.parser.get_method().decode() if path else "", "path": path}
            address = (self.client or ("",))[0]
            sys.stdout.write(access_line(scope, address, Client("", admin=False), request_id, status, seconds))
        self._leave()

    def _leave(self) -> None:
        """Close, once what was answered has had the time to arrive; what comes until then is dropped, not parsed."""
        self._refused = True
        self._waiting[self] = None
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._arm(LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.close()

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _too_large() -> tuple[int, str]:
    return 431, f"The request's header has more than {SETTINGS.max_header_bytes} bytes."
