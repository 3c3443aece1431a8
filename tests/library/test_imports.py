"""Which package may import which: pyproject.toml's contracts, on the code as it is and on code that breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("feature_repo", "training", "serving", "validation")
OVER = ("fti.loop", "fti.deploy")
PIPELINES = ("fti.features", "fti.training", "fti.serving", "fti.monitoring")
SCORING = "fti.scoring"
SHARED = ("fti.contract", "fti.validation", "fti.stores")
# What each must not import. What two of them import, a chain through both, is told of the first alone.
FORBIDDEN = (
    {one: [*PROJECT, *(other for other in OVER if other != one)] for one in OVER}
    | {one: [*PROJECT, *OVER, *(other for other in PIPELINES if other != one)] for one in PIPELINES}
    | {SCORING: [*PROJECT, *OVER, *PIPELINES]}
    | {one: [*PROJECT, *OVER, *PIPELINES, SCORING] for one in SHARED}
    | {one: [other for other in PROJECT[:3] if other != one] for one in PROJECT}
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packages and their contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("src", *PROJECT):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def lint(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": f"{checkout / 'src'}:{checkout}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)


def add(checkout: Path, package: str, imported: list[str]) -> None:
    """A module of the package that imports these, inside a function, where imports hide."""
    folder = checkout / ("src" if package.startswith("fti") else ".") / package.replace(".", "/")
    lines = [f"    import {one}\n" for one in imported]
    (folder / "made_up.py").write_text("".join(["def hidden():\n", *lines]))


def test_every_package_imports_only_what_it_may(checkout):
    """The pipelines meet at feature store and model registry, what runs them all is needed by none, no import goes
    round, and the library names no project's module."""
    result = lint(checkout)
    assert result.returncode == 0, result.stdout
    assert "5 kept, 0 broken" in result.stdout


@pytest.mark.parametrize("importer", FORBIDDEN)
def test_a_forbidden_import_is_caught(checkout, importer):
    """Each by itself, in any module of the package."""
    add(checkout, importer, FORBIDDEN[importer])
    result = lint(checkout)
    assert result.returncode == 1
    for imported in FORBIDDEN[importer]:
        assert f"{importer}.made_up -> {imported}" in result.stdout


def test_a_circle_is_caught(checkout):
    """Between packages of one layer, which may import one another."""
    add(checkout, "fti.stores", ["fti.contract.task"])
    add(checkout, "fti.contract", ["fti.stores.made_up"])
    result = lint(checkout)
    assert result.returncode == 1
    assert "No circles BROKEN" in result.stdout


def test_a_new_package_has_to_say_its_layer(checkout):
    """Nothing is added to the library without a place in its order."""
    (checkout / "src/fti/common").mkdir()
    (checkout / "src/fti/common/__init__.py").touch()
    result = lint(checkout)
    assert result.returncode == 1
    assert "common" in result.stdout


def test_every_package_may_import_what_is_below(checkout):
    """Pipelines what they share, scoring the stores, the loop all of them, a project's modules the library."""
    for package in PIPELINES:
        add(checkout, package, ["fti.contract.task", "fti.stores.delta", "fti.validation.gate", "fti.scoring.loading"])
    add(checkout, SCORING, ["fti.contract.task", "fti.stores.delta"])
    add(checkout, "fti.loop", [*PIPELINES])
    for package in PROJECT:
        add(checkout, package, ["fti.features.windows"])
    assert lint(checkout).returncode == 0
