"""A monitor run is taken back: what it found, the report and the metrics, in a real database and real files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fti.contract.predictions import create, open_log
from fti.contract.results import Result, save, saved
from fti.monitoring.undo import main

DAY = timedelta(days=1)
MEANT, MISTYPED = datetime(2013, 10, 8, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)


def found(as_of: datetime) -> Result:
    return Result("freshness", as_of - DAY, as_of, "origin_weather", "hours", 142_464.0, 1, "breach")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


def undo(url: str, tmp_path: Path, as_of: str) -> int:
    files = ["--report", str(tmp_path / "report.html"), "--prometheus", str(tmp_path / "monitor.prom")]
    return main(["--as-of", as_of, "--url", url, *files])


def test_a_run_that_is_taken_back_leaves_what_was_there_before(url, tmp_path, capsys):
    """Its rows go, the report and the metrics are those of the newest run that is left."""
    engine = open_log(url)
    create(engine)
    for as_of in (MEANT - DAY, MEANT, MISTYPED):
        save(engine, as_of, [found(as_of)])
    assert undo(url, tmp_path, "2030-01-01") == 0
    assert "1 results as of 2030-01-01T00:00Z deleted; the report is as of 2013-10-08T00:00Z" in capsys.readouterr().out
    assert (saved(engine, MISTYPED), len(saved(engine, MEANT))) == ([], 1)
    assert "2030" not in (tmp_path / "report.html").read_text()
    (line,) = [
        one for one in (tmp_path / "monitor.prom").read_text().splitlines() if one.startswith("fti_monitor_as_of")
    ]
    assert float(line.split()[1]) == MEANT.timestamp()
    (tmp_path / "report.html").unlink()  # as if the first call had been killed before it wrote
    assert undo(url, tmp_path, "2030-01-01") == 1
    assert "No result as of 2030-01-01" in capsys.readouterr().err
    assert (tmp_path / "report.html").exists()
    for day in ("2013-10-07", "2013-10-08"):
        assert undo(url, tmp_path, day) == 0
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "monitor.prom").exists()


def test_a_log_that_is_not_there_is_not_made(url, tmp_path, capsys):
    """Who only looks says which command makes it."""
    assert undo(url, tmp_path, "2013-10-08") == 1
    assert "There is no log of predictions at" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []
