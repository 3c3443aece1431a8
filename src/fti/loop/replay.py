"""Live through a stretch of the past: its first and last day in; what was served, found and done each day, out.

    python -m fti.loop.replay --from 2013-10-01 --to 2014-01-01

It has a folder of its own, with features up to the first day and a model trained as of it, so that nobody's tables,
models or service are touched. Then, day by day: a cycle; the service, a process that runs all the while, is asked for
each row at the moment when its prediction is due; and the online store is filled as that day goes on. A day's events
land at its start, but at no moment is anything online that had not happened by then: rows bear their moments.
Killed, it goes on where it ended. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path

from fti.errors import Refusal, one_line
from fti.features.source import reach
from fti.loop.cycle import quiet_libraries
from fti.loop.faulty import FaultySource, fault_of
from fti.project import project
from fti.stores.landed import require_landed
from fti.times import moment


def main(argv: list[str] | None = None) -> int:
    adapter = project().source
    parser = argparse.ArgumentParser(prog="fti.loop.replay", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--from", type=moment, dest="first", required=True, help="the first day, UTC; training is as of it"
    )
    parser.add_argument("--to", type=moment, dest="last", required=True, help="the day after the last")
    parser.add_argument(
        "--folder", type=Path, default=project().root / "data" / "replay", help="where it lives (data/replay)"
    )
    parser.add_argument("--refresh-minutes", type=int, default=15, help="how often the online store is filled (15)")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        help=f"NAME@DATE of {', '.join(project().faults.FAULTS)}; may be repeated",
    )
    parser.add_argument("--raw", type=Path, default=None, help=f"folder of raw CSV files ({adapter.RawFiles.package})")
    options = parser.parse_args(argv)
    try:
        first, last = options.first, options.last
        if first >= last:
            raise ValueError(f"--from {first.isoformat()} is not before --to {last.isoformat()}")
        if not 1 <= options.refresh_minutes <= 1440:
            raise ValueError(f"--refresh-minutes is {options.refresh_minutes}; expected 1 to 1440")
        faults = [fault_of(text, project().faults.FAULTS) for text in options.fault]
    except (ValueError, Refusal) as error:
        parser.error(str(error))
    root = options.folder.resolve()
    try:
        require_landed(root / "feature_repo", {"--from": first, "--to": last}, source=reach())
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    # An end that was asked for is an exception like another: it ends the service on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    quiet_libraries()
    # Not above: they take ten seconds that a wrong command line should not wait for.
    from fti.loop.day import FAILURES
    from fti.loop.lived import Folder, run

    folder = Folder(root)
    folder.root.mkdir(parents=True, exist_ok=True)
    # MLflow puts the artifacts of a new SQLite registry into the folder it is in.
    os.chdir(folder.root)
    os.environ["MLFLOW_TRACKING_URI"] = folder.tracking_uri
    source = FaultySource(adapter.RawEvents(adapter.RawFiles(options.raw)), faults)
    try:
        with redirect_stdout(sys.stderr):  # Feast prints what it does
            came_to = run(folder, source, faults, first, last, timedelta(minutes=options.refresh_minutes))
    except FAILURES as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    print(came_to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
