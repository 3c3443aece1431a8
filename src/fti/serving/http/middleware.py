"""What every request passes on its way in and out: its target, keys, rates, a request id, headers and the log."""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fti.scoring.answers import encode
from fti.serving import metrics
from fti.serving.forwarded import Proxies
from fti.serving.http.rates import Rates, TooOften
from fti.serving.http.target import problem_of, target_of
from fti.serving.keys import ApiKeys, Client, KeysUnreadable, NotAllowed, NotFromHere

logger = logging.getLogger("bentoml.serving")
# Answers are data, for no page to frame and no browser to guess at; what is a page says itself what it may do.
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# BentoML's answer in place of ours, when a request took longer than `timeout_seconds`.
TIMED_OUT = 504
# A lone prediction is small, and even to be ready to pack it costs it 10 microseconds.
GZIP_BYTES, GZIP_LEVEL, NEVER_PACKED = 2048, 5, {"/predict"}
CORS_REQUEST_HEADERS = ("Authorization", "Content-Encoding", "X-Request-ID")
CORS_ANSWER_HEADERS = ("X-Request-ID", "Retry-After")


class Json(Response):
    """Strict JSON, several times as fast as Starlette's."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content)


class Middleware:
    """An ASGI app around another. `paths` are those with a name in the metrics; `admin` those for admin keys alone.

    `log` gets a line a request: one JSON object, and nothing around it, whatever the server's own logging looks like.
    `audit` gets one for each request to a path of `admin`'s.

    It leaves in the request's `state` who asks, `client`, its `request_id`: the caller's own, or a new one, and the
    `prefix` under which a trusted proxy shows the service.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys,
        paths: Collection[str],
        admin: Collection[str],
        log: TextIO | None,
        audit: Audit | None = None,
        proxies: Proxies | None = None,
        sites: Collection[str] = (),
        rates: Rates | None = None,
    ) -> None:
        self.app, self._packing = app, GZipMiddleware(app, GZIP_BYTES, GZIP_LEVEL)
        self.keys = keys
        self._paths, self._admin, self._log, self._audit = paths, admin, log, audit
        self._proxies, self._rates = proxies or Proxies(), rates or Rates(None)
        self._inner: ASGIApp = self._let_in
        if sites:  # a preflight carries no key, and a page reads no refusal without these headers
            self._inner = CORSMiddleware(
                self._let_in,
                allow_origins=sites,
                allow_methods=("GET", "POST"),
                allow_headers=CORS_REQUEST_HEADERS,
                expose_headers=CORS_ANSWER_HEADERS,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), TIMED_OUT
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        seen = self._proxies.see(scope, headers)
        state = scope.setdefault("state", {})
        state.update(client=Client("", admin=False), request_id=request_id, seen=seen, prefix=seen.prefix)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                said = list(message.get("headers", []))
                named = {name for name, _ in said}
                own = [
                    *(header for header in HEADERS if header[0] not in named),
                    (b"x-request-id", request_id.encode()),
                ]
                message["headers"] = said + own
            await send(message)

        problem = problem_of(scope) or ("There are several Host headers." * (len(headers.getlist("host")) > 1))
        path = "other"
        try:
            if problem:
                await _say(400, problem, Connection="close")(scope, receive, watched)
                return
            path = next((path for path in self._paths if _under(scope["path"], path)), "other")
            scope["scheme"] = seen.scheme
            await self._inner(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - began
            metrics.child(metrics.REQUESTS, path, status).observe(seconds)
            asked = scope if not problem else {**scope, "path": target_of(scope).decode("ascii", "backslashreplace")}
            if self._log:
                self._log.write(access_line(asked, seen.address, state["client"], request_id, status, seconds))
            if self._audit and path in self._admin and self.keys.file is not None:
                line = access_line(asked, seen.address, state["client"], request_id, status, seconds, audit="request")
                self._audit.write(line)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may be asked, by who asks, as often as it asks."""
        state = scope["state"]
        refusal: Response
        try:
            authorization = Headers(scope=scope).get("authorization", "")
            client = state["client"] = self.keys.require(scope, authorization, state["seen"])
            self._rates.count(client.name)
            if not client.admin and any(_under(scope["path"], one) for one in self._admin):
                refusal = _say(403, "This is for the keys of those who run the service.")
            else:
                app = self.app if scope["path"] in NEVER_PACKED else self._packing
                await app(scope, receive, send)
                return
        except NotAllowed as error:
            refusal = _say(401, str(error))
            # Both, so that programs know what to send and browsers ask for it.
            refusal.raw_headers += [(b"www-authenticate", b"Bearer"), (b"www-authenticate", b'Basic realm="API key"')]
        except NotFromHere as error:
            refusal = _say(403, str(error))
        except TooOften as error:
            refusal = _say(429, str(error), **{"Retry-After": str(error.seconds)})
        except KeysUnreadable as error:
            logger.error("%s", error)
            refusal = _say(503, "The keys of this service cannot be read; its log says why.")
        await refusal(scope, receive, send)


class Audit:
    """Where it is kept who did what with the rights of those who run the service: a file, or standard output."""

    def __init__(self, file: Path | None, output: TextIO) -> None:
        self._file, self._output = file, output

    def tell(self, event: Mapping[str, Any]) -> None:
        """Write what has happened to the keys."""
        self.write(f"{to_json({'time': datetime.now(UTC), 'pid': os.getpid(), **event}).decode()}\n")

    def write(self, line: str) -> None:
        if self._file is None:
            self._output.write(line)
            return
        try:
            # One write to the end: lines of several workers do not mix. The file may be rotated at any time.
            number = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(number, line.encode())
            finally:
                os.close(number)
        except OSError as error:
            logger.error("SERVING_AUDIT_LOG %s cannot be written (%s): %s", self._file, error, line.rstrip())


def access_line(
    scope: Mapping[str, Any], address: str, client: Client, request_id: str, status: int, seconds: float, **more: str
) -> str:
    """A request's line in a log."""
    line = {
        **more,
        "time": datetime.now(UTC),
        "request_id": request_id,
        "client": client.name,
        "address": address,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round(seconds * 1000, 2),
    }
    return f"{to_json(line).decode()}\n"


def _under(path: str, prefix: str) -> bool:
    return path == prefix or (prefix != "/" and path.startswith(f"{prefix}/"))


def _say(status: int, error: str, **headers: str) -> Response:
    return Json({"error": error}, status_code=status, headers=headers)
