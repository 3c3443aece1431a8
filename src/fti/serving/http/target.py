"""What a request asks for, compared once and in one form: a request target in; why it is refused, or '', out.

Routes, roles and logs all go by the decoded path. So a path has exactly one spelling here: whatever a proxy, a router
or a file system may read in two ways is refused before anybody looks at it.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from starlette.types import Scope

# Where the server's protocol leaves the target as it came: of `http://HOST/PATH` the parsed path is all that is left.
TARGET = "target"
MAX_TARGET = 8192
PROBES = {b"/livez", b"/readyz", b"/healthz"}  # BentoML's; they need no key
NOT_ENCODED = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# Most paths need no second look. Each segment begins with no dot.
PLAIN = re.compile(rb"/|(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+")


def problem_of(scope: Scope) -> str:
    """Why a request's target is refused; '' for what has one meaning."""
    target = target_of(scope)
    if not target.startswith(b"/"):
        return "The request target has to be a path that begins with one slash."
    if any(not 0x20 < byte < 0x7F for byte in target):
        return "The request target holds characters that have to be percent-encoded."
    path, _, query = target.partition(b"?")
    if PLAIN.fullmatch(path) and b"#" not in query:
        return ""
    if NOT_ENCODED.search(path) or b"#" in target:
        return "The path holds a % that encodes nothing, or a fragment (#)."
    return _problem_of_path(path)


def _problem_of_path(raw: bytes) -> str:
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return "The path is not UTF-8."
    if not path.isprintable():
        return "The path holds control characters."
    if "\\" in path or path.count("/") != raw.count(b"/"):
        return "The path holds a backslash or an encoded slash."
    segments = path[1:].split("/")
    if "" in segments[:-1]:
        return "The path holds two slashes in a row."
    if {".", ".."} & {*segments}:
        return "The path holds . or .. as a segment."
    return ""


def target_of(scope: Scope) -> bytes:
    """The target as it came, as far as the server has kept it."""
    target: bytes | None = scope.get("state", {}).get(TARGET)
    if target is None:
        path, query = scope.get("raw_path") or quote(scope["path"]).encode(), scope["query_string"]
        target = path + b"?" + query if query else path
    return target
