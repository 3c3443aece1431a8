"""Whether other tools' files say what `[tool.fti]` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fti.project import Project
from fti.settings_check import disagreements
from tests.library.cli.test_commands import fti

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "pyproject.toml": """
[project]
dependencies = ["fti[loop]"]
optional-dependencies.features = ["My_Data >= 1.2"]
[tool.fti]
name = "ports"
model_name = "lateness"
feature_services = ["late_v1", "late_v2"]
data_packages = ["my-data>=1.2"]
[tool.bentoml.build]
include = ["pyproject.toml", "serving/service.py", "feature_repo/feature_store.yaml", "serving/page/*"]
""",
    "feature_repo/feature_store.yaml": "project: ports\n",
    "feature_repo/production/feature_store.yaml": "project: ports\n",
    "training/MLproject": "name: lateness\n",
    "training/config.yaml": "model_name: lateness\nfeature_service: late_v2\n",
    "serving/service.py": "",
    "Makefile": "FEATURE_SERVICES := late_v1 late_v2\nrun: ;\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project in which all agree."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_flights_agrees():
    assert disagreements(Project(ROOT)) == []


def test_a_project_in_which_all_agree_has_nothing_to_say(root):
    """Also without the files that it need not have."""
    assert disagreements(Project(root)) == []
    for name in ("Makefile", "training/config.yaml", "feature_repo/production/feature_store.yaml"):
        (root / name).unlink()
    assert disagreements(Project(root)) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("feature_repo/feature_store.yaml", "ports", "harbours", "says project: harbours, and name in [tool.fti]"),
        ("feature_repo/production/feature_store.yaml", "ports", "7", "says project: 7, and name in [tool.fti]"),
        ("training/MLproject", "lateness", "late", "says name: late, and model_name in [tool.fti]"),
        ("training/config.yaml", "lateness", "late", "says model_name: late, and model_name in [tool.fti]"),
        ("training/config.yaml", "late_v2", "late_v3", "says feature_service: late_v3, which feature_services in"),
        ("Makefile", "late_v1 late_v2", "late_v1", "says FEATURE_SERVICES := late_v1, and feature_services in"),
        ("pyproject.toml", "My_Data", "other", "lists 'my-data>=1.2' in data_packages of [tool.fti], but neither"),
        ("pyproject.toml", '"serving/service.py", ', "", "does not list serving/service.py in include of"),
        ("pyproject.toml", "serving/page/*", "serving/gone.py", "lists serving/gone.py in include of"),
        ("pyproject.toml", 'name = "ports"', "", "has no name. It must be the project's name"),
        ("training/MLproject", "name: lateness", "name: [", "is no YAML"),
    ],
)
def test_each_disagreement_is_one_line(root, file, before, after, said):
    """Which file, what it says, and what `[tool.fti]` says."""
    text = (root / file).read_text()
    assert before in text
    (root / file).write_text(text.replace(before, after, 1))
    ended = fti("check", cwd=root)
    assert ended.code == 1
    (line,) = ended.err
    assert line.startswith(f"error: {root / file}") or f"[tool.fti] of {root / file}" in line
    assert said in line
