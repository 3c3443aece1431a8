"""Whether the files of other tools say what `[tool.fti]` says: a project in, a line for each that does not, out.

fti check
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fti.errors import Refusal, few
from fti.project import SETTINGS, Project

FEATURE_STORES = ("feature_repo/feature_store.yaml", "feature_repo/production/feature_store.yaml")
SERVICES_LINE = re.compile(r"^FEATURE_SERVICES\s*[:?]?=(.*)$", re.MULTILINE)


class SettingsUnreadable(Refusal):
    """A file of another tool cannot be read."""


def disagreements(current: Project) -> list[str]:
    """Return a line for each place that says something else: what it says, what it must say. Raises PartWrong."""
    return [
        *_feature_stores(current), *_training(current), *_makefile(current), *_packages(current), *_bento(current),
    ]  # fmt: skip


def _feature_stores(current: Project) -> Iterator[str]:
    for name in FEATURE_STORES:
        yield from _differs(current.root / name, "project", current.name, "name")


def _training(current: Project) -> Iterator[str]:
    training = current.root / "training"
    yield from _differs(training / "MLproject", "name", current.model_name, "model_name")
    yield from _differs(training / "config.yaml", "model_name", current.model_name, "model_name")
    service = _yaml(training / "config.yaml").get("feature_service")
    if service is not None and service not in current.feature_services:
        yield (
            f"{training / 'config.yaml'} says feature_service: {service}, which feature_services in [tool.fti] of "
            f"{SETTINGS} does not list: {few(current.feature_services)}. Change one of them."
        )


def _makefile(current: Project) -> Iterator[str]:
    file = current.root / "Makefile"
    found = SERVICES_LINE.search(file.read_text()) if file.is_file() else None
    if found and found[1].split() != current.feature_services:
        yield _line(
            file, f"FEATURE_SERVICES := {found[1].strip()}", " ".join(current.feature_services), "feature_services"
        )


def _packages(current: Project) -> Iterator[str]:
    """What the source reads must be installed wherever the feature pipeline is."""
    written = _pyproject(current).get("project", {})
    extras = written.get("optional-dependencies", {}).values()
    installed = [*written.get("dependencies", []), *(package for extra in extras for package in extra)]
    for package in current.data_packages:
        if _packed(package) not in map(_packed, installed):
            yield (
                f"{current.root / SETTINGS} lists {package!r} in data_packages of [tool.fti], but neither among its "
                "dependencies nor in an extra, so that no environment has it. Add it there: `make lock`."
            )


def _bento(current: Project) -> Iterator[str]:
    """What a Bento is made of is there, and tells it which project it is."""
    included = _pyproject(current).get("tool", {}).get("bentoml", {}).get("build", {}).get("include", [])
    for wanted in (SETTINGS, FEATURE_STORES[0], "serving/service.py") if included else ():
        if wanted not in included:
            yield f"{current.root / SETTINGS} does not list {wanted} in include of [tool.bentoml.build]: add it."
    for name in included:
        if "*" not in name and not (current.root / name).is_file():
            yield (
                f"{current.root / SETTINGS} lists {name} in include of [tool.bentoml.build], and there is no such "
                "file. Take it out."
            )


def _differs(file: Path, key: str, wanted: str, setting: str) -> Iterator[str]:
    """A file that is there, and says something else under a key."""
    written = _yaml(file)
    if key in written and written[key] != wanted:
        yield _line(file, f"{key}: {written[key]}", wanted, setting)


def _line(file: Path, written: str, wanted: str, setting: str) -> str:
    return f"{file} says {written}, and {setting} in [tool.fti] of {SETTINGS} is {wanted}. Make them the same."


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    if not file.is_file():
        return {}
    try:
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsUnreadable(f"{file} is no YAML: {' '.join(str(error).split())}.") from error
    return written if isinstance(written, dict) else {}


def _pyproject(current: Project) -> dict[str, Any]:
    return tomllib.loads((current.root / SETTINGS).read_text(encoding="utf-8"))


def _packed(requirement: str) -> str:
    """A requirement without spaces and case, and with hyphens: as it is compared."""
    return re.sub(r"[-_.]+(?=[a-z])", "-", "".join(requirement.split()).lower())
