"""The production profile on one host: servers from wheels, supervised, started and found healthy in order.

    python -m fti.deploy.production up
    python -m fti.deploy.production run loop make pipeline
    python -m fti.deploy.production status
    python -m fti.deploy.production backup FILE
    python -m fti.deploy.production restore FILE
    python -m fti.deploy.production down

`run ROLE COMMAND` runs a command with the variables of a role: features, training, serving, or loop, which is all but
serving. Every log is in FOLDER/logs. The object store is an emulator that keeps everything in memory: where tables are
to stay, have FTI_TABLES, and AWS_* that open it, name a place of your own when you call `up` first; it is remembered,
and MLflow keeps its files beside it. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import psycopg

from fti.deploy.backup import backup, restore
from fti.deploy.folder import NotAProfile
from fti.deploy.lifecycle import status, up
from fti.deploy.programs import told
from fti.deploy.stack import ROLES, Stack
from fti.deploy.supervision import down
from fti.errors import Refusal, one_line
from fti.project import project


def purge(stack: Stack) -> None:
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
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "run" and not options.args:
        parser.error("run: which command?")
    try:
        _do(Stack(options.folder.resolve()), options)
    except (Refusal, OSError, psycopg.Error) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fti.deploy.production", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--folder", type=Path, default=project().root / "data" / "production", help="where it lives (data/production)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    started = commands.add_parser("up", help="start what is not running, and wait until it is healthy")
    started.add_argument("--workers", type=int, help="processes of the service (as before; 2 at first)")
    started.add_argument("--rotate", action="store_true", help="with new passwords, but for the superusers'")
    commands.add_parser("status", help="what runs, and where")
    backed = commands.add_parser("backup", help="copy what Postgres holds into a file")
    backed.add_argument("file", type=Path, help="which must not be there")
    restored = commands.add_parser("restore", help="put it back; next: up")
    restored.add_argument("file", type=Path, help="that `backup` wrote")
    restored.add_argument("--replace", action="store_true", help="and give up what is there now")
    ended = commands.add_parser("down", help="stop everything")
    ended.add_argument("--purge", action="store_true", help="and delete databases, logs and passwords")
    running = commands.add_parser("run", help="run a command with the variables of a role")
    running.add_argument("role", choices=ROLES)
    running.add_argument("args", nargs=argparse.REMAINDER, metavar="command")
    return parser


def _do(stack: Stack, options: argparse.Namespace) -> None:
    if options.command == "up":
        _remember(stack, options)
        up(stack)
        print("Next: python -m fti.deploy.production run loop make pipeline")
    elif options.command == "down":
        down(stack)
        if options.purge:
            purge(stack)
    elif options.command == "backup":
        print(backup(stack, options.file))
    elif options.command == "restore":
        stack.claim()
        stack.adopt(told())
        print(restore(stack, options.file, options.replace))
        print("Next: python -m fti.deploy.production up")
    elif options.command == "status":
        print(status(stack))
    else:
        if not stack.made:
            raise NotAProfile(f"There is no production profile in {stack.root}. Start it: make production-up")
        os.environ |= stack.environment(options.role)
        os.execvp(options.args[0], options.args)  # noqa: S606 - it is the user's own command


def _remember(stack: Stack, options: argparse.Namespace) -> None:
    """What this `up` is told, for the commands that come later."""
    stack.claim()
    stack.adopt(told())
    if options.workers is not None:
        stack.remember(workers=options.workers)
    if options.rotate:
        stack.rotate()


if __name__ == "__main__":
    sys.exit(main())
