"""Take a monitor run back: delete what it found, and write the report and metrics of the newest run that is left.

    python -m fti.monitoring.undo --as-of 2030-01-01

An alert that was sent stays sent. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from fti.contract.events import events
from fti.contract.predictions import LogUnusable, create, open_log
from fti.contract.results import moments, remove, saved
from fti.contract.settings import OFF, PredictionSettings
from fti.errors import Refusal, few, one_line
from fti.monitoring.conclusion import conclude
from fti.monitoring.outputs import add_outputs
from fti.monitoring.report import HISTORY
from fti.times import moment


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
    settings = PredictionSettings()
    parser = argparse.ArgumentParser(prog="fti.monitoring.undo", description=__doc__.split("\n")[0])
    parser.add_argument("--as-of", type=moment, required=True, help="the moment that was looked back from, UTC")
    parser.add_argument("--url", default=settings.prediction_log, help="the log to change (SERVING_PREDICTION_LOG)")
    add_outputs(parser)
    options = parser.parse_args(argv)
    try:
        if options.url == OFF:
            raise LogUnusable("SERVING_PREDICTION_LOG is off, so nothing was monitored. Give --url, or unset it.")
        engine = open_log(options.url, existing=True)
        create(engine)
        print(undo(engine, options.as_of, options.report, options.prometheus))
    except (Refusal, SQLAlchemyError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
