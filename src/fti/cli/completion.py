"""Shell completion, by click's own scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from fti.command import Command

VARIABLE = "_FTI_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


def _script(shell: str) -> int:
    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(click.Command("fti"), {}, "fti", VARIABLE).source())
    return 0


COMMAND = Command(
    "completion", _script, click.Argument(["shell"], type=click.Choice(SHELLS)),
    about='Print what makes a shell complete the words of `fti`: eval "$(fti completion bash)".',
)  # fmt: skip
COMMAND.hidden = True
