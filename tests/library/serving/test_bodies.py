"""Bodies: in which encodings and charsets, and how much of one is ever unpacked."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from typing import Any

import pyarrow as pa
import pytest
from starlette.requests import Request

from fti.serving.http.bodies import BodyBroken, BodyTooLarge, NotJson, body_of

pytestmark = pytest.mark.anyio
TEXT = json.dumps({"city": "Z\u00fcrich"}, ensure_ascii=False).encode()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def read(body: bytes, limit: int = 65536, **headers: str) -> bytes:
    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return await body_of(Request({"type": "http", "method": "POST", "headers": pairs}, receive), limit, 5)


def zstd(text: bytes) -> bytes:
    return pa.compress(text, codec="zstd", asbytes=True)


BODIES = {
    "plain": (TEXT, ""),
    "identity": (TEXT, "identity"),
    "gzip": (gzip.compress(TEXT), "gzip"),
    "gzip's old name": (gzip.compress(TEXT), "X-GZIP"),
    "zstd": (zstd(TEXT), "zstd"),
    "two gzip members": (gzip.compress(TEXT[:5]) + gzip.compress(TEXT[5:]), "gzip"),
    "byte order mark": (b"\xef\xbb\xbf" + TEXT, ""),
    "byte order mark, gzip": (gzip.compress(b"\xef\xbb\xbf" + TEXT), "gzip"),
}


# With ids: gzip writes the time into what it packs, and each of pytest's workers would name the tests differently.
@pytest.mark.parametrize(("body", "encoding"), BODIES.values(), ids=BODIES.keys())
async def test_a_body_is_unpacked_to_its_text(body, encoding):
    """gzip and zstd, with and without a byte order mark."""
    assert await read(body, content_encoding=encoding) == TEXT


@pytest.mark.parametrize(("pack", "encoding"), [(gzip.compress, "gzip"), (zstd, "zstd")])
async def test_a_bomb_is_unpacked_as_far_as_the_limit(pack, encoding):
    """300 MB in a few bytes; one at the limit passes."""
    bomb = pack(b" " * 300_000_000)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with pytest.raises(BodyTooLarge, match="unpacks to more than 1048576 bytes"):
        await read(bomb, 1_048_576, content_encoding=encoding)
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    assert pa.total_allocated_bytes() - before < 8_000_000
    tracemalloc.stop()
    assert len(await read(pack(b" " * 1000), 1000, content_encoding=encoding)) == 1000
    with pytest.raises(BodyTooLarge):
        await read(pack(b" " * 1001), 1000, content_encoding=encoding)


@pytest.mark.parametrize(("pack", "encoding"), [(gzip.compress, "gzip"), (zstd, "zstd")])
async def test_a_body_that_cannot_be_unpacked_is_told_so(pack, encoding):
    """Another encoding than it says, half of one, or one with something behind it."""
    packed = pack(TEXT * 100)
    for body in (TEXT, packed[: len(packed) // 2], packed[:-3]):
        with pytest.raises(BodyBroken, match=encoding):
            await read(body, content_encoding=encoding)


@pytest.mark.parametrize(
    ("body", "headers", "named"),
    [
        (TEXT, {"content_encoding": "br"}, "'br'"),
        (TEXT, {"content_encoding": "gzip, gzip"}, "'gzip, gzip'"),
        (TEXT, {"content_type": "application/json; charset=latin-1"}, "'latin-1'"),
        (TEXT, {"content_type": 'application/json; charset="UTF-16"'}, "UTF-16"),
        (TEXT, {"content_type": "text/plain"}, "'text/plain'"),
        (TEXT.decode().encode("utf-16"), {}, "UTF-16"),
        ("{}".encode("utf-16-le"), {}, "UTF-16-LE"),
        ("{}".encode("utf-32"), {}, "UTF-32"),
        (TEXT.decode().encode("latin-1"), {}, "byte 11 is 0xfc"),
    ],
)
async def test_what_a_body_is_said_to_be_in_is_named(body, headers, named):
    """Its type, encoding or charset; or what it looks like."""
    with pytest.raises(NotJson, match=named):
        await read(body, **headers)


async def test_utf_8_may_be_said():
    """In any spelling."""
    for charset in ("utf-8", "UTF-8", '"utf-8"', "utf8", "us-ascii"):
        assert await read(TEXT, content_type=f"application/json; charset={charset}") == TEXT
