"""Real services behind a real nginx, as docs/how-to/reverse-proxy.md has it; and what browsers ask across sites."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from tests.library.serving.door import ADMIN, CLIENT, ROOT, Door, free_port

PAGE = ROOT / "docs" / "how-to" / "reverse-proxy.md"
KEY = {"Authorization": "Bearer client"}


@dataclass
class Nginx:
    """A proxy on this machine: under `/fti/` is the service with keys, under `/open/` the one without."""

    port: int
    context: ssl.SSLContext

    def get(self, path: str, **headers: str) -> httpx.Response:
        with httpx.Client(verify=self.context, trust_env=False) as client:
            return client.get(f"https://localhost:{self.port}{path}", headers=headers)


def configuration(folder: Path, port: int, door: Door, open_door: Door) -> str:
    """What the page shows, with this test's ports and files; and a proxy that nobody has told anything."""
    (shown,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for was, now in (
        ("listen 443", f"listen 127.0.0.1:{port}"), ("/etc/nginx/fti.crt", f"{folder}/fti.pem"),
        ("/etc/nginx/fti.key", f"{folder}/fti.pem"), ("127.0.0.1:3000", f"127.0.0.1:{door.port}"),
    ):  # fmt: skip
        assert was in shown
        shown = shown.replace(was, now)
    careless = f"location /open/ {{ proxy_pass http://127.0.0.1:{open_door.port}/; proxy_set_header Via '1.1 n'; }}\n}}"
    return f"""
        pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1; daemon off; user root;
        events {{ worker_connections 256; }}
        http {{
          access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
          fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
          {shown.rstrip().removesuffix("}")}
          {careless}
        }}"""


@pytest.fixture(scope="module")
def nginx(doors: tuple[Door, Door], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        pytest.skip("there is no nginx on this machine: install the package nginx")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "fti.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "nginx.conf").write_text(configuration(folder, port, *doors))
    with subprocess.Popen([binary, "-p", str(folder), "-c", str(folder / "nginx.conf")]) as process:
        try:
            found = Nginx(port, ssl.create_default_context(cafile=str(folder / "ca.pem")))
            for _ in range(100):
                try:
                    found.get("/fti/livez")
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            yield found
        finally:
            process.terminate()


def test_the_service_is_shown_under_a_prefix_and_tls(nginx):
    """Keys count as they do without a proxy; paths that have two readings do not pass through."""
    assert nginx.get("/fti/livez").status_code == 200
    assert nginx.get("/fti/openapi.json").status_code == 401
    assert nginx.get("/fti/docs", **KEY).status_code == 200
    assert nginx.get("/fti/metrics", **KEY).status_code == 403
    for path in ("/fti/metrics%0a", "/fti/metrics%0A", "/fti//metrics", "/fti/metrics%2f"):
        assert nginx.get(path, **KEY).status_code in {400, 403, 404}, path
    assert "location" not in nginx.get("/fti/docs/", **KEY).headers


def test_the_log_names_the_client_and_not_the_proxy(nginx, door):
    """What a client writes into X-Forwarded-For itself is not believed."""
    nginx.get("/fti/nothing-here", **KEY, **{"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Prefix": "/evil"})
    assert [line["address"] for line in door.lines() if line["path"] == "/nothing-here"] == ["unknown"]
    status, _, _ = door.ask("/elsewhere", CLIENT, "X-Forwarded-For: 203.0.113.9")
    assert status == 404
    assert [line["address"] for line in door.lines() if line["path"] == "/elsewhere"] == ["203.0.113.9"]


def test_a_proxy_makes_nobody_local(nginx, open_door):
    """Without keys, whoever comes through a proxy that is not named gets nothing; who does not, all."""
    for path in ("/open/metrics", "/open/requests", "/open/features", "/open/model"):
        answer = nginx.get(path)
        assert answer.status_code == 401, path
        assert "SERVING_TRUSTED_PROXIES" in answer.json()["error"]
    for header in ("X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9", "X-Real-IP: 203.0.113.9"):
        assert open_door.ask("/metrics", header)[0] == 401
    assert open_door.ask("/metrics")[0] == 200


def test_without_keys_hosts_and_origins_are_parsed(open_door):
    """On a real connection: what only begins like this machine's address is another."""
    for host in ("[::1].evil.com", "localhost.evil.com", "127.0.0.1:80:80"):
        sent = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        assert open_door.raw(sent).startswith(b"HTTP/1.1 403"), host
    assert open_door.ask("/predict", "Origin: http://localhost.evil.com", method="POST", body=b"{}")[0] == 403
    assert open_door.ask("/predict", "Origin: http://localhost:80", method="POST", body=b"{}")[0] == 503


def test_pages_of_a_named_site_may_ask(door):
    """A preflight carries no key and needs none; pages of other sites may read nothing."""
    asked = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,content-type")
    status, head, _ = door.ask("/predict", "Origin: https://app.example.org", *asked, method="OPTIONS")
    assert status == 200
    assert "access-control-allow-origin: https://app.example.org" in head
    assert "authorization" in head
    status, head, _ = door.ask("/predict", "Origin: https://evil.example.org", *asked, method="OPTIONS")
    assert (status, "access-control-allow-origin" in head) == (400, False)
    status, head, _ = door.ask("/predict", "Origin: https://app.example.org", method="POST", body=b"{}")
    assert status == 401
    assert "access-control-allow-origin: https://app.example.org" in head


def test_large_answers_are_packed_for_who_asks(door):
    """Not a prediction, which is small."""
    status, head, _ = door.ask("/page/style.css", CLIENT, "Accept-Encoding: gzip")
    assert status == 200
    assert "content-encoding: gzip" in head
    assert "content-encoding" not in door.ask("/page/style.css", CLIENT)[1]


def test_what_admins_do_is_audited(door):
    """Each request to their paths, let in or not; and the keys that were read."""
    door.ask("/metrics", CLIENT)
    door.ask("/metrics", ADMIN)
    door.ask("/docs", ADMIN)
    lines = [json.loads(line) for line in (door.output.parent / "audit.log").read_text().splitlines()]
    assert [line["added"] for line in lines if line["audit"] == "keys"] == [["alice", "root admin"]]
    asked = [(line["client"], line["path"], line["status"]) for line in lines if line["audit"] == "request"]
    assert asked[-2:] == [("alice", "/metrics", 403), ("root", "/metrics", 200)]
