"""Which project a process works for, and where its parts are imported from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOOK = "from fti.project import project; print(project().root, project().model_name)"


def made(root: Path, settings: str = '[tool.fti]\nmodel_name = "made-up"\n') -> Path:
    """A project whose source says where it lies."""
    (root / "feature_repo").mkdir(parents=True)
    (root / "pyproject.toml").write_text(settings)
    (root / "feature_repo" / "source.py").write_text("HERE = __file__\n")
    return root


def python(code: str, where: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("FTI_PROJECT", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=where, env=environment | variables, capture_output=True, text=True
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_it_is_the_nearest_at_or_above_the_working_folder(tmp_path):
    """A project inside another one is itself; a pyproject.toml of something else is passed by."""
    outer = made(tmp_path / "outer")
    inner = made(outer / "examples" / "inner", '[tool.fti]\nmodel_name = "inner"\n')
    other = outer / "docs"
    other.mkdir()
    (other / "pyproject.toml").write_text("[tool.ruff]\n")
    assert said(python(LOOK, outer)) == f"{outer} made-up"
    assert said(python(LOOK, other)) == f"{outer} made-up"
    assert said(python(LOOK, inner / "feature_repo")) == f"{inner} inner"


def test_a_variable_names_it_from_anywhere(tmp_path):
    """FTI_PROJECT is stronger than the working folder."""
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    assert said(python(LOOK, one, FTI_PROJECT=str(other))) == f"{other} made-up"


def test_its_parts_come_from_its_folder(tmp_path):
    """Under one name, whatever the working folder is."""
    root = made(tmp_path / "with space, ümlaut and %")
    code = "from fti.project import project; print(project().source.HERE)"
    assert said(python(code, tmp_path, FTI_PROJECT=str(root))) == str(root / "feature_repo" / "source.py")


def test_a_part_of_another_project_is_refused(tmp_path):
    """As when PYTHONPATH has one project and the working folder is another's."""
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    code = f"import sys; sys.path.insert(0, {str(other)!r}); import feature_repo.source; {LOOK}; project().source"
    assert "One process works for one project" in refused(python(code, one))


@pytest.mark.parametrize(
    ("settings", "variables", "message"),
    [
        ("[tool.ruff]\n", {}, "No project at or above"),
        ("[tool.fti\n", {}, "is no TOML"),
        ("[tool.ruff]\n", {"FTI_PROJECT": "."}, "so it is no project"),
    ],
)
def test_where_there_is_none_that_is_said(tmp_path, settings, variables, message):
    """In the last line: which folder was looked at, and what to do."""
    assert message in refused(python(LOOK, made(tmp_path / "none", settings), **variables))


def test_a_module_that_says_which_project_it_is_of_decides(tmp_path):
    """A Bento's service, wherever it is started; with another project in FTI_PROJECT it is refused."""
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    code = f"from pathlib import Path; from fti.project import use; use(Path({str(one)!r})); {LOOK}"
    assert said(python(code, other)) == f"{one} made-up"
    assert "Unset it" in refused(python(code, other, FTI_PROJECT=str(other)))


def test_the_seam_imports_nothing_heavy(tmp_path):
    """Finding a project costs no pipeline's library."""
    heavy = "{'feast', 'ibis', 'great_expectations', 'duckdb', 'mlflow', 'pandas', 'sklearn'}"
    assert said(python(f"import sys; {LOOK}; print({heavy} & set(sys.modules))", made(tmp_path / "one"))).endswith(
        "set()"
    )
