"""The loop's commands: what each takes, and what is wrong with it before anything heavy is imported."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from fti.command import DAYS, FOLDER, LOG, MINUTES, MOMENT, Command, Option, flag, wrong
from fti.declared import keys
from fti.project import NoProject, project
from fti.times import utc

SECTION = "The loop"
STEPS = ("land", "materialize", "score", "monitor", "maintain", "retrain")
ACCEPT = Option(
    "--accept", multiple=True, metavar="SUITE.RULE", help="Only report what breaks this batch rule; may be repeated."
)
RAW = Option("--raw", type=FOLDER, usual="of the package", help="Folder of raw files.")


def _cycle(as_of: datetime, steps: str, **more: Any) -> int:
    chosen = tuple(steps.split(","))
    if unknown := [one for one in chosen if one not in STEPS]:
        raise wrong(f"--steps names {', '.join(unknown)}; there are {', '.join(STEPS)}")
    from fti.loop.cycle import execute

    return execute(as_of, chosen, **more)


def _replay(first: datetime, last: datetime, fault: tuple[str, ...], **more: Any) -> int:
    if first >= last:
        raise wrong(f"--from {first.isoformat()} is not before --to {last.isoformat()}")
    known = fault_names()
    for text in fault:
        name, _, day = text.partition("@")
        if known is not None and (name not in known or not day):
            raise wrong(f"--fault: {text!r} is no fault: give NAME@DATE, with one of {', '.join(known) or 'none'}")
        try:
            utc(day)
        except ValueError as error:
            raise wrong(f"--fault: {error}") from error
    from fti.loop.replay import execute

    return execute(first, last, fault, **more)


def fault_names() -> list[str] | None:
    """The faults that the project can live through, or None where only its module can say."""
    try:
        return keys(project().repo / "faults.py", "FAULTS")
    except NoProject:
        return None


CYCLE = Command(
    "cycle", _cycle,
    Option(
        "--as-of", type=MOMENT, required=True, help="The end of the day to land and the start of the one to score, UTC."
    ),
    Option("--days", type=DAYS, default=7, usual="7", help="How many the monitors look at."),
    Option(
        "--refresh-minutes", type=MINUTES, default=0, usual="0",
        help="How late the online store may be between two cycles.",
    ),
    Option("--steps", default=",".join(STEPS), usual=",".join(STEPS), help="Only these."),
    flag("--again", help="Also what is done already."),
    Option("--repo", type=FOLDER, usual="SERVING_FEAST_REPO", help="Feast repository."),
    RAW, LOG, ACCEPT,
    flag("--force", help="Take a moment of which the source has nothing to land."),
    about="""
    Do one complete day: land, materialize, score, monitor, maintain, perhaps retrain.

    Killed, it goes on where it ended. Ends with 3 when all was done and something is in breach.
    """,
)  # fmt: skip
REPLAY = Command(
    "replay", _replay,
    Option("--from", "first", type=MOMENT, required=True, help="The first day, UTC; training is as of it."),
    Option("--to", "last", type=MOMENT, required=True, help="The day after the last."),
    Option("--folder", type=FOLDER, usual="data/replay", help="Where it lives."),
    Option(
        "--refresh-minutes", "--refresh", type=click.IntRange(1, 1440), default=15, usual="15",
        help="How often the online store is filled.",
    ),
    Option(
        "--fault", multiple=True, metavar="NAME@DATE", usual=lambda: ", ".join(fault_names() or []),
        help="A fault to live through; may be repeated.",
    ),
    RAW,
    about="Live through past days with the service running, in a folder of its own.",
)  # fmt: skip
COMMANDS = [CYCLE, REPLAY]
