"""The files of a project as the scaffold writes them: templates of the package, filled in for one problem and name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fti.scaffold.library import Library
from fti.scaffold.origins import PACKAGE, Origin, serving_pins, variables

COMMON, SUFFIX = PACKAGE / "common", ".jinja"
SETTINGS, LOCK, SERVING_LOCK = "pyproject.toml", "requirements.lock", "serving/requirements.txt"
# Written once, and the project's from then on; what else the templates give, an upgrade may write anew.
ONCE = frozenset({"README.md", SETTINGS, "tests/interval.py"})


@dataclass(frozen=True)
class Subject:
    """What a project is about: its name, which is its model's too, in words, and the problem that it began with."""

    name: str
    description: str
    origin: Origin

    @property
    def feast_project(self) -> str:
        """Return the name as Feast takes it: letters, digits and underscores."""
        return self.name.replace("-", "_")


def common_files(subject: Subject, library: Library) -> dict[str, str]:
    """Return the text of every file that each project has, by its path in the project."""
    environment = Environment(
        loader=FileSystemLoader(COMMON),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - these are no web pages
    )
    # A text in double quotes, as TOML and YAML read it like JSON: no name or description is taken for anything else.
    environment.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
    known = _known(subject, library)
    files = {
        name.removesuffix(SUFFIX): environment.get_template(name).render(known)
        for name in sorted(environment.list_templates())
        if name.endswith(SUFFIX)
    }
    if library.editable:
        del files[SERVING_LOCK]  # no Bento can install a checkout
    return files | {".env.example": variables()}


def owned_by_scaffold(subject: Subject, library: Library) -> dict[str, str]:
    """Return the files that an upgrade may write anew, by their path."""
    return {path: text for path, text in common_files(subject, library).items() if path not in ONCE}


def own_files(subject: Subject) -> dict[str, bytes]:
    """Return the files that the problem brings, by their path, with the project's name for the problem's."""
    origin = subject.origin
    files = {path.as_posix(): (origin.folder / path).read_bytes() for path in origin.own_files()}
    config = files["training/config.yaml"].decode()
    if subject.name != origin.name:
        config = config.replace(f"model_name: {origin.name}\n", f"model_name: {json.dumps(subject.name)}\n")
    return files | {"training/config.yaml": config.encode()}


def _known(subject: Subject, library: Library) -> dict[str, Any]:
    origin = subject.origin
    return {
        "name": subject.name,
        "feast_project": subject.feast_project,
        "origin": origin.origin,
        "description": subject.description,
        "feature_services": origin.feature_services,
        "packages": origin.packages,
        "start": origin.start,
        "end": origin.end,
        "as_of": origin.as_of,
        "fti": library,
        "pins": _pins(origin.origin),
        "serving_pins": serving_pins().rstrip(),
    }


def _pins(origin: str) -> str:
    """Return the versions that this library is tested with: of what every project needs, and of what a source reads."""
    files = [PACKAGE / "pins" / f"{name}.txt" for name in ("common", origin)]
    return "".join(file.read_text(encoding="utf-8") for file in files if file.is_file()).rstrip()


def write(folder: Path, path: str, text: str | bytes) -> None:
    """Write one file of a project, as UTF-8."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
