"""What every command of `fti` is made of: option types, common options, and how it ends.

A command says what is wrong with its arguments before it imports anything heavy: the modules `commands` of the
pipelines import nothing but this one and the project's plain settings.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import click

from fti import logs
from fti.errors import Refusal, one_line
from fti.times import LONGEST, utc

REFUSED, WRONG_USAGE, BREACHED, INTERRUPTED = 1, 2, 3, 130
WIDTH = 98
SETTINGS: dict[str, Any] = {"max_content_width": WIDTH, "help_option_names": ["-h", "--help"]}
_SPELL: ContextVar[Callable[[str], str]] = ContextVar("spell", default=str)


class Parsed(click.ParamType):
    """An option's type, by a function from text that raises ValueError saying what it expected."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


MOMENT = Parsed("moment", utc)
FOLDER = click.Path(file_okay=False, resolve_path=True, path_type=Path)
FILE = click.Path(dir_okay=False, resolve_path=True, path_type=Path)
EXISTING = click.Path(dir_okay=False, exists=True, readable=True, resolve_path=True, path_type=Path)
DAYS = click.IntRange(1, LONGEST.days)
MINUTES = click.FloatRange(0, LONGEST.days * 1440)
HOURS = click.FloatRange(0, LONGEST.days * 24)


class Option(click.Option):
    """An option; `usual` says, when the help is asked for, what holds without it."""

    def __init__(self, *words: str, usual: Callable[[], object] | str | None = None, **more: Any) -> None:
        super().__init__(list(words), **more)
        self.usual = usual

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        usual = self.usual() if callable(self.usual) else self.usual
        return (record[0], f"{record[1]}  [{usual}]") if record and usual not in (None, "") else record


def flag(*words: str, help: str) -> Option:
    return Option(*words, is_flag=True, help=help)


LOG = Option("--url", usual="SERVING_PREDICTION_LOG", help="The log of predictions, an SQLAlchemy URL.")


def _verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["fti.verbose"] = ctx.meta.get("fti.verbose", False) or value


def verbose() -> Option:
    """`-v`, which every command and the group of all have."""
    return Option(
        "-v", "--verbose", is_flag=True, expose_value=False, callback=_verbose, is_eager=True,
        help="Show what Feast, MLflow and the other libraries say.",
    )  # fmt: skip


class Command(click.Command):
    """A command whose parameters are data: `work` gets them by name, and returns an exit code or None."""

    def __init__(
        self, name: str, work: Callable[..., int | None], *parameters: click.Parameter, about: str,
        passes_on: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            name,
            callback=work,
            params=[*parameters, verbose()],
            help=inspect.cleandoc(about),
            # What follows a command's first argument is another command's, options too.
            context_settings=SETTINGS | ({"allow_interspersed_args": False} if passes_on else {}),
        )

    def invoke(self, ctx: click.Context) -> Any:
        logs.set_up(ctx.meta.get("fti.verbose", False))
        if ctx.meta.get(
            "fti.root"
        ):  # paths of the command line are absolute by now, those of the environment are of here
            os.chdir(ctx.meta["fti.root"])
        return super().invoke(ctx)


class Group(click.Group):
    """A command of commands; `work` is what it does when none of them is named."""

    def __init__(
        self, name: str, *parameters: click.Parameter, commands: Sequence[click.Command], about: str,
        work: Callable[..., int | None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            name,
            params=list(parameters),
            callback=work,
            commands={str(command.name): command for command in commands},
            invoke_without_command=work is not None,
            help=inspect.cleandoc(about),
            context_settings=SETTINGS,
        )


def wrong(message: str) -> click.UsageError:
    """Say what is wrong with a combination of arguments, to be raised."""
    return click.UsageError(message)


def run(command: click.Command, arguments: Sequence[str], name: str, spell: Callable[[str], str] = str) -> int:
    """Carry out a command; returns its exit code, 1 for what was refused, 130 for Ctrl-C.

    `spell` writes options as the user typed them. Raises SystemExit with 2 for wrong usage.
    """
    token = _SPELL.set(spell)
    try:
        with _interruptible(), command.make_context(name, list(arguments)) as ctx:
            return int(command.invoke(ctx) or 0)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.message, err=True)
        raise SystemExit(WRONG_USAGE) from error
    except click.UsageError as error:
        fail(_explained(error))
        raise SystemExit(WRONG_USAGE) from error
    except (Refusal, click.ClickException) as error:
        return fail(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # who reads what is printed has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return REFUSED
    finally:
        _SPELL.reset(token)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a first Ctrl-C be an exception, and a second one end the process at once.

    Threads, and libraries in C that end late, would have the second one print their tracebacks. A shell has jobs in
    the background ignore Ctrl-C, and that stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def alias(module: str, place: str, arguments: Sequence[str] | None) -> int:
    """`python -m MODULE ...`, as before there was `fti`: the command, or those, that `place` is, MODULE:NAME.

    By its name, for the commands import the modules that do their work.
    """
    where, _, name = place.partition(":")
    found = getattr(importlib.import_module(where), name)
    if isinstance(found, list):
        found = {str(one.name): one for one in found}
    command = click.Group(module, commands=found) if isinstance(found, dict) else found
    return run(command, sys.argv[1:] if arguments is None else arguments, module)


def fail(message: object) -> int:
    """Print an error, or a message, as one line, whatever a library put into it; returns the exit code."""
    said = one_line(message) if isinstance(message, Exception) else str(message)
    if isinstance(message, OSError) and message.filename:
        said += ". Make sure that it is there, that this user may read and write it, and that its disk has space; then "
        said += "run the same command again."
    kind = click.style("error:", fg="red", bold=True) if logs.coloured() else "error:"
    click.echo(f"{kind} {' '.join(_SPELL.get()(said).split())}", err=True, color=logs.coloured())
    return REFUSED


def _explained(error: click.UsageError) -> str:
    """A click error as one line: what was found, what was expected, and where the help is."""
    context = error.ctx
    help_at = f" ({context.command_path} --help)" if context else ""
    if isinstance(error, click.MissingParameter) and error.param is not None:
        about = getattr(error.param, "help", None)
        return f"{name_of(error.param)} is missing{f': {about}' if about else ''}{help_at}"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{name_of(error.param)}: {error.message}"
    return error.format_message() + help_at


def name_of(param: click.Parameter) -> str:
    """What a person types for a parameter: the longest of an option's names, or an argument's."""
    return max(param.opts, key=len) if isinstance(param, click.Option) else str(param.name).upper()
