"""The command tree: each pipeline's commands in a section of its own, and those of the project after them.

    fti --help
    fti train --as-of 2013-11-01
    eval "$(fti completion bash)"

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 something is in breach, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import click

from fti import command, environment
from fti.cli import completion, make
from fti.cli.own import own_command, own_names
from fti.project import NoProject, project

# Modules with SECTION, the heading of their commands in the help, and COMMANDS.
SECTIONS = (
    "fti.cli.all_of_it",
    "fti.scaffold.commands",
    "fti.features.commands",
    "fti.training.commands",
    "fti.serving.commands",
    "fti.monitoring.commands",
    "fti.loop.commands",
    "fti.deploy.commands",
    "fti.cli.look",
)
OWN_SECTION = "This project"
NAME = "fti"


class App(click.Group):
    """All commands; those of the project are imported only when one is called, or for the help."""

    @cached_property
    def sections(self) -> dict[str, dict[str, click.Command]]:
        modules = [importlib.import_module(name) for name in SECTIONS]
        return {module.SECTION: {one.name: one for one in module.COMMANDS} for module in modules}

    @cached_property
    def shipped(self) -> dict[str, click.Command]:
        """Commands of the library by name, also those that the help does not list."""
        listed = {name: one for section in self.sections.values() for name, one in section.items()}
        return listed | {str(one.name): one for one in (make.command_for(self), completion.COMMAND)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, one in self.shipped.items() if not one.hidden] + own_names(self.shipped)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.shipped.get(cmd_name) or own_command(cmd_name, self.shipped)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        own_names(self.shipped)  # a name that two commands have is neither's
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            raise command.wrong(f"There is no command {args[0]!r}{f'; did you mean {near[0]!r}?' if near else '.'}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = {name: one for name in own_names(self.shipped) if (one := self.get_command(ctx, name))}
        width = max(len(name) for name in self.list_commands(ctx))
        for section, commands in [*self.sections.items(), (OWN_SECTION, own)]:
            rows = [
                (name.ljust(width), one.get_short_help_str(command.WIDTH))
                for name, one in commands.items()
                if not one.hidden
            ]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)


def _start(ctx: click.Context, **_: Any) -> None:
    try:
        root = project().root
    except NoProject:
        root = None  # the command says so, if it needs one
    environment.complete(root)
    ctx.meta["fti.root"] = root and str(root)


def app() -> App:
    """The root of the tree."""
    version = click.version_option(package_name="fti", message="%(version)s")
    root = App(
        NAME,
        params=[command.verbose()],
        callback=click.pass_context(_start),
        help="Features, training and inference on Feast, MLflow and BentoML. Times are UTC.",
        epilog='`fti COMMAND --help` says what a command takes. `eval "$(fti completion bash)"` completes words.',
        context_settings=command.SETTINGS,
        no_args_is_help=True,
    )
    return version(root)


def main(arguments: Sequence[str] | None = None) -> int:
    """`fti ...`; returns the exit code. Raises SystemExit with 2 for wrong usage."""
    root = app()
    if completion.VARIABLE in os.environ:
        root.main(prog_name=NAME, complete_var=completion.VARIABLE)
    words = list(sys.argv[1:] if arguments is None else arguments)
    return command.run(root, words, NAME)
