"""One writer at a time on a machine: a lock on the tables' folder. The kernel frees it when its holder ends.

Of another machine that writes to the same object store it does not know: whoever commits second is refused there."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("features")


@contextmanager
def one_writer(data: Path, what: str) -> Iterator[None]:
    """Wait until no other process of this machine writes to the tables under `data`, saying which one it is."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / ".writer").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            logger.warning("%s waits: %s is writing to %s", what, file.read() or "another process", data)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"`{what}` (process {os.getpid()})")
        file.flush()
        yield
