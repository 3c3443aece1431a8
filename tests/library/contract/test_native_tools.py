"""The Python of docs/how-to/native-tools.md, as it stands there, over a small repository with a champion."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import numpy as np

from tests import champions, small_repo
from tests.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "native-tools.md"


def test_the_page_reads_features_and_scores_frames_in_twenty_lines(folder):
    """A forecast for two rows read online and one read from history, each a probability under its name."""
    (block,) = [block for block in blocks(PAGE) if block.language == "python"]
    assert len([line for line in block.text.splitlines() if line.strip()]) <= 20
    small_repo.succeed(folder, "apply")
    small_repo.succeed(folder, "materialize", "--as-of", "2013-07-03")
    champions.register(
        folder / "feature_repo", "arrival-delay", "arrival_delay_v2",
        datetime(2013, 7, 1, tzinfo=UTC), datetime(2013, 7, 3, tzinfo=UTC), {},
        labels=lambda found: found.where(np.arange(len(found)) % 3 > 0, 1),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", block.text], cwd=folder, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[-1] for line in lines if len(line) in (1, 3)] == ["probability", "probability"]
    forecasts = [float(line[-1]) for line in lines if line[0].isdigit()]
    assert len(forecasts) == 3
    assert all(0 <= forecast <= 1 for forecast in forecasts)
