"""One complete day: a moment in; landed, served, scored and monitored as of it, and perhaps a new champion, out.

    python -m fti.loop.cycle --as-of 2013-10-05

The steps, in this order: land (ingest, validate, publish), materialize, score (the day that comes), monitor, retrain.
Each that is done is a row of `cycle_steps` beside the log of predictions, and is not done again: a cycle that was
killed goes on where it ended, and one that is started twice waits for the other and finds nothing to do. A step that
is refused does not keep the others from doing their part with what there is. Exit codes: 0 done, 1 a step was refused
or failed, 2 wrong usage, 3 all was done and something is in breach.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path

from fti.contract.events import MONITORED_DAYS, STEPS
from fti.errors import Refusal, one_line
from fti.features.source import reach
from fti.project import project
from fti.serving.settings import ServingSettings
from fti.stores.landed import require_landed
from fti.times import length, moment

BREACHED = 3


def quiet_libraries() -> None:
    """One log line a step: what the libraries have to say is kept to errors."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for mine in ("step", "cycle"):
        logging.getLogger(mine).setLevel(logging.INFO)
    # py.warnings: Feast 0.67 calls every on-demand view experimental, SQLAlchemy tells its plans, at every start.
    for noisy in ("great_expectations", "feast", "py4j", "ibis", "matplotlib", "py.warnings", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.captureWarnings(True)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def main(argv: list[str] | None = None) -> int:
    source = project().source
    settings = ServingSettings()
    parser = argparse.ArgumentParser(prog="fti.loop.cycle", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--as-of", type=moment, required=True, help="the end of the day to land and the start of the one to score, UTC"
    )
    parser.add_argument("--repo", type=Path, default=settings.feast_repo, help="Feast repository (SERVING_FEAST_REPO)")
    parser.add_argument(
        "--url", default=settings.prediction_log, help="the log of predictions (SERVING_PREDICTION_LOG)"
    )
    parser.add_argument("--raw", type=Path, default=None, help=f"folder of raw CSV files ({source.RawFiles.package})")
    parser.add_argument(
        "--days",
        type=length(1, timedelta(days=1)),
        default=MONITORED_DAYS,
        help=f"that the monitors look at ({MONITORED_DAYS})",
    )
    parser.add_argument(
        "--refresh-minutes", type=length(0, timedelta(minutes=1), fractions=True), default=0,
        help="how late the online store may be between two cycles (0)",
    )  # fmt: skip
    parser.add_argument("--steps", default=",".join(STEPS), help=f"only these ({','.join(STEPS)})")
    parser.add_argument("--again", action="store_true", help="also what is done already")
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="SUITE.RULE",
        help="only report what breaks this batch rule now",
    )
    parser.add_argument("--force", action="store_true", help="take a moment of which the source has nothing to land")
    options = parser.parse_args(argv)
    as_of, steps = options.as_of, tuple(options.steps.split(","))
    if unknown := [one for one in steps if one not in STEPS]:
        parser.error(f"--steps names {', '.join(unknown)}; there are {', '.join(STEPS)}")
    told = settings.model_copy(update={"feast_repo": options.repo.resolve(), "prediction_log": options.url})
    try:
        require_landed(told.feast_repo, {"--as-of": as_of}, options.force, reach())
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    quiet_libraries()
    # Not above: they take ten seconds that a wrong command line should not wait for.
    from fti.loop.day import FAILURES, open_cycle

    try:
        refresh = timedelta(minutes=options.refresh_minutes)
        cycle = open_cycle(told, source.RawEvents(source.RawFiles(options.raw)), options.accept, options.days, refresh)
        with redirect_stdout(sys.stderr):  # Feast prints what it does
            done = cycle.run(as_of, steps, options.again)
        verdict = cycle.verdict(as_of)
    except FAILURES as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    print(*done, sep="\n")
    if any(one.status in ("refused", "failed") for one in done):
        return 1
    return BREACHED if verdict == "breach" else 0


if __name__ == "__main__":
    sys.exit(main())
