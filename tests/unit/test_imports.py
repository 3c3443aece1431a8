"""Which package may import which: pyproject.toml's contracts, on the code as it is and on code that breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("feature_repo", "training", "serving", "validation", "orchestration")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packages and their contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def lint(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)


def test_every_package_imports_only_what_it_may(checkout):
    """The pipelines meet at feature store and model registry, and share `validation`, which knows none of them; what
    runs them all is needed by none."""
    result = lint(checkout)
    assert result.returncode == 0, result.stdout
    assert "3 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [(one, other) for one in PACKAGES[:4] for other in PACKAGES if other not in (one, "validation")],
)
def test_a_forbidden_import_is_caught(checkout, importer, imported):
    """In any module of the package, and inside a function too, where imports hide."""
    (checkout / importer / "made_up.py").write_text(f"def hidden():\n    import {imported}\n")
    result = lint(checkout)
    assert result.returncode == 1
    assert f"{importer}.made_up -> {imported}" in result.stdout


def test_every_pipeline_may_import_what_they_share(checkout):
    """`validation` is there for all, and the loop sees all of them."""
    for package in PACKAGES[:3]:
        (checkout / package / "made_up.py").write_text("import validation.times\n")
    (checkout / "orchestration" / "made_up.py").write_text("import feature_repo\nimport serving\nimport training\n")
    assert lint(checkout).returncode == 0
