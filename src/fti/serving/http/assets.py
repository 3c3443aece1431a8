"""The files of the web page: a name in; its bytes, their type and their ETag out. Nothing else is ever read.

The page is plain HTML, CSS and ES modules, which a browser takes as they lie in serving/page: there is no build.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parents[1] / "page"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
# Whatever found its way into a page, a browser runs and fetches nothing but these files, and shows them in no frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI sets style attributes, and shows its description as a link to data.
DOCS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")


@dataclass(frozen=True)
class Asset:
    content: bytes
    type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """The files by name. Their ETags are of what is in them: packaging gives files of all versions one time."""
    found = {file.name: file.read_bytes() for file in sorted(FOLDER.iterdir()) if file.suffix in TYPES}
    return {
        name: Asset(content, TYPES[Path(name).suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        for name, content in found.items()
    }


def answer(request: Request, name: str, policy: str = POLICY) -> Response:
    """A file, or that the browser's copy is still it: it asks each time. Raises HTTPException 404."""
    asset = assets().get(name)
    if asset is None:
        raise HTTPException(404)
    headers = {"etag": asset.etag, "cache-control": "no-cache", "content-security-policy": policy}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers | {"content-type": asset.type})


async def page_file(request: Request) -> Response:
    return answer(request, request.path_params["name"])


async def home_page(request: Request) -> Response:
    return answer(request, "index.html")


async def docs_page(request: Request) -> Response:
    return answer(request, "docs.html", DOCS_POLICY)
