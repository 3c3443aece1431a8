"""The seam: the project that this process works for, and the modules that it brings.

A project is a folder whose `pyproject.toml` has `[tool.fti]`. It is the one that FTI_PROJECT names, else the nearest at
or above the working folder. A part is imported when a pipeline asks for it, under the one name that it has everywhere,
and from nowhere but the project's own folder. Nothing else in `fti` imports a project's module.
"""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from fti.errors import Refusal

VARIABLE = "FTI_PROJECT"
SETTINGS = "pyproject.toml"


class NoProject(Refusal):
    """There is no project, or a module that is imported as one of its parts is another's."""


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
    def model_name(self) -> str:
        """The registered model that is trained and served."""
        return str(self.settings["model_name"])

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
        if name not in sys.modules and str(self.root) not in sys.path:
            sys.path.insert(0, str(self.root))
        part = importlib.import_module(name)
        found = Path(part.__file__ or "").resolve()
        if not found.is_relative_to(self.root):
            raise NoProject(
                f"`{name}` is {found}, not the one of the project in {self.root}. One process works for one project: "
                f"take the other off PYTHONPATH, or let {VARIABLE} name its folder."
            )
        return part


_CURRENT: list[Project] = []  # none until it is asked for, and then one


def use(root: Path) -> None:
    """Work for the project in `root`, wherever this process was started. Raises NoProject when another was named."""
    named = os.environ.get(VARIABLE)
    if named and Path(named).resolve() != root:
        raise NoProject(f"{VARIABLE} is {named}, and this is a module of the project in {root}. Unset it.")
    _CURRENT[:] = [Project(root)]


def project() -> Project:
    """The project of this process. Raises NoProject."""
    if not _CURRENT:
        _CURRENT.append(_found())
    return _CURRENT[0]


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
    settings: dict[str, Any] | None = written.get("tool", {}).get("fti")
    return settings
