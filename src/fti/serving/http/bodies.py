"""What a request brings, read with care: a stream of unknown length, pace and encoding in; its JSON text, or why not,
out."""

from __future__ import annotations

import asyncio
import json

import pyarrow as pa
from starlette.requests import Request

# Content-Encoding, and what Arrow calls it. It reads a stream, as far as it is asked to.
ENCODINGS = {"gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
CHARSETS = {"utf-8", "utf8", "us-ascii", "ascii"}
BOM = b"\xef\xbb\xbf"


class BodyTooLarge(ValueError):
    """A request body over the limit."""


class BodyTooSlow(TimeoutError):
    """A request body that does not arrive."""


class BodyBroken(ValueError):
    """A request body that is not what its Content-Encoding says."""


class NotJson(ValueError):
    """A request that says its body is something else than JSON in UTF-8."""


async def body_of(request: Request, limit: int, seconds: float) -> bytes:
    """The body's text in UTF-8, read only as far as the limit: a client may give no length, or lie, or send it never,
    or send little that unpacks to much.

    Raises NotJson, BodyTooLarge, BodyTooSlow, BodyBroken.
    """
    _require_json(request.headers.get("content-type", ""))
    encoding = _encoding_of(", ".join(request.headers.getlist("content-encoding")))
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
    body = bytes(received)
    if encoding and body:
        body = _unpacked(body, encoding, limit + 1)
        if len(body) > limit:
            raise BodyTooLarge(f"The body unpacks to more than {limit} bytes.")
    return _in_utf8(body)


def _require_json(content_type: str) -> None:
    kind, *parameters = [part.strip() for part in (content_type or "application/json").split(";")]
    if kind.lower() != "application/json":
        raise NotJson(
            f"The body is said to be {kind.lower()!r}. Send JSON, and the header Content-Type: application/json."
        )
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if name.strip().lower() == "charset" and charset.strip(" \"'").lower() not in CHARSETS:
            raise NotJson(f"The body is said to be in the charset {charset.strip()[:32]!r}. Send JSON in UTF-8.")


def _encoding_of(said: str) -> str | None:
    """What to unpack; None for a body as it is."""
    said = said.strip().lower()
    if said in {"", "identity"}:
        return None
    if said not in ENCODINGS:
        raise NotJson(f"The body is said to be in the encoding {said[:32]!r}. Send it as it is, or in gzip or zstd.")
    return ENCODINGS[said]


def _unpacked(body: bytes, encoding: str, most: int) -> bytes:
    """The first `most` bytes of what was packed."""
    try:
        with pa.CompressedInputStream(pa.BufferReader(body), encoding) as stream:
            return bytes(stream.read(most))
    except (OSError, ValueError) as error:
        raise BodyBroken(f"The body is said to be in {encoding}, and cannot be unpacked.") from error


def _in_utf8(body: bytes) -> bytes:
    """The text without a byte order mark. Another encoding of Unicode is named, and so is what is none."""
    if body.isascii() and b"\0" not in body[:4]:
        return body
    text = body.removeprefix(BOM)
    found = json.detect_encoding(text)
    if found != "utf-8":
        raise NotJson(f"The body looks like {found.upper()}. Send JSON in UTF-8.")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise NotJson(
            f"The body is not in UTF-8: its byte {error.start} is {text[error.start]:#04x}. Send JSON in UTF-8."
        ) from None
    return text
