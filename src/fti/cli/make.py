"""`make TARGET NAME=VALUE`: the same commands, in make's spelling, and errors in it too.

The Makefile hands over the variables of its command line, as they were typed: `fti make train AS_OF=2013-11-01`. An
option `--as-of` is AS_OF there. A variable that neither a goal nor the environment knows is refused, before anything
is done; `fti make --check GOAL...` only looks.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping

import click

from fti import command
from fti.errors import Refusal
from fti.scaffold.origins import variables

# Goals of the Makefile whose command has other words.
TARGETS = {
    "production-up": ("production", "up"),
    "production-down": ("production", "down"),
    "production-status": ("production", "status"),
    "check-port": ("serve", "--check"),
}
# Some systems set these for purposes of their own.
NOT_FROM_ENVIRONMENT = {"HOST", "NAME"}
# Other programs' variables: we do not know them all.
FOREIGN = re.compile(
    r"(AWS|BENTOML|FEAST|GX|MLFLOW|OTEL|PIP|PYTHON|PYTEST|SSL|UV)_?\w*|\w+_(PROXY|proxy)|DO_NOT_TRACK|NO_COLOR|OMP_\w+"
)
ASSIGNMENT = re.compile(r"([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)


class UnknownVariable(Refusal):
    """Make was given a variable that nothing reads."""


def command_for(root: click.Group) -> click.Command:
    """The hidden command that the Makefile calls."""

    def make(words: tuple[str, ...], check: bool, also: str) -> int:
        given = {found[1]: found[2] for word in words if (found := ASSIGNMENT.fullmatch(word))}
        goals = [word for word in words if not ASSIGNMENT.fullmatch(word)]
        if check:
            require_known(root, goals, given, also.split())
            return 0
        (target,) = goals
        path, chosen = find(root, target)
        variables = names(chosen)
        exported = {
            name: os.environ[name] for name in variables if name in os.environ and name not in NOT_FROM_ENVIRONMENT
        }
        return command.run(root, [*path, *options(chosen, exported | given)], "make", _spelling(variables))

    hidden = command.Command(
        "make", make,
        command.flag("--check", help="Only look whether the goals know the variables."),
        command.Option("--also", default="", help="Variables that the Makefile itself reads."),
        click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, metavar="TARGET [NAME=VALUE]..."),
        about="What the Makefile calls.",
    )  # fmt: skip
    hidden.hidden = True
    return hidden


def find(root: click.Group, target: str) -> tuple[list[str], click.Command]:
    """The words and the command of a target. Raises UsageError for one that is none."""
    words = list(TARGETS.get(target, (target,)))
    chosen: click.Command | None = root
    context = click.Context(root)
    for word in words:
        if isinstance(chosen, click.Group):
            chosen = chosen.get_command(context, word)
    if chosen is None:
        raise command.wrong(f"There is no command {target!r}")
    return words, chosen


def names(chosen: click.Command) -> dict[str, click.Parameter]:
    """The variables that a command reads, by all long names of its options and the names of its arguments."""
    found: dict[str, click.Parameter] = {}
    for param in chosen.params:
        long = [word for word in param.opts if word.startswith("--")] or [str(param.name)]
        found |= {word.lstrip("-").replace("-", "_").upper(): param for word in long}
    return found


def options(chosen: click.Command, given: Mapping[str, str]) -> list[str]:
    """Variables as words of the command line. One that is empty is not given; a flag's is set or not."""
    words: list[str] = []
    arguments: list[str] = []
    for name, param in names(chosen).items():
        value = given.get(name, "")
        if not value:
            continue
        if isinstance(param, click.Argument):
            arguments.append(value)
        elif param.is_flag:  # type: ignore[attr-defined]
            words.append(max(param.opts, key=len))
        else:
            values = value.split() if param.multiple else [value]
            words += [f"{max(param.opts, key=len)}={one}" for one in values]
    return [*words, *(["--", *arguments] if arguments else [])]


def require_known(root: click.Group, goals: Iterable[str], given: Iterable[str], also: Iterable[str]) -> None:
    """Refuse variables that no goal reads. Raises UnknownVariable, naming the nearest one that is known."""
    goals = list(goals)
    read: set[str] = set()
    for goal in goals:
        try:
            read |= set(names(find(root, goal)[1]))
        except click.UsageError:
            continue  # a goal of the Makefile alone
    known = read | {*also} | environment()
    for name in given:
        if name not in known and not FOREIGN.fullmatch(name):
            near = difflib.get_close_matches(name.upper(), sorted(read) or sorted(known), 1, 0.5)
            raise UnknownVariable(
                f"{name} is no variable of `make {' '.join(goals)}`{f'; did you mean {near[0]}?' if near else '.'} "
                f"It reads {', '.join(sorted(read - {'VERBOSE'})) or 'none'}. Nothing was done."
            )


def environment() -> set[str]:
    """The environment variables that .env.example lists: make passes them on."""
    return {*re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", variables(), re.MULTILINE)}


def _spelling(variables: Mapping[str, click.Parameter]) -> Callable[[str], str]:
    """Turn the names of options into those of variables."""
    words = {word: name for name, param in variables.items() for word in param.opts if word.startswith("--")}

    def spell(message: str) -> str:
        plain = re.sub(r" \((?:fti|make) [^()]*--help\)$", "", message)
        return re.sub(r"--[a-z][a-z-]*[a-z]", lambda found: words.get(found[0], found[0]), plain)

    return spell
