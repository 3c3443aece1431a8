"""The seam: the project that this process works for, and the modules that it brings.

A project is a folder whose `pyproject.toml` has `[tool.fti]`. It is the one that FTI_PROJECT names, else the nearest at
or above the working folder. A part is imported when a pipeline asks for it, under the one name that it has everywhere,
and from nowhere but the project's own folder. Nothing else in `fti` imports a project's module.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from fti import parts
from fti.errors import Refusal
from fti.own_code import VARIABLE, NoProject, load
from fti.parts import PartWrong

SETTINGS = "pyproject.toml"


class LibraryTooOld(Refusal):
    """The project asks for a newer `fti` than this one."""


@dataclass(frozen=True)
class Project:
    """A problem's own files, under `root`."""

    root: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What `[tool.fti]` says."""
        settings: dict[str, Any] = _settings(self.root / SETTINGS) or {}
        return settings

    @property
    def name(self) -> str:
        """The project's name in Feast's registry."""
        return str(self.setting("name"))

    @property
    def model_name(self) -> str:
        """The registered model that is trained and served."""
        return str(self.setting("model_name"))

    @property
    def feature_services(self) -> list[str]:
        """The feature services that models are trained on, in their order."""
        return list(self.setting("feature_services"))

    @property
    def data_packages(self) -> list[str]:
        """The packages that the source reads, as pip takes them."""
        return list(self.setting("data_packages"))

    def setting(self, key: str) -> Any:
        """Return what `[tool.fti]` says under a key. Raises PartWrong."""
        value, where = parts.SETTINGS[key], f"[tool.fti] of {self.root / SETTINGS}"
        if key not in self.settings:
            raise PartWrong(f"{where} has no {key}. It must be {value.holds}; for example: {value.example}")
        parts.require(f"{key} in {where}", self.settings[key], value)
        return self.settings[key]

    def require_library(self) -> None:
        """Check that this `fti` is as new as the project asks for. Raises LibraryTooOld, PartWrong."""
        if "requires" not in self.settings:
            return
        asked = str(self.setting("requires"))
        try:
            version = importlib.metadata.version("fti")
        except importlib.metadata.PackageNotFoundError:  # in a Bento, which holds the code that it was built with
            return
        if _numbers(version) < _numbers(asked):
            raise LibraryTooOld(
                f"The project in {self.root} asks for fti{asked}, and this is fti {version}. Install that version "
                f"(`make setup`), or change `requires` in [tool.fti] of {self.root / SETTINGS}. Nothing was done."
            )

    @property
    def repo(self) -> Path:
        """The Feast repository."""
        return self.root / "feature_repo"

    @property
    def source(self) -> ModuleType:
        """Raw tables: START, END, TODAY, RAW_KEYS, RAW_SCHEMAS, KEY_MOMENTS, COMPLETE_UNTIL, RawFiles, RawEvents."""
        return self._part("feature_repo.source")

    @property
    def transforms(self) -> ModuleType:
        """FEATURE_TABLES: how each stored feature is computed."""
        return self._part("feature_repo.transforms")

    @property
    def faults(self) -> ModuleType:
        """FAULTS: what can go wrong in a replay, on purpose."""
        return self._part("feature_repo.faults")

    @property
    def raw(self) -> ModuleType:
        """RAW_SUITES: a suite a raw table."""
        return self._part("validation.raw")

    @property
    def profiles(self) -> ModuleType:
        """PROFILES: what is typical of each feed."""
        return self._part("validation.profiles")

    @property
    def features(self) -> ModuleType:
        """BOUNDS: of which values a feature may be."""
        return self._part("validation.features")

    @property
    def training_set(self) -> ModuleType:
        """LIMITS: what a training set may look like."""
        return self._part("validation.training_set")

    @property
    def model(self) -> ModuleType:
        """build_model, search_space, TRUSTED_TYPES: the unfitted estimator."""
        return self._part("training.model")

    @property
    def references(self) -> ModuleType:
        """references: what a model has to beat."""
        return self._part("training.references")

    def _part(self, name: str) -> ModuleType:
        """Import a part and check what it holds. Raises PartWrong, NoProject."""
        if name not in self._loaded:
            self._loaded[name] = load(self.root, name)
        return self._loaded[name]

    @cached_property
    def _loaded(self) -> dict[str, ModuleType]:
        return {}


_CURRENT: list[Project] = []  # none until it is asked for, and then one


def use(root: Path) -> None:
    """Work for the project in `root`, wherever this process was started. Raises NoProject when another was named."""
    named = os.environ.get(VARIABLE)
    if named and Path(named).resolve() != root:
        raise NoProject(f"{VARIABLE} is {named}, and this is a module of the project in {root}. Unset it.")
    _set(Project(root))


def project() -> Project:
    """The project of this process. Raises NoProject, LibraryTooOld."""
    if not _CURRENT:
        _set(_found())
    return _CURRENT[0]


def _set(current: Project) -> None:
    current.require_library()
    _CURRENT[:] = [current]


def _found() -> Project:
    named = os.environ.get(VARIABLE)
    if named:
        root = Path(named).resolve()
        if _settings(root / SETTINGS) is None:
            raise NoProject(f"{VARIABLE} is {named}, and {root / SETTINGS} has no [tool.fti], so it is no project.")
        return Project(root)
    here = Path.cwd().resolve()
    for root in (here, *here.parents):
        if _settings(root / SETTINGS) is not None:
            return Project(root)
    raise NoProject(
        f"No project at or above {here}: no pyproject.toml there has [tool.fti]. Go to a project's folder, or let "
        f"{VARIABLE} name it."
    )


def _settings(file: Path) -> dict[str, Any] | None:
    """What `[tool.fti]` of a pyproject.toml says, or None."""
    if not file.is_file():
        return None
    try:
        written = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise NoProject(f"{file} is no TOML: {error}.") from error
    tool = written.get("tool", {})
    settings = tool.get("fti") if isinstance(tool, dict) else None
    if settings is not None and not isinstance(settings, dict):
        raise NoProject(f"`fti` under [tool] of {file} is {settings!r}. It must be a table: [tool.fti].")
    return settings


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, without zeros at its end: 0.2 is as new as 0.2.0."""
    release = re.match(r"(?:>=)?(\d+(?:\.\d+)*)", version)
    numbers = [int(one) for one in release[1].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
