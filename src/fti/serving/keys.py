"""API keys: who may ask what. `python -m fti.serving.keys NAME FILE` makes one; the file holds hashes, never a key.

A line of the file is `NAME SHA256`, and `admin` after it for who runs the service: all but predictions, that is
metrics, the report, logged requests and the features of any entity, is theirs. The file is read again when it changes:
to rotate a key, add a new one, let clients move to it, take the old line out. Keys are 256 bits of chance, so a plain
hash is as good as a slow one.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import Scope

from fti.errors import Refusal
from fti.serving.settings import ServingSettings

DIGEST = re.compile(r"[0-9a-f]{64}")
HOW = "Make one with `python -m fti.serving.keys NAME FILE`, and set SERVING_API_KEYS to the file."


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


class ApiKeys:
    """The keys in a file; without a file, only this machine may ask, and may ask all."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._read_at: tuple[int, int, int] | None = None
        self._known: Mapping[str, Client] = {}  # by the hash of their key

    def require(self, scope: Scope, authorization: str) -> Client:
        """Who asks. Raises NotAllowed; without keys NotFromHere; and KeysUnreadable: then nobody gets in."""
        if self._file is None:
            if not is_local((scope.get("server") or ("",))[0]):
                raise NotAllowed("This service has no API keys, so it answers on this machine only.")
            require_own_site(scope)
            return Client("local", admin=True)
        given = hashlib.sha256(_key(authorization).encode()).hexdigest()
        # Every line is compared, in constant time: how long it takes says nothing of who is known.
        known = [client for digest, client in self._load().items() if hmac.compare_digest(digest, given)]
        if not known:
            raise NotAllowed("Send a key that this service knows: the header `Authorization: Bearer KEY`.")
        return known[0]

    def _load(self) -> Mapping[str, Client]:
        assert self._file is not None
        try:
            found = os.stat(self._file)
            read_at = (found.st_mtime_ns, found.st_size, found.st_ino)
            if read_at != self._read_at:
                lines = [line.split() for line in self._file.read_text().splitlines() if line.strip()]
                self._known, self._read_at = dict(_client(*line) for line in lines), read_at
        except (OSError, ValueError, TypeError) as error:
            raise KeysUnreadable(
                f"SERVING_API_KEYS {self._file} cannot be read ({error}); a line of it is `NAME SHA256`, or "
                f"`NAME SHA256 admin`. {HOW}"
            ) from error
        return self._known


def require_keys(settings: ServingSettings) -> None:
    """Raises KeysNeeded when the address lets others in than this machine, and no keys are set."""
    if settings.api_keys is None and not is_local(settings.host):
        raise KeysNeeded(f"{settings.host} lets other machines in, and there are no API keys. {HOW}")


def require_own_site(scope: Scope) -> None:
    """Raises NotFromHere for what a browser on this machine sends on behalf of a page from elsewhere: under that page's
    own name, which its owner may have led to this machine (DNS rebinding), or as a POST, which browsers send across
    sites without asking. Programs send no Origin; HTTP/1.0, which some probes speak, wants no Host."""
    headers = Headers(scope=scope)
    host, origin = headers.get("host"), headers.get("origin")
    if not (_names_this_machine(host) if host is not None else scope.get("http_version") == "1.0"):
        raise NotFromHere(
            f"This service has no API keys, so it answers as localhost or 127.0.0.1 only; found the Host "
            f"{(host or '')[:64]!r}. Set SERVING_API_KEYS to serve under another name."
        )
    if scope["method"] == "POST" and origin is not None and origin.lower().partition("://")[2] != (host or "").lower():
        raise NotFromHere(
            f"This service has no API keys, so it takes nothing from pages of other sites; found the Origin "
            f"{origin[:64]!r} at the Host {(host or '')[:64]!r}. Set SERVING_API_KEYS to serve other sites."
        )


def _names_this_machine(host: str) -> bool:
    """Whether a Host header, with any port, is a name of this machine that nobody else can give it."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()
    return is_local(name) or name.endswith(".localhost")


def _client(name: str, digest: str, role: str = "") -> tuple[str, Client]:
    if role not in {"", "admin"}:
        raise ValueError(f"found the role {role!r} of {name}")
    digest = digest.lower()
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"what follows {name} is no SHA256, which is 64 digits from 0 to f")
    return digest, Client(name, admin=role == "admin")


def _key(authorization: str) -> str:
    """The key in a header: a bearer token, or the password of `Basic`, which is what a browser asks people for."""
    kind, _, given = authorization.partition(" ")
    if kind.lower() != "basic":
        return given if kind.lower() == "bearer" else authorization
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:  # neither base64 nor text
        return ""


@lru_cache(maxsize=128)
def is_local(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(argv: list[str] | None = None) -> int:
    """Add a key to a file, and print it, or write it to one of its own: it is kept nowhere else."""
    parser = argparse.ArgumentParser(prog="fti.serving.keys", description="Make an API key for the service.")
    parser.add_argument("name", help="whose key it is, one word")
    parser.add_argument("file", type=Path, help="the file of hashes that SERVING_API_KEYS names")
    parser.add_argument("--admin", action="store_true", help="of who runs the service: metrics and features too")
    parser.add_argument("--to", type=Path, help="a new file for the key, its owner's alone, instead of printing it")
    options = parser.parse_args(argv)
    if len(options.name.split()) != 1:
        parser.error("a name is one word")
    key = secrets.token_urlsafe(32)
    line = f"{options.name} {hashlib.sha256(key.encode()).hexdigest()}{' admin' if options.admin else ''}"
    try:
        with _alone_in(options.file.resolve().parent):
            there = options.file.read_text().splitlines() if options.file.exists() else []
            if any(line.split()[:1] == [options.name] for line in there):
                parser.error(
                    f"{options.file} has a key of {options.name} already; take that line out, or choose another name"
                )
            with _kept_in(options.to, key) if options.to else nullcontext():
                write(options.file, [*there, line])
    except OSError as error:
        parser.error(f"no key was made ({error}); {options.file} is as it was")
    if not options.to:
        print(key)
    return 0


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One at a time: of two that each add a line to what they have read, one line would be lost. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@contextmanager
def _kept_in(file: Path, key: str) -> Iterator[None]:
    """The key in a file that was not there, without a newline: what reads it may send that along. It goes again when
    the key does not get among those that are known. Raises OSError."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
        new.write(key)
    try:
        yield
    except BaseException:
        file.unlink()
        raise


def write(file: Path, lines: Sequence[str]) -> None:
    """Replace the file, or what a link of that name leads to, at once: a service that reads it meanwhile, and a crash,
    find the old lines or the new ones. Owner and rights stay; a new file is its owner's alone. Raises OSError."""
    file = file.resolve()
    number, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with open(number, "w") as new:
            if file.exists():
                old, own = file.stat(), os.fstat(number)
                if (old.st_uid, old.st_gid) != (own.st_uid, own.st_gid):
                    os.fchown(number, old.st_uid, old.st_gid)
                os.fchmod(number, old.st_mode & 0o777)
            new.write("\n".join(lines) + "\n")
            new.flush()
            os.fsync(number)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


if __name__ == "__main__":
    sys.exit(main())
