"""Batch scoring of the real year: what it logs is what the service would have answered, once, whatever kills it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from fti.contract.predictions import open_log, read
from fti.serving import batch
from fti.serving.settings import ServingSettings

ROOT = Path(__file__).resolve().parents[3]
MODEL = "arrival-delay"
START = datetime(2013, 10, 2, tzinfo=UTC)
DAY, LEAD = timedelta(days=1), timedelta(hours=2)
# Runs batch scoring until it has written a day; then it says so and waits to be killed.
ONE_DAY = """
import pathlib, sys, time
from fti.serving import batch
real, written = batch.write, []
def write(*arguments):
    if written:
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(600)
    written.append(real(*arguments))
    return written[-1]
batch.write = write
batch.main(sys.argv[2:])
"""


pytestmark = pytest.mark.usefixtures("commands_see_workspace")


@pytest.fixture(scope="module")
def schedule(trained) -> pd.DataFrame:
    """All flights, and when the prediction of each is due."""
    from deltalake import DeltaTable

    flights = DeltaTable(trained.root / "data" / "features" / "flight_schedule").to_pandas()
    return flights.assign(due=flights.scheduled_departure - LEAD)


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def score(url, capsys) -> Callable[..., str]:
    """The command line on a log of its own; what it prints."""

    def run(*arguments: str, code: int = 0) -> str:
        assert batch.main([*arguments, "--url", url]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


def rows_in(url: str, start: datetime = START, days: int = 7) -> pd.DataFrame:
    return read(open_log(url), start, start + days * DAY)


def known_values() -> dict[str, list[str]]:
    from mlflow import MlflowClient

    from fti.contract.registered import fetch_version

    return fetch_version(MlflowClient().get_model_version(MODEL, "2"))[1].known_values


def test_every_flight_due_is_logged_once_as_of_its_own_prediction_time(score, url, schedule):
    """A second run leaves every row as it is, and says so; another version's rows stand beside them."""
    due = schedule[schedule.due.between(START, START + DAY, inclusive="left")]
    due = due[due.dest.isin(known_values()["dest"])]
    assert f"{len(due):,} predicted and logged, 0 there already" in score("--as-of", "2013-10-02")
    rows = rows_in(url)
    assert dict(zip(rows.row_key, rows.as_of, strict=True)) == dict(zip(due.flight_id, due.due, strict=True))
    assert rows.role.unique().tolist() == ["batch"]
    assert f"0 predicted and logged, {len(due):,} there already" in score("--as-of", "2013-10-02T00:00Z")
    pd.testing.assert_frame_equal(rows_in(url), rows)
    assert "version 1, 2013-10-02T00:00Z/2013-10-03T00:00Z" in score("--as-of", "2013-10-02", "--version", "1")
    assert rows_in(url).model_version.value_counts()["2"] == len(due)


def test_a_killed_run_goes_on_where_it_ended(score, url, tmp_path, monkeypatch):
    """Kept are the days it had written; in the end all is as if it had run through, however much is joined at once."""
    arguments = ["--as-of", "2013-10-02", "--days", "3"]
    reached = tmp_path / "reached"
    command = [sys.executable, "-c", ONE_DAY, str(reached), *arguments, "--url", url]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 600
        while not reached.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    kept = rows_in(url)
    assert kept.as_of.dt.floor("D").unique().tolist() == [START]
    assert f"{len(kept):,} there already" in score(*arguments)
    whole = f"sqlite:///{tmp_path / 'whole.db'}"
    monkeypatch.setattr(batch, "JOINED_DAYS", 1)
    assert batch.main([*arguments, "--url", whole]) == 0
    columns = ["as_of", "row_key", "request", "features", "prediction"]
    pd.testing.assert_frame_equal(rows_in(url)[columns], rows_in(whole)[columns], check_exact=True)


def test_what_the_model_does_not_know_is_counted_and_not_scored(score, url, schedule):
    """Airports that no training row had; the online service refuses them too."""
    unknown = schedule[(schedule.due >= START) & ~schedule.dest.isin(known_values()["dest"])]
    assert len(unknown), "the autumn has no new destination"
    first = unknown.sort_values("due").iloc[0]
    day = first.due.floor("D")
    missed = unknown[unknown.due.between(day, day + DAY, inclusive="left") & (unknown.dest == first.dest)]
    said = score("--as-of", day.isoformat())
    assert f"{len(missed)} skipped: the model knows no airport {first.dest}" in said
    rows = rows_in(url, day.to_pydatetime(), 1)
    assert len(rows)
    assert not set(rows.row_key) & set(missed.flight_id)


def test_it_says_what_the_service_would_have_said(score, url, trained, schedule, tmp_path):
    """Of all flights due at one moment, with the online store as of it: request, features and probability."""
    from mlflow import MlflowClient

    from fti.features.feast_steps import materialize
    from fti.scoring.loading import load
    from fti.scoring.served_model import Prediction

    day = schedule[schedule.due.between(START, START + DAY, inclusive="left")]
    moment = day[day.due != day.due.dt.floor("h")].due.mode()[0].to_pydatetime()
    repo = tmp_path / "feature_repo"
    shutil.copytree(trained.repo, repo, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(trained.root / "data" / "feast", tmp_path / "data" / "feast")
    (tmp_path / "data" / "features").symlink_to(trained.root / "data" / "features")
    materialize(repo, datetime(2012, 12, 1, tzinfo=UTC), moment)
    served = load(MlflowClient().get_model_version(MODEL, "2"), repo)
    score("--as-of", "2013-10-02")
    rows = rows_in(url)
    rows = rows[rows.as_of == moment]
    assert len(rows) >= 4
    for row in rows.to_dict("records"):
        request = {name: value for name, value in json.loads(row["request"]).items() if value is not None}
        asked, _ = served.parse(json.dumps(request).encode(), moment)
        (said,) = served.predict([asked])
        assert isinstance(said, Prediction)
        online = {one.name: said.row.values[one.name] for one in served.contract.interface.inputs}
        logged = json.loads(row["features"])
        assert list(logged) == list(online)
        numbers = [name for name, value in online.items() if isinstance(value, (int, float))]
        wanted = {name: online[name] for name in numbers}
        assert {name: logged[name] for name in numbers} == pytest.approx(wanted, abs=1e-12, rel=1e-12)
        assert all(logged[name] == online[name] for name in online.keys() - set(numbers))
        assert row["prediction"] == pytest.approx(said.value, abs=1e-12)
    assert rows.prediction.nunique() > 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--as-of", "2020-01-01"], "after what has landed in"),
        (
            ["--as-of", "2020-01-01", "--force"],
            "No row of 'flight_schedule' is to be predicted in 2020-01-01T00:00Z/2020-01-02",
        ),
        (["--as-of", "2013-10-02", "--version", "77"], "'arrival-delay' has no version 77"),
        (["--as-of", "2013-10-02", "--alias", "nobody"], "has no version with the alias 'nobody'"),
    ],
)
def test_what_cannot_be_scored_is_one_line(score, arguments, reason):
    """With what to do about it."""
    said = [line for line in score(*arguments, code=1).splitlines() if line.startswith(("error:", "Traceback"))]
    assert len(said) == 1
    assert reason in said[0]


def test_without_a_log_there_is_nowhere_to_write(capsys):
    """A service may do without; a batch without one would predict for nobody."""
    assert batch.main(["--as-of", "2013-10-02", "--url", "off"]) == 1
    assert "SERVING_PREDICTION_LOG is off; batch scoring writes there" in capsys.readouterr().err
    assert ServingSettings().prediction_log.endswith("data/predictions.db")
