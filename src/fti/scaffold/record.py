"""What the scaffold wrote into a project, by digest and version of the library: an upgrade changes nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fti.errors import Refusal

RECORD = ".fti-scaffold.json"
FORMAT = 1


class RecordInvalid(Refusal):
    """The folder has no record of a scaffold, or one that cannot be used."""


@dataclass(frozen=True)
class Record:
    """What the scaffold wrote last.

    `fti` is its version; `requirement` and `source` are the texts that say where the library is, in the lock and in
    pyproject.toml; `origin`, `name` and `description` are those that the files were filled in with: an upgrade renames
    nothing. `files` has a digest a path.
    """

    fti: str
    requirement: str
    source: str
    origin: str
    name: str
    description: str
    files: dict[str, str]
    format: int = FORMAT


def digest(text: str | bytes) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def text_of(record: Record) -> str:
    """Return the text of a record."""
    return json.dumps(asdict(record), indent=2) + "\n"


def read_record(folder: Path) -> Record:
    """Return the record of the project in a folder. Raises RecordInvalid."""
    file = folder / RECORD
    if not file.is_file():
        raise RecordInvalid(
            f"{folder} has no {RECORD}, so it was not made by `fti new`. Go to such a project's folder."
        )
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        if written["format"] > FORMAT:
            raise RecordInvalid(
                f"{file} has format {written['format']}, and this fti reads up to {FORMAT}: fti {written['fti']} or "
                "newer wrote it. Install that version."
            )
        return Record(**written)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordInvalid(
            f"{file} is not a record of `fti new` ({type(error).__name__}: {error}). Restore it: git checkout {RECORD}."
        ) from error
