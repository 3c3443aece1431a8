"""Write the file of API keys so that a crash, a full disk or a second writer loses nothing."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One at a time: of two that each add a line to what they have read, one line would be lost. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@contextmanager
def kept_in(file: Path, key: str) -> Iterator[None]:
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
