"""API keys: who may ask what. `fti keys NAME FILE` makes one; the file holds hashes, never a key.

A line of the file is `NAME SHA256`, and `admin` after it for who runs the service: all but predictions, that is
metrics, the report, logged requests and the features of any entity, is theirs. `until=2027-01-31` after it ends the key
with that day's beginning in UTC. The file is read again when it changes: to rotate a key, add a new one, let clients
move to it, take the old line out. Keys are 256 bits of chance, so a plain hash is as good as a slow one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from fti.command import alias, wrong
from fti.errors import Refusal
from fti.serving.addresses import is_local, is_own_site, names_this_machine, origin_of
from fti.serving.forwarded import Proxies, Seen
from fti.serving.key_file import alone_in, kept_in, write
from fti.serving.settings import ServingSettings

DIGEST, UNTIL = re.compile(r"[0-9a-f]{64}"), "until="
SAFE = {"GET", "HEAD", "OPTIONS"}  # of these other sites' pages may send each, and read no answer
EMPTY = hashlib.sha256(b"").hexdigest()
HOW = "Make one with `fti keys NAME FILE`, and set SERVING_API_KEYS to the file."


class KeysUnreadable(RuntimeError):
    """The file of API keys is missing or not as expected."""


class KeysNeeded(Refusal):
    """Other machines could ask, and anybody on them."""


class NotAllowed(PermissionError):
    """The request carries no key that is known."""


class NotFromHere(PermissionError):
    """Without keys: a request under a foreign name, or from another site's page, in a browser on this machine."""


@dataclass(frozen=True)
class Client:
    """Who asks, and whether they run the service."""

    name: str
    admin: bool


@dataclass(frozen=True)
class Key:
    """What the file says of a key."""

    client: Client
    until: date | None = None

    def require_current(self) -> None:
        """Raises NotAllowed once the key has expired."""
        if self.until is not None and datetime.now(UTC).date() >= self.until:
            raise NotAllowed(f"This key expired on {self.until}. Ask those who run the service for a new one.")


class ApiKeys:
    """The keys in a file; without a file, only this machine may ask, and may ask all.

    `sites` are origins whose pages may post without a key. `audit` is told how the file has changed.
    """

    def __init__(
        self,
        file: Path | None,
        sites: Sequence[str] = (),
        audit: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.file = file
        self._sites, self._audit = {origin_of(site) for site in sites}, audit
        self._read_at: tuple[int, int, int] | None = None
        self._known: Mapping[str, Key] = {}  # by the hash of their key

    def require(self, scope: Scope, authorization: str, seen: Seen | None = None) -> Client:
        """Who asks. Raises NotAllowed; without keys NotFromHere; and KeysUnreadable: then nobody gets in."""
        if self.file is None:
            self._require_local(scope, seen)
            return Client("local", admin=True)
        key = _key(authorization)
        given = hashlib.sha256(key.encode()).hexdigest()
        # Every line is compared, in constant time: how long it takes says nothing of who is known.
        known = [known for digest, known in self._load().items() if hmac.compare_digest(digest, given)]
        if not key or not known:
            raise NotAllowed("Send a key that this service knows: the header `Authorization: Bearer KEY`.")
        known[0].require_current()
        return known[0].client

    def _require_local(self, scope: Scope, seen: Seen | None) -> None:
        if not is_local((scope.get("server") or ("",))[0]):
            raise NotAllowed("This service has no API keys, so it answers on this machine only.")
        seen = seen or Proxies().see(scope, Headers(scope=scope))
        if not seen.local:
            raise NotAllowed(
                "This service has no API keys, so it answers on this machine only; a proxy has forwarded this request. "
                "Set SERVING_API_KEYS, or name the proxy in SERVING_TRUSTED_PROXIES if its clients are on this machine."
            )
        require_own_site(scope, seen.host, self._sites)

    def _load(self) -> Mapping[str, Key]:
        assert self.file is not None
        try:
            found = os.stat(self.file)
            read_at = (found.st_mtime_ns, found.st_size, found.st_ino)
            if read_at != self._read_at:
                lines = [line.split() for line in self.file.read_text().splitlines() if line.strip()]
                known: dict[str, Key] = {}
                for digest, key in (_line(*line) for line in lines):
                    if digest in known:
                        raise ValueError(f"{known[digest].client.name} and {key.client.name} have the same key")
                    known[digest] = key
                self._tell(known)
                self._known, self._read_at = known, read_at
        except (OSError, ValueError, TypeError) as error:
            raise KeysUnreadable(
                f"SERVING_API_KEYS {self.file} cannot be read ({error}); a line of it is `NAME SHA256`, and after it, "
                f"as needed, `admin` and `until=YYYY-MM-DD`: `NAME SHA256 admin`. {HOW}"
            ) from error
        return self._known

    def _tell(self, known: Mapping[str, Key]) -> None:
        """Audit who was added, removed, or has another role or another end."""
        if self._audit is None:
            return
        before, after = ({_words(digest, key) for digest, key in one.items()} for one in (self._known, known))
        added, removed = (sorted(line[1] for line in one) for one in (after - before, before - after))
        if added or removed:
            self._audit({"audit": "keys", "first": self._read_at is None, "added": added, "removed": removed})


def _words(digest: str, key: Key) -> tuple[str, str]:
    """A key's hash, and what is told of it: never the hash."""
    role = " admin" if key.client.admin else ""
    return digest, f"{key.client.name}{role}" + (f" {UNTIL}{key.until}" if key.until else "")


def require_keys(settings: ServingSettings) -> None:
    """Raises KeysNeeded when the address lets others in than this machine, and no keys are set."""
    if settings.api_keys is None and not is_local(settings.host):
        raise KeysNeeded(f"{settings.host} lets other machines in, and there are no API keys. {HOW}")
    if settings.api_keys is None and "*" in settings.cors_origins:
        raise KeysNeeded(f"SERVING_CORS_ORIGINS=* lets every page's site ask, and there are no API keys. {HOW}")


def require_own_site(scope: Scope, host: str | None, sites: Collection[str | None]) -> None:
    """Raises NotFromHere for what a browser on this machine sends on behalf of a page from elsewhere: under that page's
    own name, which its owner may have led to this machine (DNS rebinding), or as a POST, which browsers send across
    sites without asking. Programs send no Origin; HTTP/1.0, which some probes speak, wants no Host."""
    origin = Headers(scope=scope).get("origin")
    if not (names_this_machine(host) if host is not None else scope.get("http_version") == "1.0"):
        raise NotFromHere(
            f"This service has no API keys, so it answers as localhost or 127.0.0.1 only; found the Host "
            f"{(host or '')[:64]!r}. Set SERVING_API_KEYS to serve under another name."
        )
    if scope["method"] in SAFE or origin is None:
        return
    if not is_own_site(origin, host or "") and (origin_of(origin) is None or origin_of(origin) not in sites):
        raise NotFromHere(
            f"This service has no API keys, so it takes nothing from pages of other sites; found the Origin "
            f"{origin[:64]!r} at the Host {(host or '')[:64]!r}. Name the site in SERVING_CORS_ORIGINS to let its "
            "pages ask."
        )


def _line(name: str, digest: str, *words: str) -> tuple[str, Key]:
    """What a line of the file says. Raises ValueError."""
    role, until = "", None
    for word in words:
        if word.startswith(UNTIL):
            until = date.fromisoformat(word.removeprefix(UNTIL))
        elif word == "admin":
            role = word
        else:
            raise ValueError(f"found the role {word!r} of {name}")
    digest = digest.lower()
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"what follows {name} is no SHA256, which is 64 digits from 0 to f")
    if digest == EMPTY:
        raise ValueError(f"what follows {name} is the hash of an empty key, which everybody has")
    return digest, Key(Client(name, admin=bool(role)), until)


def _key(authorization: str) -> str:
    """The key in a header: a bearer token, or the password of `Basic`, which is what a browser asks people for."""
    kind, _, given = authorization.partition(" ")
    if kind.lower() != "basic":
        return given if kind.lower() == "bearer" else authorization
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:  # neither base64 nor text
        return ""


def main(argv: list[str] | None = None) -> int:
    return alias("fti.serving.keys", "fti.serving.commands:KEYS", argv)


def make_key(name: str, file: Path, admin: bool, to: Path | None, days: int | None) -> int:
    """Add a key to a file, and print it, or write it to one of its own: it is kept nowhere else."""
    key = secrets.token_urlsafe(32)
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()}{' admin' if admin else ''}"
    if days is not None:
        line += f" {UNTIL}{datetime.now(UTC).date() + timedelta(days=days + 1)}"
    try:
        with alone_in(file.resolve().parent):
            there = file.read_text().splitlines() if file.exists() else []
            if any(line.split()[:1] == [name] for line in there):
                raise wrong(f"{file} has a key of {name} already; take that line out, or choose another name")
            with kept_in(to, key) if to else nullcontext():
                write(file, [*there, line])
    except OSError as error:
        raise wrong(f"no key was made ({error}); {file} is as it was") from error
    if not to:
        print(key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
