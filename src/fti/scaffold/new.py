"""Make a project: an empty folder becomes a problem's files, and what every project needs to run and test them.

fti new ../my-problem --from footfall --name my-problem
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from fti.errors import Refusal
from fti.scaffold.files import ONCE, Subject, common_files, own_files, write
from fti.scaffold.library import NAME as LIBRARY
from fti.scaffold.library import WHEELS, library
from fti.scaffold.origins import BLANK, origin
from fti.scaffold.record import RECORD, Record, digest, text_of

# It becomes a package's, a registered model's and a Feast project's.
NAME = re.compile(r"[a-z](?:[a-z0-9_-]{0,48}[a-z0-9])?")


class NotMade(Refusal):
    """The project could not be made."""


@dataclass(frozen=True)
class Made:
    """A project that was made: where, under which name, and how many of its files the problem brought."""

    folder: Path
    name: str
    own_files: int


def new(folder: Path, begin_with: str = BLANK, name: str | None = None, fti: str | None = None) -> Made:
    """Make a project of the problem `begin_with` in a folder that is empty or not there yet.

    `name` is the project's and its model's, by default made of the folder's. `fti` is where the project takes the
    library from: a wheel, a checkout or a URL; by default where this one came from. All files are there in the end, or
    none. Raises a Refusal.
    """
    problem = origin(begin_with)
    subject = Subject(_name(folder, name), problem.description, problem)
    taken = library(fti, folder)
    common = common_files(subject, taken)
    own = {path: text for path, text in own_files(subject).items() if path not in common}
    digests = {path: digest(text) for path, text in sorted(common.items()) if path not in ONCE}
    record = Record(
        taken.version, taken.requirement, taken.source, begin_with, subject.name, subject.description, digests
    )
    files: dict[str, str | bytes] = {**common, **own, RECORD: text_of(record)}
    try:
        _require_empty(folder)
        if taken.wheel:
            files[f"{WHEELS}/{taken.wheel.name}"] = taken.wheel.read_bytes()
        _write_all(folder, files)
    except OSError as error:
        raise NotMade(
            f"{folder} cannot be made: {error.filename or folder}: {error.strerror}. Nothing is left of it; name "
            "another folder."
        ) from error
    return Made(folder, subject.name, len(own))


def _name(folder: Path, name: str | None) -> str:
    chosen = name if name is not None else re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    if not NAME.fullmatch(chosen) or chosen == LIBRARY:
        hint = "" if name is not None else " It is made of the folder's: give another with --name."
        raise NotMade(
            f"{chosen!r} cannot be a project's name: a small letter, then up to 49 small letters, digits, - and _, of "
            f"which the last is a letter or digit; and not {LIBRARY}.{hint}"
        )
    return chosen


def _require_empty(folder: Path) -> None:
    if folder.is_symlink() or folder.exists():
        if not folder.is_dir():
            raise NotMade(f"{folder} exists and is no folder. Name a folder that does not exist.")
        if any(folder.iterdir()):
            raise NotMade(f"{folder} exists and is not empty. Name a folder that does not exist.")


def _write_all(folder: Path, files: dict[str, str | bytes]) -> None:
    """Write the files; when one cannot be, take away all that was made."""
    missing = [parent for parent in (folder, *folder.resolve().parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            write(folder, path, text)
    except BaseException:
        for made in [missing[-1]] if missing else list(folder.iterdir()):  # it was empty
            if made.is_dir():
                shutil.rmtree(made, ignore_errors=True)
            else:
                made.unlink(missing_ok=True)
        raise
