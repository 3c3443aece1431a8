"""Where a project takes `fti` from: a wheel, a checkout, an address or the package index, as its files say it.

What nobody names is taken from where this `fti` was installed from, as its installer recorded it (PEP 610).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fti.errors import Refusal

NAME = "fti"
WHEELS = "wheels"  # the folder of a project for wheels that no index has
WHEEL = re.compile(r"fti-(?P<version>[^-]+)-py3-none-any\.whl")


class LibraryUnknown(Refusal):
    """The place to take `fti` from is not there, or has another version."""


@dataclass(frozen=True)
class Library:
    """Which `fti` a project takes, and from where; `wheel` is a file to copy into the project."""

    version: str
    requirement: str  # a line of requirements.lock
    source: str  # of [tool.uv.sources] in pyproject.toml; empty: the package index
    wheel: Path | None = None

    @property
    def editable(self) -> bool:
        """Return whether it is a checkout, which no Bento can install."""
        return self.requirement.startswith("-e ")

    @property
    def uv(self) -> str:
        """Return the lines of pyproject.toml that say where `fti` is."""
        return f"\n[tool.uv.sources]\nfti = {self.source}\n" if self.source else ""


def version() -> str:
    """Return the version of this library."""
    return importlib.metadata.version(NAME)


def library(given: str | None, project: Path) -> Library:
    """Return where the project in a folder takes `fti` from: a path, a URL, or where this one came from.

    Raises LibraryUnknown.
    """
    given = given or _installed_from()
    if given is None:
        return Library(version(), f"{NAME}=={version()}", "")
    if given.startswith("git+"):
        return _from_git(given)
    if given.startswith(("https://", "http://")):
        _same_version(given.rpartition("/")[2].partition("#")[0])
        return Library(version(), f"{NAME} @ {given}", f'{{ url = "{given}" }}')
    return _from_path(Path(given).expanduser(), project)


def _from_path(path: Path, project: Path) -> Library:
    path = path.resolve()
    if path.is_dir() and (path / "pyproject.toml").is_file():
        inside = project.resolve().is_relative_to(path)
        place = os.path.relpath(path, project.resolve()) if inside else str(path)
        # pip takes a path from where `make` runs it, the project's folder.
        return Library(version(), f"-e {_quoted(place)}", f"{{ path = {json.dumps(place)}, editable = true }}")
    if not path.is_file():
        raise LibraryUnknown(
            f"There is no fti at {path}. Name a wheel, such as dist/fti-{version()}-py3-none-any.whl, a checkout, or a "
            f"URL, such as git+https://HOST/REPOSITORY@v{version()}."
        )
    _same_version(path.name)
    return in_wheels(path)


def in_wheels(wheel: Path) -> Library:
    """Return the library that a wheel in the project's own folder is."""
    place = f"{WHEELS}/{wheel.name}"
    return Library(version(), f"./{place}", f'{{ path = "{place}" }}', wheel)


def _from_git(given: str) -> Library:
    url, _, revision = given.removeprefix("git+").rpartition("@")
    if not url or not revision or "/" in revision:  # the @ of a user, as in ssh://git@HOST, is before a slash
        raise LibraryUnknown(
            f"{given} names no tag: a project takes one version. Give git+https://HOST/REPOSITORY@v{version()}."
        )
    kind = "rev" if re.fullmatch(r"[0-9a-f]{40}", revision) else "tag"
    source = f'{{ git = "{url}", {kind} = "{revision}" }}'
    return Library(version(), f"{NAME} @ {given}", source)


def _same_version(file: str) -> None:
    """Refuse a wheel of another version: its scaffold is another, too."""
    found = WHEEL.fullmatch(file)
    if not found:
        raise LibraryUnknown(f"{file} is no wheel of fti, such as fti-{version()}-py3-none-any.whl.")
    if found["version"] != version():
        raise LibraryUnknown(
            f"{file} is fti {found['version']}, and this is fti {version()}, whose files do not fit it. "
            f"Install {file}, and run the command again with it."
        )


def _installed_from() -> str | None:
    """Return where this `fti` was installed from, as a path or URL; None when it was an index.

    Raises LibraryUnknown when that is gone: an index may have another package of this name.
    """
    try:
        recorded = importlib.metadata.distribution(NAME).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    if not recorded:
        return None
    origin = json.loads(recorded)
    if "vcs_info" in origin:
        info = origin["vcs_info"]
        return f"{info['vcs']}+{origin['url']}@{info.get('requested_revision') or info['commit_id']}"
    parts = urlsplit(origin["url"])
    if parts.scheme != "file":
        return str(origin["url"])
    path = Path(unquote(parts.path))
    if not path.exists():
        raise LibraryUnknown(
            f"This fti was installed from {path}, which is gone. Say where the project is to take it from: --fti WHEEL."
        )
    return str(path)


def _quoted(path: str) -> str:
    """Return a path as a line of a requirements file takes it."""
    return f'"{path}"' if re.search(r"\s", path) else path
