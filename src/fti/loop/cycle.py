"""One complete day: a moment in; landed, served, scored and monitored as of it, and perhaps a new champion, out.

    fti cycle --as-of 2013-10-05

The steps, in this order: land (ingest, validate, publish), materialize, score (the day that comes), monitor, retrain.
Each that is done is a row of `cycle_steps` beside the log of predictions, and is not done again: a cycle that was
killed goes on where it ended, and one that is started twice waits for the other and finds nothing to do. A step that
is refused does not keep the others from doing their part with what there is. Exit codes: 0 done, 1 a step was refused
or failed, 2 wrong usage, 3 all was done and something is in breach.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

from fti.command import BREACHED, REFUSED, alias, fail
from fti.features.source import reach
from fti.logs import quiet_output
from fti.project import project
from fti.serving.settings import ServingSettings
from fti.stores.landed import require_landed


def main(argv: list[str] | None = None) -> int:
    return alias("fti.loop.cycle", "fti.loop.commands:CYCLE", argv)


def execute(
    as_of: datetime, steps: tuple[str, ...], days: int, refresh_minutes: float, again: bool, repo: Path | None,
    raw: Path | None, url: str | None, accept: tuple[str, ...], force: bool,
) -> int:  # fmt: skip
    """Do the day, and print what came of each step; returns the exit code."""
    settings = ServingSettings()
    told = settings.model_copy(
        update={
            "feast_repo": (repo or settings.feast_repo).resolve(),
            "prediction_log": url or settings.prediction_log,
        }
    )
    require_landed(told.feast_repo, {"--as-of": as_of}, force, reach())
    # Not above: they take ten seconds that a wrong command line should not wait for.
    from fti.loop.day import FAILURES, open_cycle

    source, refresh = project().source, timedelta(minutes=refresh_minutes)
    try:
        cycle = open_cycle(told, source.RawEvents(source.RawFiles(raw)), list(accept), days, refresh)
        with quiet_output():
            done = cycle.run(as_of, steps, again)
        verdict = cycle.verdict(as_of)
    except FAILURES as error:
        return fail(error)
    print(*done, sep="\n")
    if any(one.status in ("refused", "failed") for one in done):
        return REFUSED
    return BREACHED if verdict == "breach" else 0


if __name__ == "__main__":
    sys.exit(main())
