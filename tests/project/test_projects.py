"""Projects beside this one: footfall in its own folder, and new ones, each in processes of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fti.scaffold.new import new
from fti.scaffold.origins import OWN_FILES, origin

ROOT = Path(__file__).resolve().parents[2]
FOOTFALL = ROOT / "examples/footfall"
PAGES = [ROOT / "docs/how-to/another-problem.md", ROOT / "README.md"]


def run_in(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a module from a project's folder, which no variable names."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in ("FTI_PROJECT", "PYTHONPATH")},
        capture_output=True,
        text=True,
        timeout=1500,
    )


def test_footfall_goes_from_raw_counts_to_watched_predictions():
    """Gate and quarantine, publish, apply, materialize, `mlflow run`, promotion, HTTP, batch and monitors: its own
    tests do it all, and compare its features with pandas."""
    done = run_in(FOOTFALL, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"^8 passed", done.stdout, re.MULTILINE), done.stdout[-2000:]


@pytest.mark.parametrize("problem", ["footfall", "blank"])
def test_a_project_is_tidy_by_its_own_rules(tmp_path, problem):
    """Style, formatting and types, from its own folder: the shipped one in place, another as it is made."""
    folder = FOOTFALL if problem == "footfall" else new(tmp_path / "made", problem, "my-problem").folder
    caches = ["--cache-dir", str(tmp_path / "mypy")]
    if (ROOT / ".mypy_cache").is_dir():  # of what both import, which takes mypy longest
        shutil.copytree(ROOT / ".mypy_cache", tmp_path / "mypy")
    ruff = [("ruff", "check", "--no-cache", "."), ("ruff", "format", "--no-cache", "--check", ".")]
    for command in (*ruff, ("mypy", *caches)):
        done = run_in(folder, *command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_made_project_says_why_the_gate_refused_its_version(tmp_path):
    """Its journey test fails with the rule that was broken and the number observed, not with a missing alias."""
    folder = new(tmp_path / "made", "blank", "strict").folder
    config = folder / "training/config.yaml"
    config.write_text(config.read_text().replace("limit: 0.8}", "limit: 0.999}"))
    done = run_in(folder, "pytest", "-q", "-p", "no:cacheprovider", "-k", "gate")
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"The gate refused version 1: r2 is 0\.\d+, required at least 0\.999", done.stdout), done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_list_the_files_that_a_problem_brings(page):
    """Each row of the table is a file, or files, of both shipped problems and of the blank one; no other is missing."""
    rows = re.findall(r"^\| `((?:feature_repo|validation|training)/[^`]+)` \|", page.read_text(), re.MULTILINE)
    for problem in ("blank", "flights", "footfall"):
        begun = origin(problem)
        own = {path.as_posix() for path in begun.own_files() if path.parts[0] != "tests"}
        files = {row: [path.relative_to(begun.folder).as_posix() for path in begun.folder.glob(row)] for row in rows}
        assert all(files.values()), problem
        assert {path for path in own if not path.endswith("__init__.py")} <= set().union(*files.values()), problem


def test_code_that_a_problem_brings_says_so():
    """Each file of code or settings that an upgrade never touches has [yours] at its head, in every project."""
    for problem in ("blank", "flights", "footfall"):
        folder = origin(problem).folder
        for pattern in OWN_FILES:
            for path in folder.glob(pattern) if not pattern.startswith("tests") else ():
                if path.suffix in (".py", ".yaml") and path.parent.name != "tests" and path.name != "__init__.py":
                    assert "[yours]" in re.split(r"^(?:from|import) ", path.read_text(), flags=re.M)[0], path
