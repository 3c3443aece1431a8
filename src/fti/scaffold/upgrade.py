"""Upgrade a project to this version of the library: rewrite what the scaffold wrote and nobody changed since.

    fti upgrade

A file that was changed stays as it is, and how it differs from the new one is printed. The lines that say which `fti`
the project takes are changed last. It may be run again.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.version import Version

from fti.errors import Refusal
from fti.scaffold.files import LOCK, SETTINGS, Subject, owned_by_scaffold, write
from fti.scaffold.library import NAME, WHEELS, Library, in_wheels, library
from fti.scaffold.origins import origin
from fti.scaffold.record import RECORD, Record, digest, read_record, text_of


class NotUpgraded(Refusal):
    """The project could not be upgraded."""


@dataclass
class Upgrade:
    """What an upgrade did: paths by what became of them, and a unified diff for each that was edited."""

    before: str
    after: str
    rewritten: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    diffs: dict[str, str] = field(default_factory=dict)
    by_hand: list[str] = field(default_factory=list)  # what it could not find, in words

    def __str__(self) -> str:
        lines = [f"From fti {self.before} to {self.after}."]
        for title, paths in (("Rewritten", self.rewritten), ("New", self.added), ("Removed", self.removed)):
            lines += [f"{title}: {', '.join(paths)}."] if paths else []
        for path, diff in self.diffs.items():
            lines += [f"\n{path} was edited and is as it was. What the new version would change:\n{diff}"]
        return "\n".join([*lines, *self.by_hand])


def upgrade(folder: Path, fti: str | None = None) -> Upgrade:
    """Bring a project's files up to this version; return what was done.

    `fti` is as in `new`. Raises a Refusal; what was written before it stays, and the same command goes on.
    """
    record = read_record(folder)
    taken = library(fti, folder)
    if Version(record.fti) > Version(taken.version):
        raise NotUpgraded(
            f"fti {record.fti} wrote the files of {folder}, and this is {taken.version}, which is older. "
            f"Install fti {record.fti} or newer."
        )
    subject = Subject(record.name, record.description, origin(record.origin))
    done = Upgrade(record.fti, taken.version)
    try:
        taken = _wheel_in(folder, taken)
        files = owned_by_scaffold(subject, taken)
        lock = files.pop(LOCK)
        for path in sorted(files.keys() | record.files.keys() - {LOCK}):
            _bring_up(folder, path, files.get(path), record.files.get(path), done)
        digests = {path: digest(text) for path, text in files.items()}
        if (folder / LOCK).is_file():
            _relock(folder, lock, record, taken, done)
            digests[LOCK] = digest(lock)
        _repoint(folder, record, taken, done)
        new = replace(
            record, fti=taken.version, requirement=taken.requirement, source=taken.source,
            files=dict(sorted(digests.items())),
        )  # fmt: skip
        _replace(folder, RECORD, text_of(new))
    except OSError as error:
        raise NotUpgraded(
            f"{error.filename or folder} cannot be written: {error.strerror}. Fix that, and run the same command again."
        ) from error
    return done


def _bring_up(folder: Path, path: str, new: str | None, recorded: str | None, done: Upgrade) -> None:
    """Write, add or remove one file, unless it was edited. `new` is its text in this version; None: it has none."""
    file = folder / path
    current = file.read_text(encoding="utf-8") if file.is_file() else None
    untouched = current is not None and digest(current) == recorded
    if new is None:
        if untouched:
            file.unlink()
            done.removed.append(path)
    elif current is None:
        if recorded is None:  # what a project's people deleted stays deleted
            _replace(folder, path, new)
            done.added.append(path)
    elif current != new and untouched:
        _replace(folder, path, new)
        done.rewritten.append(path)
    elif current != new and digest(new) != recorded:
        done.diffs[path] = "".join(
            difflib.unified_diff(current.splitlines(True), new.splitlines(True), path, f"{path} of fti {done.after}")
        )


def _wheel_in(folder: Path, taken: Library) -> Library:
    """Copy the wheel into the project's own folder, unless it lies there."""
    if taken.wheel is None:
        return taken
    place = folder / WHEELS / taken.wheel.name
    if taken.wheel != place.resolve():
        place.parent.mkdir(exist_ok=True)
        write(folder, f"{WHEELS}/{taken.wheel.name}", taken.wheel.read_bytes())
    return in_wheels(place.resolve())


def _relock(folder: Path, lock: str, record: Record, taken: Library, done: Upgrade) -> None:
    """Write the versions that this one is tested with; into a lock that was made anew, only where `fti` is."""
    current = (folder / LOCK).read_text(encoding="utf-8")
    if current == lock:
        return
    if digest(current) == record.files.get(LOCK):
        _replace(folder, LOCK, lock)
        done.rewritten.append(LOCK)
    else:
        _change(folder, LOCK, record.requirement + "\n", taken.requirement + "\n", done)
        done.by_hand.append("The lock is your own: run `make lock`, for packages that this version needs newer.")


def _repoint(folder: Path, record: Record, taken: Library, done: Upgrade) -> None:
    """Let pyproject.toml name this version, and where it is."""
    _change(folder, SETTINGS, f"{NAME}[loop]=={record.fti}", f"{NAME}[loop]=={taken.version}", done)
    if record.source and taken.source:
        _change(folder, SETTINGS, f"{NAME} = {record.source}", f"{NAME} = {taken.source}", done)
    before = record.requirement.removeprefix("./")
    if before.startswith(f"{WHEELS}/") and taken.wheel:  # a Bento installs it, too
        _change(folder, SETTINGS, f'    "{before}",\n', f'    "{WHEELS}/{taken.wheel.name}",\n', done)


def _change(folder: Path, path: str, old: str, new: str, done: Upgrade) -> None:
    text = (folder / path).read_text(encoding="utf-8")
    if old in text and old != new:
        _replace(folder, path, text.replace(old, new))
    elif new not in text:
        done.by_hand.append(f"{path} does not say {old.strip()!r} any more: let it say {new.strip()!r}.")


def _replace(folder: Path, path: str, text: str) -> None:
    """Write a file in one move: a full disk leaves the old one."""
    part = f"{path}.part"
    try:
        write(folder, part, text)
        os.replace(folder / part, folder / path)
    except OSError:
        (folder / part).unlink(missing_ok=True)
        raise
