"""A project's own commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.library.cli.test_commands import QUICK_SECONDS, fti

MODULE = """
from fti.command import Command, Option, fail


def _worst(most: int) -> int:
    print(f"the {most} worst routes")
    return 0 if most else fail("--most is none")


COMMAND = Command("worst-routes", _worst, Option("--most", type=int, default=3), about="List the worst routes.")
PLAIN = 3
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "routes.py").write_text(MODULE)
    (tmp_path / "reports" / "broken.py").write_text("import no_such_module\n")
    return tmp_path


def declare(project: Path, line: str) -> None:
    (project / "pyproject.toml").write_text(f'[tool.fti]\nmodel_name = "m"\n[tool.fti.commands]\n{line}\n')


def test_a_projects_own_command_is_one_like_others(project: Path) -> None:
    """It is in the help, it takes options, and its exit code counts; make reads its variables."""
    declare(project, 'worst-routes = "reports.routes:COMMAND"')
    assert "worst-routes  List the worst routes." in fti("--help", cwd=project).out
    assert fti("worst-routes", "--most", "5", cwd=project).out == "the 5 worst routes\n"
    assert fti("make", "worst-routes", "MOST=7", cwd=project).out == "the 7 worst routes\n"
    ended = fti("make", "worst-routes", "MOST=0", cwd=project)
    assert (ended.code, ended.err) == (1, ["error: MOST is none"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            'mine = "reports.broken:COMMAND"',
            "cannot be imported (ModuleNotFoundError: No module named 'no_such_module')",
        ),
        ('mine = "reports.routes:NOTHING"', "reports.routes has no NOTHING"),
        ('mine = "reports.routes"', "expected MODULE:NAME"),
        ('mine = "reports.routes:PLAIN"', "expected a click command"),
        ('mine = "json:loads"', "not the one of the project"),
    ],
)
def test_a_broken_command_is_named_in_one_line(project: Path, line: str, reason: str) -> None:
    """Other commands, and the help, go on."""
    declare(project, line)
    ended = fti("mine", "--any", "thing", cwd=project)
    assert ended.code == 1
    (said,) = ended.err
    assert reason in said
    assert ended.seconds < QUICK_SECONDS
    assert "(broken: " in fti("--help", cwd=project).out


def test_a_name_of_the_librarys_is_refused(project: Path) -> None:
    """Never two commands of one name."""
    declare(project, 'train = "reports.routes:COMMAND"')
    assert "which `fti` has itself" in fti("--help", cwd=project).err[0]
    assert "which `fti` has itself" in fti("train", cwd=project).err[0]
