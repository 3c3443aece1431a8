"""Who is let in over HTTP, and what every answer carries; the paths that need a model are tried on a real service."""

from __future__ import annotations

import io
import json

import httpx
import pytest

from serving.api import ENTRANCE
from serving.keys import ApiKeys, main

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def get(address: str, path: str, key: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(ENTRANCE)
    async with httpx.AsyncClient(transport=transport, base_url=address) as client:
        return await client.get(path, headers=headers)


async def test_without_keys_other_machines_are_told_so():
    """The address that was asked decides, whatever `bentoml serve --host` was told."""
    assert (await get("http://127.0.0.1:3000", "/docs")).status_code == 200
    refused = await get("http://192.0.2.7:3000", "/docs")
    assert refused.status_code == 401
    assert refused.headers.get_list("www-authenticate") == ["Bearer", 'Basic realm="API key"']
    assert refused.json() == {"error": "This service has no API keys, so it answers on this machine only."}


async def test_with_keys_a_key_is_needed_for_every_path(tmp_path, monkeypatch, capsys):
    """Known, unknown and none; a file that has gone lets nobody in, and says nothing of where it was."""
    file = tmp_path / "keys"
    assert main(["me", str(file)]) == 0
    key = capsys.readouterr().out.strip()
    monkeypatch.setattr(ENTRANCE, "keys", ApiKeys(file))
    for path in ("/docs", "/", "/openapi.json", "/nothing"):
        assert (await get("http://127.0.0.1", path)).status_code == 401
        assert (await get("http://192.0.2.7", path, "wrong")).status_code == 401
    assert (await get("http://192.0.2.7", "/docs", key)).status_code == 200
    assert (await get("http://192.0.2.7", "/nothing", key)).status_code == 404
    file.unlink()
    gone = await get("http://127.0.0.1", "/docs", key)
    assert gone.status_code == 503
    assert str(tmp_path) not in gone.text


async def test_what_only_those_who_run_the_service_may_see(tmp_path, monkeypatch, capsys):
    """Metrics, how it is, and any entity's features; clients' paths are admins' too, and a path is what is under it."""
    file = tmp_path / "keys"
    keys = {}
    for name, flags in (("client", []), ("root", ["--admin"])):
        assert main([name, str(file), *flags]) == 0
        keys[name] = capsys.readouterr().out.strip()
    monkeypatch.setattr(ENTRANCE, "keys", ApiKeys(file))
    for path in ("/metrics", "/features", "/features/wear", "/metrics/", "/status", "/requests"):
        refused = await get("http://127.0.0.1", path, keys["client"])
        assert (refused.status_code, list(refused.json())) == (403, ["error"]), path
    assert (await get("http://127.0.0.1", "/metrics", keys["root"])).status_code == 200
    for path, status in (("/metricsx", 404), ("/explain", 405)):  # not theirs alone: only there is nothing to get
        assert (await get("http://127.0.0.1", path, keys["client"])).status_code == status
    assert (await get("http://127.0.0.1", "/docs", keys["root"])).status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2:3_4", True), ("", False), ("a" * 65, False), ("a b", False), ('"\\x', False)]
)
async def test_a_request_keeps_its_id_or_gets_one(given, kept, monkeypatch):
    """In the answer and in its line of the access log, one JSON object; what could forge a line is replaced."""
    written = io.StringIO()
    monkeypatch.setattr(ENTRANCE, "_log", written)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(ENTRANCE), base_url="http://127.0.0.1") as client:
        answer = await client.get("/nothing/at%0Aall", headers={"X-Request-ID": given})
    found = answer.headers["x-request-id"]
    assert (found == given) is kept
    assert len(found) == len(given) if kept else len(found) == 32
    (line,) = [json.loads(line) for line in written.getvalue().splitlines()]
    assert line | {"time": "", "ms": 0} == {
        "time": "", "request_id": found, "client": "local", "address": "127.0.0.1", "method": "GET",
        "path": "/nothing/at\nall", "status": 404, "ms": 0,
    }  # fmt: skip


async def test_every_answer_is_for_no_frame_and_no_cache():
    """Answers and refusals alike."""
    for address in ("http://127.0.0.1", "http://192.0.2.7"):
        headers = (await get(address, "/nothing")).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
