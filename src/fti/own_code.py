"""Import a part of a project from its own folder: code of another project that is on the path is never run."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from fti.errors import Refusal, one_line
from fti.parts import PARTS, PartWrong

VARIABLE = "FTI_PROJECT"  # names the folder of the project


class NoProject(Refusal):
    """There is no project, or a module that is imported as one of its parts is another's."""


def load(root: Path, name: str) -> ModuleType:
    """Import the part of this name of the project in `root`, and check what it holds. Raises PartWrong, NoProject."""
    part, file = PARTS[name], _file(root, name)
    if file is None:
        raise PartWrong(f"{root.joinpath(*name.split('.')).with_suffix('.py')} is missing. {part.must_hold()}")
    try:
        module = load_module(root, name)
    except Refusal:
        raise
    except Exception as error:
        raise PartWrong(f"{file} cannot be imported: {_reason(root, error)}. {part.must_hold()}") from error
    part.check(file, module)
    return module


def load_module(root: Path, name: str) -> ModuleType:
    """Import any module of the project in `root`. Raises NoProject, and whatever the module raises."""
    if name not in sys.modules and str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if _file(root, name) is not None:
        _import_package(root, name.partition(".")[0])
    module = importlib.import_module(name)
    _require_own(root, name, Path(module.__file__ or "").resolve())
    return module


def _file(root: Path, name: str) -> Path | None:
    path = root.joinpath(*name.split("."))
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


def _import_package(root: Path, name: str) -> None:
    """Import a package from `root` alone, also where it has no __init__.py and another's of that name has one."""
    if name in sys.modules:
        for place in sys.modules[name].__path__:
            _require_own(root, name, Path(place).resolve())
        return
    spec = importlib.machinery.PathFinder.find_spec(name, [str(root)])
    assert spec is not None  # a file of it is there
    package = importlib.util.module_from_spec(spec)
    package.__path__ = [str(root / name)]
    sys.modules[name] = package
    try:
        if spec.loader is not None:  # without __init__.py there is nothing to run
            spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[name]
        raise


def _require_own(root: Path, name: str, place: Path) -> None:
    if not place.is_relative_to(root):
        raise NoProject(
            f"`{name}` is {place}, not the one of the project in {root}. One process works for one project: take the "
            f"other off PYTHONPATH, or let {VARIABLE} name its folder."
        )


def _reason(root: Path, error: Exception) -> str:
    """What an import raised, and in which line of the project's own files."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(root)]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {one_line(error).rstrip('.')}{where}"
