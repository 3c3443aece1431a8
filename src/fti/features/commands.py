"""The feature pipeline's commands: what each takes, and what is wrong with it before anything heavy is imported."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from fti.command import EXISTING, FILE, FOLDER, LOG, MOMENT, Command, Option, Parsed, flag, wrong
from fti.declared import constants
from fti.errors import Refusal, few
from fti.project import NoProject, project
from fti.times import utc

SECTION = "Feature pipeline"


class MomentToCome(Refusal):
    """A moment lies in the future."""


def source_says(name: str) -> str | None:
    """A plain value of the project's source, where there is a project and it says one."""
    try:
        value = constants(project().repo / "source.py").get(name)
    except NoProject:
        return None
    return value if isinstance(value, str) else None


START = Option("--start", type=MOMENT, usual=partial(source_says, "START"), help="Start of the interval, UTC.")
END = Option("--end", type=MOMENT, usual=partial(source_says, "END"), help="End of the interval, UTC, not in it.")
AS_OF = Option("--as-of", type=MOMENT, usual=partial(source_says, "TODAY"), help="What is online is as of this, UTC.")
ACCEPT = Option(
    "--accept", multiple=True, metavar="SUITE.RULE", help="Only report what breaks this batch rule; may be repeated."
)
FORCE = flag("--force", help="Take moments of which nothing has landed, as when a feed has been silent for days.")
REPO = Option(
    "--repo",
    type=FOLDER,
    usual="feature_repo",
    help="Feast repository; without FTI_TABLES tables lie in data/ beside it.",
)
RAW = Option("--raw", type=FOLDER, usual="of the package", help="Folder of raw files.")
REWIND = flag("--rewind", help="Let newer rows go, to replay an earlier moment.")
RECEIVED_AT = Option(
    "--received-at", type=MOMENT, usual="on time", help="When what is new or corrected was received, UTC, if later."
)
INTERVAL = (START, END)


def _carry_out(command: str, **given: Any) -> int:
    _require_order(command, given)
    if command == "release":
        _require_rows(given["rows"])
    if given.get("export") and not given["table"]:
        raise wrong("--export needs --table: one file has one table's columns")
    _require_past(given)
    from fti.features.run import Options, execute

    return execute(Options(command, **given))


def _require_order(command: str, given: dict[str, Any]) -> None:
    """Refuse an interval that ends before it starts, also one whose other end the project says."""
    start = given.get("start") or _moment("START")
    end = given.get("end") or _moment("END")
    as_of = given.get("as_of") or _moment("TODAY")
    if "end" in given and start and end and start >= end:
        raise wrong(f"--start {start.isoformat()} is not before --end {end.isoformat()}")
    if command in ("all", "materialize") and start and as_of and start >= as_of:
        raise wrong(f"--start {start.isoformat()} is not before --as-of {as_of.isoformat()}")


def _require_past(given: dict[str, Any]) -> None:
    """Refuse moments that no source can have reached, but for the end that the project itself gives."""
    now = datetime.now(UTC) + timedelta(days=3)  # as long a silence as is taken for one that was meant
    for name, end in (("start", None), ("end", _moment("END")), ("as_of", None)):
        moment = given.get(name)
        if moment is not None and moment > now and moment != end and not given.get("force"):
            raise MomentToCome(
                f"--{name.replace('_', '-')} is {moment:%Y-%m-%dT%H:%MZ}, which is yet to come. Nothing was read or "
                "written. Correct it, or this machine's clock."
            )


def _moment(name: str) -> datetime | None:
    text = source_says(name)
    return None if text is None else utc(text)


def _require_rows(file: Path) -> None:
    """Refuse a file of corrected rows that has none."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.reader(lines)
            columns, first = next(rows, []), next((row for row in rows if any(row)), None)
    except (OSError, ValueError, csv.Error) as error:
        raise wrong(f"--rows: {file} cannot be read as CSV ({type(error).__name__}: {error})") from error
    if "held_id" not in columns:
        raise wrong(f"--rows: {file} has no column held_id, but {few(columns)}; `fti quarantine --export` writes one")
    if first is None:
        raise wrong(f"--rows: {file} has a header and no row; put the corrected rows below it")


def _step(name: str, about: str, *parameters: click.Parameter, command: str = "") -> Command:
    return Command(name, partial(_carry_out, command or name), *parameters, REPO, about=about)


def _datasheet(**given: Any) -> int:
    from fti.features.datasheet import write_sheet

    return write_sheet(**given)


def _maintain(repo: Path | None, as_of: datetime | None) -> int:
    from fti.features.maintain import report

    return report((repo or project().repo).resolve(), as_of)


def _erase(entity: tuple[str, str], yes: bool, repo: Path | None, url: str | None) -> int:
    from fti.features.erase import report

    return report((repo or project().repo).resolve(), *entity, url, yes)


def _entity(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals or not value:
        raise ValueError(f"{text!r} is not KEY=VALUE, such as tailnum=N14228")
    return key, value


STEPS = {
    "all": _step(
        "features", "Do the five steps below in one process.", *INTERVAL, AS_OF, REWIND, RECEIVED_AT, RAW, ACCEPT,
        FORCE, command="all",
    ),
    "ingest": _step("ingest", "Land raw events that pass the gate.", *INTERVAL, RECEIVED_AT, RAW, ACCEPT, FORCE),
    "validate": _step("validate", "Judge the raw events, and write nothing.", *INTERVAL, RAW, ACCEPT, FORCE),
    "publish": _step("publish", "Compute, check and write the feature rows.", *INTERVAL, RAW, ACCEPT, FORCE),
    "plan": _step("plan", "Say what apply would change, and whether a model forbids it."),
    "apply": _step("apply", "Register the definitions with Feast."),
    "materialize": _step(
        "materialize", "Copy the newest rows to the online store.", START, END, AS_OF, REWIND, FORCE
    ),
    "quarantine": _step(
        "quarantine", "List the rows that are held back.",
        Option("--table", help="Only of this table."),
        Option("--export", type=FILE, help="Write the held rows of --table to this CSV file."),
    ),
    "release": _step(
        "release", "Let corrected rows in, by the gate.",
        Option("--table", required=True, help="The table whose rows they are."),
        Option("--rows", type=EXISTING, required=True, help="The CSV file of corrected rows."),
        RECEIVED_AT, RAW, ACCEPT, FORCE,
    ),
    "needs": _step(
        "needs", "Say which services and model versions read a definition.",
        Option("--name", required=True, help="The feature view or the feature service."),
    ),
}  # fmt: skip
DATASHEET = Command(
    "datasheet", _datasheet,
    Option("--as-of", type=MOMENT, usual="all there is", help="What had happened and was known by then, UTC."),
    FORCE, REPO,
    Option("--file", type=FILE, usual="data/datasheet.md", help="The file to write; HTML goes beside it."),
    about="Write what the tables hold, and who reads them.",
)  # fmt: skip
MAINTAIN = Command(
    "maintain", _maintain,
    Option(
        "--as-of", type=MOMENT, usual="when materialized", help="The moment at which the ttl of online rows ends, UTC."
    ),
    REPO,
    about="Compact tables, and delete what nobody needs; each cycle does it.",
)  # fmt: skip
ERASE = Command(
    "erase", _erase,
    click.Argument(["entity"], type=Parsed("entity", _entity), metavar="KEY=VALUE"),
    flag("--yes", help="Delete it, for good; without this, only say what would be deleted."),
    REPO, LOG,
    about="Say what is stored of an entity, by the name of a join key, and delete it with --yes.",
)  # fmt: skip
COMMANDS = [*STEPS.values(), DATASHEET, MAINTAIN, ERASE]
