"""The number of the format in which `data/` is kept: older code refuses what newer code has written, in one line.

A folder without the number is of format 1, as are all from before there was one. Code that changes the format raises
FORMAT, reads every lower one too, and changes what it finds before it calls `note`.
"""

from __future__ import annotations

import os
from pathlib import Path

from fti.errors import Refusal, short

FORMAT = 1
NAME = "format"


class DataTooNew(Refusal):
    """The data folder is of a format that this code does not know."""


def require_readable(data: Path) -> None:
    """Check that this code knows the format of a data folder. Raises DataTooNew."""
    file = data / NAME
    written = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else "1"
    if not written.isdecimal() or not 1 <= int(written) <= FORMAT:
        raise DataTooNew(
            f"{data} is of format {short(written)}, as {file} says, and this fti knows formats up to {FORMAT}: a newer "
            "one has written it. Install the version that the data were written with, or a newer one. Nothing was read "
            "or written."
        )


def note(data: Path) -> None:
    """Write the number into a data folder that is written to, whole or not at all."""
    file = data / NAME
    if not file.is_file():
        data.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{NAME}.{os.getpid()}")
        new.write_text(f"{FORMAT}\n")
        new.replace(file)
