"""Who is let in over HTTP, and what every answer carries; the paths that need a model are tried on a real service."""

from __future__ import annotations

import httpx
import pytest

from serving import service
from serving.keys import ApiKeys, main

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def get(address: str, path: str, key: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport, base_url=address) as client:
        return await client.get(path, headers=headers)


async def test_without_keys_other_machines_are_told_so():
    """The address that was asked decides, whatever `bentoml serve --host` was told."""
    assert (await get("http://127.0.0.1:3000", "/docs")).status_code == 200
    refused = await get("http://192.0.2.7:3000", "/docs")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.json() == {"error": "This service has no API keys, so it answers on this machine only."}


async def test_with_keys_a_key_is_needed_for_every_path(tmp_path, monkeypatch, capsys):
    """Known, unknown and none; a file that has gone lets nobody in, and says nothing of where it was."""
    file = tmp_path / "keys"
    assert main(["me", str(file)]) == 0
    key = capsys.readouterr().out.strip()
    monkeypatch.setattr(service, "KEYS", ApiKeys(file))
    for path in ("/docs", "/", "/openapi.json", "/nothing"):
        assert (await get("http://127.0.0.1", path)).status_code == 401
        assert (await get("http://192.0.2.7", path, "wrong")).status_code == 401
    assert (await get("http://192.0.2.7", "/docs", key)).status_code == 200
    assert (await get("http://192.0.2.7", "/nothing", key)).status_code == 404
    file.unlink()
    gone = await get("http://127.0.0.1", "/docs", key)
    assert gone.status_code == 503
    assert str(tmp_path) not in gone.text


async def test_every_answer_is_for_no_frame_and_no_cache():
    """Answers and refusals alike."""
    for address in ("http://127.0.0.1", "http://192.0.2.7"):
        headers = (await get(address, "/docs")).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
