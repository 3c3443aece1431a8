"""API keys: who may ask. `python -m serving.keys NAME FILE` makes one; the file holds hashes, never a key.

A line of the file is `NAME SHA256`. It is read again when it changes: to rotate a key, add a new one, let clients move
to it, take the old line out. Keys are 256 bits of chance, so a plain hash is as good as a slow one.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import ipaddress
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from starlette.types import Scope

HOW = "Make one with `python -m serving.keys NAME FILE`, and set SERVING_API_KEYS to the file."


class KeysUnreadable(RuntimeError):
    """The file of API keys is missing or not as expected."""


class NotAllowed(PermissionError):
    """The request carries no key that is known."""


class ApiKeys:
    """The keys in a file; without a file, only this machine may ask."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._read_at: tuple[int, int] | None = None
        self._hashes: Mapping[str, str] = {}

    def require(self, scope: Scope, authorization: str) -> str:
        """The name of who asks. Raises NotAllowed, and KeysUnreadable: then nobody gets in."""
        if self._file is None:
            if is_local((scope.get("server") or ("",))[0]):
                return "local"
            raise NotAllowed("This service has no API keys, so it answers on this machine only.")
        given = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
        # Every line is compared, in constant time: how long it takes says nothing of who is known.
        known = [name for name, digest in self._load().items() if hmac.compare_digest(digest, given)]
        if not known:
            raise NotAllowed("Send a key that this service knows: the header `Authorization: Bearer KEY`.")
        return known[0]

    def _load(self) -> Mapping[str, str]:
        assert self._file is not None
        try:
            found = os.stat(self._file)
            read_at = (found.st_mtime_ns, found.st_ino)
            if read_at != self._read_at:
                lines = [line.split() for line in self._file.read_text().splitlines() if line.strip()]
                self._hashes, self._read_at = dict(lines), read_at
        except (OSError, ValueError) as error:
            raise KeysUnreadable(
                f"SERVING_API_KEYS {self._file} cannot be read ({error}); a line of it is `NAME SHA256`. {HOW}"
            ) from error
        return self._hashes


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(argv: list[str] | None = None) -> int:
    """Add a key to a file, and print it: it is kept nowhere else."""
    parser = argparse.ArgumentParser(prog="serving.keys", description="Make an API key for the service.")
    parser.add_argument("name", help="whose key it is, one word")
    parser.add_argument("file", type=Path, help="the file of hashes that SERVING_API_KEYS names")
    options = parser.parse_args(argv)
    if len(options.name.split()) != 1:
        parser.error("a name is one word")
    key = secrets.token_urlsafe(32)
    there = options.file.read_text().splitlines() if options.file.exists() else []
    if any(line.split()[:1] == [options.name] for line in there):
        parser.error(f"{options.file} has a key of {options.name} already; take that line out, or choose another name")
    there.append(f"{options.name} {hashlib.sha256(key.encode()).hexdigest()}")
    options.file.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(options.file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(there) + "\n")
    print(key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
