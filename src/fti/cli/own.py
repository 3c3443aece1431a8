"""A project's own commands: `[tool.fti.commands]` of its pyproject.toml names them.

    [tool.fti.commands]
    worst-routes = "reports.routes:COMMAND"

The module lies in the project's folder, and the name in it is a click command, such as an `fti.command.Command`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import click

from fti.command import fail
from fti.errors import Refusal, one_line
from fti.own_code import load_module
from fti.project import SETTINGS, NoProject, project

TABLE = f"[tool.fti.commands] of {SETTINGS}"
EXAMPLE = 'worst-routes = "reports.routes:COMMAND"'


class CommandBroken(Refusal):
    """A project's own command cannot be used."""


def own_names(shipped: Collection[str]) -> list[str]:
    """The names of the project's own commands. Raises CommandBroken when one is a name that `fti` has."""
    names = list(_declared())
    if taken := sorted({*names} & {*shipped}):
        raise CommandBroken(f"{TABLE} names {', '.join(taken)}, which `fti` has itself. Give yours another name.")
    return names


def own_command(name: str, shipped: Collection[str]) -> click.Command | None:
    """The project's command of that name, or None; one that cannot be imported says so when it is called."""
    if name not in own_names(shipped):
        return None
    place = str(_declared()[name])
    try:
        return _imported(name, place)
    except CommandBroken as error:
        reason = error  # `error` is gone when the command is called
        return click.Command(
            name, callback=lambda: fail(reason), params=[click.Argument(["args"], nargs=-1, expose_value=False)],
            short_help=f"(broken: {place})", context_settings={"ignore_unknown_options": True},
        )  # fmt: skip


def _imported(name: str, place: str) -> click.Command:
    module, colon, attribute = place.partition(":")
    if not colon or not module or not attribute:
        raise CommandBroken(f"{TABLE}: {name} is {place!r}; expected MODULE:NAME, such as {EXAMPLE}")
    try:
        found = getattr(load_module(project().root, module), attribute)
    except Refusal as error:
        raise CommandBroken(str(error)) from error
    except AttributeError as error:
        raise CommandBroken(f"{TABLE}: {name} is {place!r}, and {module} has no {attribute}.") from error
    except Exception as error:
        raise CommandBroken(
            f"{TABLE}: {name} is {place!r}, which cannot be imported ({type(error).__name__}: {one_line(error)})."
        ) from error
    if not isinstance(found, click.Command):
        raise CommandBroken(
            f"{TABLE}: {name} is {place!r}, which is a {type(found).__name__}; expected a click command, such as "
            "`COMMAND = fti.command.Command(...)`."
        )
    return found


def _declared() -> dict[str, Any]:
    try:
        table = project().settings.get("commands", {})
    except NoProject:
        return {}
    if not isinstance(table, dict):
        raise CommandBroken(f"{TABLE} is {table!r}; expected a table of names, such as {EXAMPLE}")
    return table
