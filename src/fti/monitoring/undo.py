"""Take a monitor run back: delete what it found, and write the report and metrics of the newest run that is left.

    fti undo-monitor --as-of 2030-01-01

An alert that was sent stays sent. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from fti.command import alias, fail
from fti.contract.events import events
from fti.contract.predictions import LogUnusable, create, open_log
from fti.contract.results import moments, remove, saved
from fti.contract.settings import OFF, PredictionSettings
from fti.errors import Refusal, few
from fti.monitoring.conclusion import conclude
from fti.monitoring.outputs import metrics_file, report_file
from fti.monitoring.report import HISTORY


class NothingMonitored(Refusal):
    """Nothing was monitored as of a moment."""


def undo(engine: Engine, as_of: datetime, report: Path, prometheus: Path) -> str:
    """Delete the results as of a moment, and write both files anew; returns what was done. Raises NothingMonitored.

    The files are written even when nothing was deleted: an earlier call may have been killed between the two.
    """
    removed, left = remove(engine, as_of), moments(engine)
    if left:
        newest = left[0]
        conclude(
            engine, newest, saved(engine, newest), report, prometheus, None, events(engine, newest - HISTORY, newest)
        )
    else:
        report.unlink(missing_ok=True)
        prometheus.unlink(missing_ok=True)
    now = f"the report is as of {left[0]:%Y-%m-%dT%H:%MZ}" if left else "no run is left, and no report"
    if not removed:
        found = few(f"{one:%Y-%m-%dT%H:%MZ}" for one in left)
        raise NothingMonitored(
            f"No result as of {as_of.isoformat()} is in the log, which has those as of {found}; {now}."
        )
    return f"{removed:,} results as of {as_of:%Y-%m-%dT%H:%MZ} deleted; {now}."


def main(argv: list[str] | None = None) -> int:
    return alias("fti.monitoring.undo", "fti.monitoring.commands:UNDO", argv)


def execute(as_of: datetime, url: str | None, report: Path | None, prometheus: Path | None) -> int:
    """Undo, and print what was done; returns the exit code."""
    log = url or PredictionSettings().prediction_log
    try:
        if log == OFF:
            raise LogUnusable("SERVING_PREDICTION_LOG is off, so nothing was monitored. Give --url, or unset it.")
        engine = open_log(log, existing=True)
        create(engine)
        print(undo(engine, as_of, report or report_file(), prometheus or metrics_file()))
    except (SQLAlchemyError, OSError) as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
