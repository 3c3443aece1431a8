"""What a request brings, read with care: a stream of unknown length and pace in; its bytes, or why not, out."""

from __future__ import annotations

import asyncio

from starlette.requests import Request


class BodyTooLarge(ValueError):
    """A request body over the limit."""


class BodyTooSlow(TimeoutError):
    """A request body that does not arrive."""


class NotJson(ValueError):
    """A request that says its body is something else than JSON."""


async def body_of(request: Request, limit: int, seconds: float) -> bytes:
    """The body, read only as far as the limit: a client may give no length, or lie, or send it never.

    Raises NotJson, BodyTooLarge, BodyTooSlow.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise NotJson(f"The body is said to be {kind!r}. Send JSON, and the header Content-Type: application/json.")
    too_large = BodyTooLarge(f"The body has more than {limit} bytes.")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    received = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                received += chunk
                if len(received) > limit:
                    raise too_large
    except TimeoutError:
        raise BodyTooSlow(f"The body did not arrive within {seconds:g} seconds.") from None
    return bytes(received)
