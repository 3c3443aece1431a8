"""Live through a stretch of the past: its first and last day in; what was served, found and done each day, out.

    fti replay --from 2013-10-01 --to 2014-01-01

It has a folder of its own, with features up to the first day and a model trained as of it, so that nobody's tables,
models or service are touched. Then, day by day: a cycle; the service, a process that runs all the while, is asked for
each row at the moment when its prediction is due; and the online store is filled as that day goes on. A day's events
land at its start, but at no moment is anything online that had not happened by then: rows bear their moments.
Killed, it goes on where it ended. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path

from fti.command import alias, fail, wrong
from fti.features.source import reach
from fti.logs import quiet_output
from fti.loop.faulty import FaultySource, fault_of
from fti.project import project
from fti.stores.landed import require_landed


def main(argv: list[str] | None = None) -> int:
    return alias("fti.loop.replay", "fti.loop.commands:REPLAY", argv)


def execute(
    first: datetime, last: datetime, fault: tuple[str, ...], folder: Path | None, refresh_minutes: int, raw: Path | None
) -> int:
    """Live through `[first, last)`, and print what came of it; returns the exit code."""
    try:
        faults = [fault_of(text, project().faults.FAULTS) for text in fault]
    except ValueError as error:
        raise wrong(str(error)) from error
    root = (folder or project().root / "data" / "replay").resolve()
    require_landed(root / "feature_repo", {"--from": first, "--to": last}, source=reach())
    # An end that was asked for is an exception like another: it ends the service on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Not above: they take ten seconds that a wrong command line should not wait for.
    from fti.loop.day import FAILURES
    from fti.loop.lived import Folder, run

    lived = Folder(root)
    lived.root.mkdir(parents=True, exist_ok=True)
    # MLflow puts the artifacts of a new SQLite registry into the folder it is in.
    os.chdir(lived.root)
    os.environ["MLFLOW_TRACKING_URI"] = lived.tracking_uri
    adapter = project().source
    source = FaultySource(adapter.RawEvents(adapter.RawFiles(raw)), faults)
    try:
        with quiet_output():
            came_to = run(lived, source, faults, first, last, timedelta(minutes=refresh_minutes))
    except FAILURES as error:
        return fail(error)
    print(came_to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
