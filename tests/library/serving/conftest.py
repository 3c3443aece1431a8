"""Real services that the tests of this folder share: a start takes longer than all that is asked of one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.library.serving.door import SECONDS, Door, start, wait_for


@pytest.fixture(scope="session")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Door, Door]]:
    """One with keys, few files to open and a trusted proxy on this machine; one without any of it."""
    folder = tmp_path_factory.mktemp("doors")
    client, admin = (hashlib.sha256(key).hexdigest() for key in (b"client", b"admin"))
    (folder / "keys").write_text(f"alice {client}\nroot {admin} admin\n")
    told = {
        "SERVING_API_KEYS": str(folder / "keys"), "SERVING_HEADER_SECONDS": str(SECONDS),
        "SERVING_BODY_SECONDS": str(SECONDS), "SERVING_TRUSTED_PROXIES": "127.0.0.1",
        "SERVING_CORS_ORIGINS": "https://app.example.org", "SERVING_AUDIT_LOG": str(folder / "audit.log"),
    }  # fmt: skip
    both = start(folder, "keyed", files=256, **told), start(folder, "open")
    try:
        yield wait_for(both[0]), wait_for(both[1])
    finally:
        for door in both:
            door.process.terminate()
        for door in both:
            door.process.wait(60)


@pytest.fixture(scope="session")
def door(doors: tuple[Door, Door]) -> Door:
    """The service with keys: `client`'s and `admin`'s."""
    return doors[0]


@pytest.fixture(scope="session")
def open_door(doors: tuple[Door, Door]) -> Door:
    """The service without keys."""
    return doors[1]
