"""The production profile on one host: servers from wheels, supervised, started and found healthy in order.

    fti production up
    fti production run loop make pipeline
    fti production status
    fti production backup FILE
    fti production restore FILE
    fti production down

`run ROLE COMMAND` runs a command with the variables of a role: features, training, serving, or loop, which is all but
serving. Every log is in FOLDER/logs. The object store is an emulator that keeps everything in memory: where tables are
to stay, have FTI_TABLES, and AWS_* that open it, name a place of your own when you call `up` first; it is remembered,
and MLflow keeps its files beside it. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg

from fti.command import alias, fail
from fti.deploy.backup import backup, restore
from fti.deploy.folder import NotAProfile
from fti.deploy.lifecycle import status, up
from fti.deploy.stack import Stack
from fti.deploy.supervision import down
from fti.project import project


def delete(stack: Stack) -> None:
    """Delete a profile's folder, and no other. Raises NotAProfile."""
    if not stack.root.exists():
        return
    if not stack.made or not (stack.root / "supervisor.conf").exists():
        raise NotAProfile(
            f"{stack.root} is no production profile, which has settings.json and supervisor.conf: nothing was deleted. "
            "Name its folder: --folder."
        )
    shutil.rmtree(stack.root)


def main(argv: list[str] | None = None) -> int:
    return alias("fti.deploy.production", "fti.deploy.commands:PRODUCTION", argv)


def execute(command: str, folder: Path | None, **given: Any) -> int:
    """Carry out one command; returns the exit code."""
    try:
        DO[command](Stack((folder or project().root / "data" / "production").resolve()), **given)
    except (OSError, psycopg.Error) as error:
        return fail(error)
    return 0


def _up(stack: Stack, workers: int | None, rotate: bool) -> None:
    """Start the servers with the given settings, and store these for later commands."""
    stack.claim()
    stack.adopt(os.environ)
    if workers is not None:
        stack.remember(workers=workers)
    if rotate:
        stack.rotate()
    up(stack)
    print("Next: fti production run loop make pipeline")


def _down(stack: Stack, purge: bool) -> None:
    down(stack)
    if purge:
        delete(stack)


def _restore(stack: Stack, file: Path, replace: bool) -> None:
    stack.claim()
    stack.adopt(os.environ)
    print(restore(stack, file, replace))
    print("Next: fti production up")


def _run(stack: Stack, role: str, args: Sequence[str]) -> None:
    if not stack.made:
        raise NotAProfile(f"There is no production profile in {stack.root}. Start it: make production-up")
    os.environ |= stack.environment(role)
    os.execvp(args[0], list(args))  # noqa: S606 - it is the user's own command


DO: dict[str, Callable[..., None]] = {
    "up": _up,
    "down": _down,
    "backup": lambda stack, file: print(backup(stack, file)),
    "restore": _restore,
    "status": lambda stack: print(status(stack)),
    "run": _run,
}


if __name__ == "__main__":
    sys.exit(main())
