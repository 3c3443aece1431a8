"""The problems that a project can begin with: what names each, and where its own files lie.

`blank` lies in this package. The shipped problems lie beside it in a wheel, and in a checkout where they are worked on.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fti.errors import Refusal, few

PACKAGE = Path(__file__).resolve().parent
BLANK, FLIGHTS, FOOTFALL = "blank", "flights", "footfall"
# Where the files of a problem lie below a checkout; in a wheel, below problems/ of this package.
IN_CHECKOUT = {FLIGHTS: ".", FOOTFALL: "examples/footfall"}
# What a problem brings, by glob, because it may cut its suites and tests as it likes.
OWN_FILES = (
    "feature_repo/*.py",
    "feature_repo/datasheet.md",
    "validation/*.py",
    "training/*.py",
    "training/config.yaml",
    "training/card.md",
    "tests/*.py",
)


class OriginUnknown(Refusal):
    """There is no problem of this name to begin with, or its files are not there."""


@dataclass(frozen=True)
class Origin:
    """A problem to begin with. `start`, `end` and `as_of` are the days of its journey test, YYYY-MM-DD, UTC."""

    origin: str
    folder: Path
    name: str
    description: str
    feature_services: list[str]
    packages: list[str]
    start: str
    end: str
    as_of: str

    def own_files(self) -> list[Path]:
        """Return the files that the problem brings, relative to its folder, sorted."""
        # The tests beside flights in a checkout are of the whole repository, and no wheel has them.
        globs = [pattern for pattern in OWN_FILES if self.origin != FLIGHTS or not pattern.startswith("tests/")]
        files = {path for pattern in globs for path in self.folder.glob(pattern)}
        return sorted(path.relative_to(self.folder) for path in files)


def names() -> list[str]:
    """Return the problems that there are to begin with."""
    return list(_written())


def origin(name: str) -> Origin:
    """Return a problem to begin with. Raises OriginUnknown."""
    written = _written()
    if name not in written:
        raise OriginUnknown(f"There is no problem {name!r} to begin with; there are {few(written, ', ')}.")
    folder = _folder(name)
    if not (folder / "feature_repo").is_dir():
        raise OriginUnknown(f"{folder} has no feature_repo: this installation of fti is incomplete. Install it again.")
    return Origin(name, folder, **written[name])


def checkout() -> Path | None:
    """Return the checkout that this package is run from, or None when it is installed."""
    root = PACKAGE.parents[2]
    return root if (root / IN_CHECKOUT[FOOTFALL] / "feature_repo").is_dir() else None


def docs() -> Path:
    """Return the folder of the library's documentation."""
    return _shipped("docs", "docs")


def variables() -> str:
    """Return the text of .env.example: each environment variable, what it is for, and what holds without it."""
    return _shipped(".env.example", "env.example").read_text(encoding="utf-8")


def serving_pins() -> str:
    """Return the versions that the service is tested with, a line each."""
    return _shipped("serving/requirements.txt", "pins/serving.txt").read_text(encoding="utf-8")


def _shipped(in_checkout: str, in_package: str) -> Path:
    """A file or folder that lies in a checkout beside the package, and in a wheel in it."""
    root = checkout()
    return root / in_checkout if root else PACKAGE / in_package


def _folder(name: str) -> Path:
    if name == BLANK:
        return PACKAGE / BLANK
    root = checkout()
    return root / IN_CHECKOUT[name] if root else PACKAGE / "problems" / name


def _written() -> dict[str, dict[str, Any]]:
    """Return what origins.toml says, by problem."""
    return tomllib.loads((PACKAGE / "origins.toml").read_text(encoding="utf-8"))
