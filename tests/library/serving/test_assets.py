"""The files of the web page over HTTP: what is served, as what, under which policy, and that nothing else is."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from fti.serving.http.api import ENTRANCE

pytestmark = pytest.mark.anyio
PAGE = Path(__file__).resolve().parents[3] / "src" / "fti" / "serving" / "page"
TYPES = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "inter.woff2": "font/woff2",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def get(path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(ENTRANCE), base_url="http://127.0.0.1") as client:
        return await client.get(path, headers=headers)


class Markup(HTMLParser):
    """What an HTML file refers to, and what it holds that a strict policy would not run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.references += [str(given[name]) for name in ("src", "href") if name in given]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


@pytest.mark.parametrize("name", sorted(file.name for file in PAGE.iterdir()))
async def test_every_file_is_served_as_it_lies_there(name):
    """Its bytes, with a type that a browser told not to guess takes, for as long as they stay what they are."""
    answer = await get(f"/page/{name}")
    assert (answer.status_code, answer.content) == (200, (PAGE / name).read_bytes())
    assert answer.headers["content-type"] == TYPES.get(name, answer.headers["content-type"])
    assert not answer.headers["content-type"].startswith("application/octet-stream")
    assert answer.headers.get_list("cache-control") == ["no-cache"]
    again = await get(f"/page/{name}", **{"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await get(f"/page/{name}", **{"If-None-Match": '"another"'})).status_code == 200


async def test_what_is_no_file_of_the_page_is_not_there():
    """Other folders, other files, hidden ones, and names that only look like one."""
    for path in (
        "assets.py",
        "..%2Fassets.py",
        "..%2f..%2fpyproject.toml",
        "%2Fetc%2Fpasswd",
        "",
        ".",
        "app.js%00",
        "APP.JS",
    ):
        answer = await get(f"/page/{path}")
        assert answer.status_code in {400, 404}, path  # encoded slashes and control characters are no path at all
        assert list(answer.json()) == ["error"], path


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_runs_what_the_service_ships_and_nothing_else(path):
    """No script or style within it, no address of another site, and a policy by which the browser holds it to that."""
    answer = await get(path)
    markup = Markup(answer.text)
    assert markup.inline == []
    assert [one for one in markup.references if "//" in one] == []
    for reference in markup.references:
        if reference.startswith(("page/", "static_content/")):
            assert (await get(f"/{reference}")).status_code == 200, reference
    (policy,) = answer.headers.get_list("content-security-policy")
    rules = dict(rule.strip().split(" ", maxsplit=1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == "'self'"
    for closed in ("base-uri", "form-action", "frame-ancestors"):
        assert rules[closed] == "'none'"


async def test_the_policy_of_the_page_allows_no_style_in_markup():
    """Only Swagger's page may: it sets style attributes."""
    assert "style-src 'self';" in (await get("/")).headers["content-security-policy"]


async def test_an_answer_that_is_data_may_do_nothing():
    """Opened in a browser, JSON runs and fetches nothing, and no page frames it."""
    (policy,) = (await get("/nothing")).headers.get_list("content-security-policy")
    assert policy == "default-src 'none'; frame-ancestors 'none'"


def test_every_module_that_is_imported_is_there_and_every_one_is_used():
    """A file that is missing breaks the page in the browser alone; one that nobody imports is dead."""
    modules = {file.name: file.read_text() for file in PAGE.glob("*.js")}
    imported = {name: set(re.findall(r'from "\./([\w.]+)"', text)) for name, text in modules.items()}
    assert set().union(*imported.values()) <= modules.keys()
    assert modules.keys() - set().union(*imported.values()) == {"app.js", "docs.js"}
