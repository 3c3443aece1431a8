"""What every request passes on its way in and out: keys, a request id, headers, the access log and its counters."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, TextIO

from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fti.scoring.answers import encode
from fti.serving import metrics
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


class Json(Response):
    """Strict JSON, several times as fast as Starlette's."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content)


class Middleware:
    """An ASGI app around another. `paths` are those with a name in the metrics; `admin` those for admin keys alone.

    `log` gets a line a request: one JSON object, and nothing around it, whatever the server's own logging looks like.

    It leaves in the request's `state` who asks, `client`, and its `request_id`: the caller's own, or a new one.
    """

    def __init__(
        self, app: ASGIApp, keys: ApiKeys, paths: Collection[str], admin: Collection[str], log: TextIO | None
    ) -> None:
        self.app = app
        self.keys = keys
        self._paths, self._admin, self._log = paths, admin, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, client = time.perf_counter(), TIMED_OUT, Client("", admin=False)
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex

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

        path = next((path for path in self._paths if _under(scope["path"], path)), "other")
        try:
            client = self.keys.require(scope, headers.get("authorization", ""))
            if not client.admin and any(_under(scope["path"], one) for one in self._admin):
                await _say(403, "This is for the keys of those who run the service.")(scope, receive, watched)
                return
            scope.setdefault("state", {}).update(client=client, request_id=request_id)
            await self.app(scope, receive, watched)
        except NotAllowed as error:
            refusal = _say(401, str(error))
            # Both, so that programs know what to send and browsers ask for it.
            refusal.raw_headers += [(b"www-authenticate", b"Bearer"), (b"www-authenticate", b'Basic realm="API key"')]
            await refusal(scope, receive, watched)
        except NotFromHere as error:
            await _say(403, str(error))(scope, receive, watched)
        except KeysUnreadable as error:
            logger.error("%s", error)
            await _say(503, "The keys of this service cannot be read; its log says why.")(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - began
            metrics.child(metrics.REQUESTS, path, status).observe(seconds)
            if self._log:
                self._log.write(_line(scope, client, request_id, status, seconds))


def _line(scope: Scope, client: Client, request_id: str, status: int, seconds: float) -> str:
    line = {
        "time": datetime.now(UTC),
        "request_id": request_id,
        "client": client.name,
        "address": (scope.get("client") or ("",))[0],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round(seconds * 1000, 2),
    }
    return f"{to_json(line).decode()}\n"


def _under(path: str, prefix: str) -> bool:
    return path == prefix or (prefix != "/" and path.startswith(f"{prefix}/"))


def _say(status: int, error: str) -> Response:
    return Json({"error": error}, status_code=status)
