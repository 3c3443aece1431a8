"""The environment variables of a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.library.cli.test_commands import fti

MODULE = """
import json
import os

from fti.command import Command

COMMAND = Command("told", lambda: print(json.dumps(dict(os.environ))), about="Print the environment.")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(MODULE)
    settings = '[tool.fti]\nmodel_name = "m"\n[tool.fti.commands]\ntold = "own:COMMAND"\n'
    (tmp_path / "pyproject.toml").write_text(settings)
    return tmp_path


def test_env_is_read_as_it_is_written_and_yields_to_the_caller(project, monkeypatch):
    """Its values may hold `$`, `#` and spaces; by `make` and by `fti`, from whatever folder of the project."""
    lines = ["# why", "A_PORT=4567", "export A='p$a #b'", 'B="sql://u:p#$x@h/d"', "C=", "FEAST_USAGE=True", "D=1"]
    lines.append("É=ü")
    (project / ".env").write_text("\n".join(lines), encoding="utf-8")
    (project / "below").mkdir()
    monkeypatch.setenv("D", "2")
    for name in ("C", "FEAST_USAGE", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    for words, folder in ((["told"], project), (["make", "told"], project / "below")):
        found = json.loads(fti(*words, cwd=folder).out)
        assert (found["A_PORT"], found["A"], found["B"], found["D"]) == ("4567", "p$a #b", "sql://u:p#$x@h/d", "2")
        assert "C" not in found
        assert found["É"] == "ü"
        assert (found["FEAST_USAGE"], found["DO_NOT_TRACK"]) == ("True", "true")
