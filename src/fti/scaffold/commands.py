"""The commands that make a project and upgrade it."""

from __future__ import annotations

from pathlib import Path

import click

from fti.command import FOLDER, REFUSED, Command, Option, Parsed, fail
from fti.scaffold.origins import BLANK, names

SECTION = "Projects"


def _place(text: str) -> str:
    """A path as of here: commands run in the project's folder."""
    return text if "://" in text else str(Path(text).expanduser().resolve())


FTI = Option(
    "--fti", type=Parsed("where", _place), usual="where this fti came from", help="A wheel, a checkout or a URL of fti."
)


def _new(dest: Path, begin_with: str, name: str | None, fti: str | None) -> None:
    from fti.scaffold.new import new

    made = new(dest, begin_with, name, fti)
    click.echo(f"{made.name} is in {made.folder}. {made.own_files} of its files are the problem; README.md says which.")
    click.echo(f"\n  cd {made.folder}\n  make test\n  make run")


def _upgrade(folder: Path | None, fti: str | None) -> None:
    from fti.project import project
    from fti.scaffold.upgrade import upgrade

    click.echo(upgrade(folder or project().root, fti))


def _check() -> int:
    from fti.project import project
    from fti.settings_check import disagreements

    lines = disagreements(project())
    for line in lines:
        fail(line)
    return REFUSED if lines else 0


COMMANDS: list[click.Command] = [
    Command(
        "new", _new, click.Argument(["dest"], type=FOLDER),
        Option(
            "--from", "begin_with", type=click.Choice(names()), default=BLANK, usual=BLANK,
            help="The problem to begin with.",
        ),
        Option("--name", usual="the folder's", help="What the project and its model are called."),
        FTI,
        about="Make a project in a new folder; nothing is installed and nothing runs.",
    ),
    Command(
        "upgrade", _upgrade, click.Argument(["folder"], type=FOLDER, required=False), FTI,
        about="""Bring a project's files up to this version of fti.

        A file that was edited stays as it is, and how it differs from the new one is printed. It may be run again.
        """,
    ),
    Command("check", _check, about="Say where files of other tools differ from [tool.fti] in pyproject.toml."),
]  # fmt: skip
