"""Who is let in over HTTP, and what every answer carries; the paths that need a model are tried on a real service."""

from __future__ import annotations

import io
import json

import httpx
import pytest

from fti.serving.http.api import ENTRANCE
from fti.serving.http.rates import Rates
from fti.serving.keys import ApiKeys, main

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


async def ask(method: str, **headers: str) -> httpx.Response:
    """What a service without keys says to a request that has reached this machine; nothing is there to be found."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(ENTRANCE), base_url="http://127.0.0.1:3000") as client:
        return await client.request(method, "/nothing", headers=headers)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(
            (host, 404)
            for host in ("localhost:3000", "LOCALHOST", "127.0.0.1", "127.8.9.1:1", "[::1]:3000", "a.localhost")
        ),
        *(
            (host, 403)
            for host in ("rebound.example:3000", "localhost.example", "127.0.0.1.example", "192.0.2.7", "[::2]")
        ),
        *((host, 403) for host in ("", ":3000", "[", "notlocalhost", "localhost@example.org")),
    ],
)
async def test_without_keys_it_answers_under_this_machines_names_only(host, status):
    """A page whose own name its owner leads to this machine reads nothing; what to do is said."""
    answer = await ask("GET", Host=host)
    assert answer.status_code == status
    assert status == 404 or "Set SERVING_API_KEYS to serve under another name" in answer.json()["error"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 404),
        ("http://localhost:3000", 404),
        ("http://LOCALHOST:3000", 404),
        ("http://localhost:8080", 403),
        ("https://evil.example", 403),
        ("https://evil.example/localhost:3000", 403),
        ("http://[", 403),
        ("null", 403),
    ],
)
async def test_without_keys_no_other_sites_page_posts(origin, status):
    """Browsers send such a POST without asking; only reading it would be refused. Its own page posts, and programs."""
    headers = {"Host": "localhost:3000"} | ({"Origin": origin} if origin else {})
    answer = await ask("POST", **headers)
    assert answer.status_code == status
    assert status == 404 or "pages of other sites" in answer.json()["error"]
    assert (await ask("GET", **headers)).status_code == 404


async def test_with_keys_any_name_and_origin_will_do(tmp_path, monkeypatch, capsys):
    """A key is what no other site's page has."""
    file = tmp_path / "keys"
    assert main(["me", str(file)]) == 0
    monkeypatch.setattr(ENTRANCE, "keys", ApiKeys(file))
    key = {"Authorization": f"Bearer {capsys.readouterr().out.strip()}"}
    assert (await ask("POST", Host="api.example", Origin="https://site.example", **key)).status_code == 404


@pytest.mark.parametrize(("version", "status"), [("1.0", 404), ("1.1", 403)])
async def test_without_keys_only_http_1_0_may_name_no_host(version, status):
    """That is what simple probes speak, and no browser does."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "http_version": version, "method": "GET", "path": "/nothing", "raw_path": b"/nothing",
        "root_path": "", "query_string": b"", "headers": [], "server": ("127.0.0.1", 3000), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await ENTRANCE(scope, None, send)
    assert sent[0]["status"] == status


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
        answer = await client.get("/nothing/at%20all", headers={"X-Request-ID": given})
    found = answer.headers["x-request-id"]
    assert (found == given) is kept
    assert len(found) == len(given) if kept else len(found) == 32
    (line,) = [json.loads(line) for line in written.getvalue().splitlines()]
    assert line | {"time": "", "ms": 0} == {
        "time": "", "request_id": found, "client": "local", "address": "127.0.0.1", "method": "GET",
        "path": "/nothing/at all", "status": 404, "ms": 0,
    }  # fmt: skip


async def test_every_answer_is_for_no_frame_and_no_cache():
    """Answers and refusals alike."""
    for address in ("http://127.0.0.1", "http://192.0.2.7"):
        headers = (await get(address, "/nothing")).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"


async def test_a_key_that_asks_too_often_is_told_when_to_come_again(tmp_path, monkeypatch, capsys):
    """Each key by itself."""
    file = tmp_path / "keys"
    keys = []
    for name in ("me", "you"):
        assert main([name, str(file)]) == 0
        keys.append(capsys.readouterr().out.strip())
    monkeypatch.setattr(ENTRANCE, "keys", ApiKeys(file))
    monkeypatch.setattr(ENTRANCE, "_rates", Rates(2))
    answers = [await get("http://127.0.0.1", "/nothing", keys[0]) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert int(answers[2].headers["retry-after"]) in {29, 30}
    assert (await get("http://127.0.0.1", "/nothing", keys[1])).status_code == 404


async def test_without_keys_a_forwarded_request_is_refused():
    """Whoever stands behind a proxy on this machine is not on it."""
    for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Anything", "CF-Connecting-IP"):
        answer = await ask("GET", **{"Host": "localhost:3000", header: "127.0.0.1"})
        assert answer.status_code == 401, header
        assert "SERVING_TRUSTED_PROXIES" in answer.json()["error"]


async def test_without_keys_a_named_sites_pages_may_post(monkeypatch):
    """Those of SERVING_CORS_ORIGINS."""
    monkeypatch.setattr(ENTRANCE, "keys", ApiKeys(None, ("https://app.example.org",)))
    for origin, status in (("https://app.example.org", 404), ("https://app.example.org.evil.com", 403)):
        assert (await ask("POST", Host="localhost:3000", Origin=origin)).status_code == status
