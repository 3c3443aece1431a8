"""Where landing begins, over a small pipeline; tests/project/journeys/test_cycle.py lives whole days."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable

from feature_repo.source import RawEvents, RawFiles
from fti.loop.day import open_cycle
from fti.serving.settings import ServingSettings
from fti.times import utc
from tests.small_repo import succeed

FIRST, LAST = "2013-07-01T12:00", "2013-07-03"


@pytest.mark.parametrize("landed", [True, False])
def test_the_first_cycle_goes_on_where_landing_by_hand_ended(folder: Path, landed):
    """Else what happened between them would never land; where nothing has landed, it is the day alone."""
    shutil.rmtree(folder / "data")
    if landed:
        for command in ("ingest", "publish"):
            succeed(folder, command, "--start", "2013-06-01", "--end", FIRST)
    settings = ServingSettings(
        feast_repo=folder / "feature_repo", prediction_log=f"sqlite:///{folder / 'predictions.db'}"
    )
    # The small source has no flights of four weeks later, which are what the schedule would tell of in these days.
    quiet = ["raw_schedule.enough_rows", "profile_schedule.share_of_usual_possible"]
    cycle = open_cycle(settings, RawEvents(RawFiles(folder / "raw")), quiet)
    done = cycle.step("land", utc(LAST))
    assert done.status == "done", done.said
    left = DeltaTable(str(folder / "data" / "raw" / "departures")).to_pandas().event_timestamp
    wanted = pd.date_range("2013-07-01" if landed else "2013-07-02", "2013-07-02T23:00", freq="h", tz="UTC")
    assert sorted(left) == list(wanted)
