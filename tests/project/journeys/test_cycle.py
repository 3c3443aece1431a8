"""The loop on the real year: a day done once, whatever kills it or starts it twice, and what the monitors set off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from feast import FeatureStore
from mlflow import MlflowClient
from sqlalchemy import delete, insert, select
from upath import UPath

from feature_repo.faults import CelsiusOnline, FrozenWeather
from feature_repo.source import RawEvents
from fti.contract.events import RETRAININGS
from fti.contract.predictions import BATCH, PREDICTIONS, create, open_log, read
from fti.contract.registered import CAUSE_TAG, fetch_version
from fti.contract.results import Result, save, saved
from fti.contract.spine import rows_due
from fti.features.publish import MONTH, merge_events
from fti.features.windows import Interval
from fti.loop import cycle as command
from fti.loop.day import CYCLE_STEPS, STEPS, Cycle, open_cycle
from fti.loop.faulty import FaultySource
from fti.loop.lived import Folder, ReplayStopped
from fti.loop.lived import run as run_replay
from fti.project import project
from fti.serving.settings import ServingSettings
from tests.conftest import ROOT, Workspace, copy_registry, empty

MODEL, DAY = "arrival-delay", timedelta(days=1)
AS_OF = datetime(2013, 10, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def lived(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A copy of the workspace to live in: tables, and a registry whose champion is the small model."""
    copy = Workspace(tmp_path_factory.mktemp("lived"))
    shutil.copytree(trained.repo, copy.repo)
    shutil.copytree(trained.root / "data", copy.root / "data", ignore=shutil.ignore_patterns("predictions.db*"))
    copy_registry(trained, copy.root)
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MLFLOW_TRACKING_URI", copy.tracking_uri)
        here.delenv("SERVING_FEAST_REPO", raising=False)
        MlflowClient().set_registered_model_alias(MODEL, "champion", "1")
        yield copy


def settings_of(lived: Workspace, log: Path) -> ServingSettings:
    return ServingSettings(feast_repo=lived.repo, prediction_log=f"sqlite:///{log}")


@pytest.fixture
def opened(lived, tmp_path) -> Cycle:
    return open_cycle(settings_of(lived, tmp_path / "log.db"), FaultySource(RawEvents(), []))


def arguments(lived: Workspace, log: Path, *more: str) -> list[str]:
    return ["--as-of", f"{AS_OF:%Y-%m-%d}", "--repo", str(lived.repo), "--url", f"sqlite:///{log}", *more]


def start(lived: Workspace, log: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fti.loop.cycle", *arguments(lived, log, *more)],
        cwd=ROOT, env=os.environ | {"MLFLOW_TRACKING_URI": lived.tracking_uri},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def steps_in(cycle: Cycle) -> dict[str, dict[str, object]]:
    """The last attempt at each step."""
    with cycle.engine.connect() as connection:
        rows = connection.execute(select(CYCLE_STEPS).order_by(CYCLE_STEPS.c.attempt)).mappings()
        return {row["step"]: dict(row) for row in rows}


def versions(lived: Workspace) -> dict[str, int]:
    return {str(log.parent): DeltaTable(log.parent).version() for log in lived.root.glob("data/*/*/_delta_log")}


def batch_rows(cycle: Cycle):
    rows = read(cycle.engine, AS_OF, AS_OF + DAY)
    return rows.drop(columns=["request_id", "predicted_at", "row"])


def test_a_replay_asks_the_running_service_at_the_moments_of_the_day(lived):
    """A day with a fault, over a folder that has its tables and its model: what is asked, served, logged and found.

    The first test here: later ones put newer rows online.
    """
    day, folder = datetime(2013, 10, 2, tzinfo=UTC), Folder(lived.root)
    feature = "carrier_origin_mean_arr_delay_7d"  # of what the small model reads
    source, fault = FaultySource(RawEvents(), []), CelsiusOnline(day, day + DAY, "carrier_origin_reliability", feature)
    said = run_replay(folder, source, [fault], day, day + DAY, timedelta(hours=2))
    engine = open_log(folder.settings.prediction_log)
    served = read(engine, day, day + DAY).query("role == 'champion'")
    store = FeatureStore(repo_path=str(lived.repo))
    version = MlflowClient().get_model_version_by_alias(MODEL, "champion")
    due = rows_due(store, fetch_version(version)[1].interface, day, day + DAY)
    # Each flight once, as of two hours before it leaves; but for the one to an airport that the model does not know.
    assert len(due) - len(served) == 1
    assert set(served.request_id) < {f"replay-{flight}" for flight in due.flight_id}
    assert set(served.as_of) <= set(due.event_timestamp)
    # Nothing that was online had not happened yet.
    ages = pd.DataFrame([json.loads(text) for text in served.ages])
    assert (ages.stack() >= 0).all()
    assert ages.notna().any().all()

    found = {(one.monitor, one.metric): one for one in saved(engine, day + DAY) if one.subject.endswith("champion")}
    assert found["consistency", feature].verdict == "breach"
    assert "never had these values" in found["consistency", feature].details
    assert "answered" in said
    assert "The report is" in said

    # Done is done: again, nobody is asked.
    run_replay(folder, source, [fault], day, day + DAY, timedelta(hours=2))
    assert len(read(engine, day, day + DAY).query("role == 'champion'")) == len(served)
    with pytest.raises(ReplayStopped, match="2013-10-02"):
        folder.prepare(source, day + DAY)


def test_a_day_is_done_once(lived, tmp_path, capsys, monkeypatch):
    """And what was predicted too long ago is deleted, which in production the service may not do."""
    log, old = tmp_path / "log.db", {"predicted_at": AS_OF - 31 * DAY, "as_of": AS_OF - 300 * DAY}
    engine = open_log(f"sqlite:///{log}")
    create(engine)
    texts = dict.fromkeys((one.name for one in PREDICTIONS.columns if one.type.python_type is str), "{}")
    with engine.begin() as connection:
        connection.execute(insert(PREDICTIONS), [texts | {"role": BATCH, "row": 0, "prediction": 0.5} | old])
    monkeypatch.setenv("SERVING_LOG_RETENTION_DAYS", "30")
    code = command.main(arguments(lived, log))
    first = capsys.readouterr().out.splitlines()
    assert first[STEPS.index("monitor")].endswith("; 1 predictions made over 30 days ago deleted")
    assert [line.split()[0] for line in first[: len(STEPS)]] == list(STEPS)
    assert {line.split()[1] for line in first[: len(STEPS)]} == {"done"}, first
    cycle = open_cycle(settings_of(lived, log), FaultySource(RawEvents(), []))
    assert code == (3 if cycle.verdict(AS_OF) == "breach" else 0)
    assert {one.monitor for one in saved(cycle.engine, AS_OF)} >= {"freshness", "volume", "consistency"}
    rows = batch_rows(cycle)
    # Scored ahead: every flight of the day, from what was known when it began.
    assert len(rows) > 500
    assert set(rows.as_of) == {AS_OF}
    assert set(rows.role) == {BATCH}

    before = versions(lived)
    assert command.main(arguments(lived, log)) == code
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()[: len(STEPS)]} == {"there"}
    assert versions(lived) == before
    assert batch_rows(cycle).equals(rows)

    # Made to do all again, it changes nothing but the moments of the commits, and makes up for what was lost.
    with cycle.engine.begin() as connection:
        connection.execute(delete(PREDICTIONS).where(PREDICTIONS.c.row < 100))
    assert command.main(arguments(lived, log, "--again")) == code
    assert batch_rows(cycle).equals(rows)


def test_killed_in_any_step_it_goes_on_there(lived, opened, tmp_path):
    """One log, killed in each of the steps in turn; then it ends as one that nobody killed."""
    log = tmp_path / "log.db"
    killed = []
    for step in STEPS[:-1]:  # without a breach the last does nothing: its own test kills it
        process = start(lived, log)
        until = time.monotonic() + 600
        while step not in (found := steps_in(opened)) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = steps_in(opened)
        killed += [step] if found[step]["status"] == "running" else []
        assert all(found[one]["status"] == "done" for one in STEPS[: STEPS.index(step)])
    assert len(killed) >= 3, killed
    process = start(lived, log)
    err = process.communicate(timeout=900)[1]
    assert process.returncode in (0, 3), err
    assert {one["status"] for one in steps_in(opened).values()} == {"done"}
    assert all(steps_in(opened)[step]["attempt"] == 2 for step in killed)
    other = open_cycle(settings_of(lived, tmp_path / "other.db"), FaultySource(RawEvents(), []))
    other.run(AS_OF, STEPS[:3])
    assert batch_rows(opened).equals(batch_rows(other))


def test_started_twice_the_second_waits_and_finds_it_done(lived, opened, tmp_path):
    both = [start(lived, tmp_path / "log.db", "--steps", "land,materialize,score") for _ in range(2)]
    said = [process.communicate(timeout=900) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    statuses = sorted([line.split()[1] for line in out.splitlines()] for out, _ in said)
    assert statuses == [["done"] * 3, ["there"] * 3]
    assert any("waits" in err for _, err in said)
    assert {one["attempt"] for one in steps_in(opened).values()} == {1}
    assert batch_rows(opened).row_key.is_unique


def test_a_refused_landing_keeps_nothing_else_from_its_part_and_is_made_up_for(lived, tmp_path, monkeypatch):
    fault = FrozenWeather(AS_OF - DAY, AS_OF)
    source = FaultySource(RawEvents(), [fault])
    cycle = open_cycle(settings_of(lived, tmp_path / "log.db"), source)
    assert cycle.step("land", AS_OF - DAY).status == "done"
    source.now = AS_OF - timedelta(hours=1)
    done = {one.step: one for one in cycle.run(AS_OF, ("land", "materialize", "score"))}
    assert done["land"].status == "refused"
    assert "profile_weather" in done["land"].said
    assert done["materialize"].status == done["score"].status == "done"
    source.now = AS_OF + DAY  # the feed is back, with what it had not sent
    made_up = cycle.step("land", AS_OF + DAY)
    assert made_up.status == "done", made_up
    assert made_up.said.startswith("2013-10-04T00:00Z/2013-10-06T00:00Z")
    # Done again, the refused day is landed, and what made do without it is done anew, too; then there is nothing to do.
    assert [one.status for one in cycle.run(AS_OF, ("land", "materialize", "score"))] == ["done"] * 3
    assert [one.status for one in cycle.run(AS_OF, ("land", "materialize", "score"))] == ["there"] * 3


def test_an_online_store_that_was_emptied_is_filled_anew_and_told_of(lived, opened):
    """Not only what landed since: all of it; and somebody is to hear of it."""
    assert [one.status for one in opened.run(AS_OF, ("land", "materialize"))] == ["done", "done"]
    assert "filled anew" not in opened.step("materialize", AS_OF + timedelta(hours=1)).said
    before = online_keys(lived)
    empty(lived.online_store)
    said = opened.step("materialize", AS_OF + timedelta(hours=2)).said
    assert said.startswith("rows of 2012-12-01")
    assert "online rows were lost of aircraft_departures, " in said
    assert before
    assert before <= online_keys(lived)
    (mine,) = opened._own_results(AS_OF + timedelta(hours=2))
    assert (mine.subject, mine.verdict) == ("materialize", "breach")
    assert "online rows were lost" in mine.details


def test_a_row_that_was_restated_late_is_sent_online_by_the_next_cycle(lived, opened):
    """However old it is: the newest of its key. Who landed it was killed before he materialized."""
    assert [one.status for one in opened.run(AS_OF, ("land", "materialize"))] == ["done", "done"]
    store, path = FeatureStore(repo_path=str(lived.repo)), lived.root / "data" / "raw" / "aircraft"
    planes = DeltaTable(path).to_pyarrow_table().slice(0, 1)
    (tail,), (seats,) = planes["tailnum"].to_pylist(), planes["seats"].to_pylist()
    more = planes.drop_columns([MONTH]).set_column(
        planes.schema.get_field_index("seats"), "seats", pa.array([seats + 1])
    )

    def online() -> int:
        asked = store.get_online_features(["aircraft_profile:tail_seats"], [{"tailnum": tail}])
        return asked.to_dict()["tail_seats"][0]

    assert online() == seats
    merge_events(UPath(path), more, ["tailnum"])
    next_hour = AS_OF + timedelta(hours=1)
    assert opened.step("land", next_hour).status == "done"
    opened.pipeline.publish(Interval(AS_OF, next_hour))  # and there is nothing left to publish
    assert opened.step("materialize", next_hour).said.startswith("rows of 2012-12-01")
    assert online() == seats + 1
    assert opened.step("materialize", next_hour + timedelta(hours=1)).said.startswith("rows of 2013-10-05")


def online_keys(lived: Workspace) -> set[tuple[str, bytes]]:
    """Each view's table, and the keys in it."""
    with closing(sqlite3.connect(lived.online_store)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {(name, key) for name in names for (key,) in connection.execute(f'SELECT entity_key FROM "{name}"')}


def breach(as_of: datetime, version: str = "1") -> Result:
    subject = f"{MODEL} version {version}, champion"
    return Result("quality", as_of - 9 * DAY, as_of - 2 * DAY, subject, "roc_auc", 0.6, 900, "breach")


def test_two_breaches_train_a_version_that_the_gate_judges(lived, opened, tmp_path):
    """The real training pipeline, by `mlflow run`. The cycle is killed behind the training, which goes on by itself:
    the next one waits for that, and trains nothing a second time."""
    for as_of in (AS_OF - DAY, AS_OF):
        save(opened.engine, as_of, [breach(as_of)])
    process = start(lived, tmp_path / "log.db", "--steps", "retrain")
    client, until = MlflowClient(), time.monotonic() + 600
    newest = lambda: max(client.search_model_versions(f"name = '{MODEL}'"), key=lambda one: int(one.version))  # noqa: E731
    while newest().tags.get(CAUSE_TAG) is None and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    version = newest()
    assert version.tags[CAUSE_TAG] == "monitors as of 2013-10-05T00:00Z"

    done = opened.step("retrain", AS_OF)
    assert done.status == "done", done
    assert newest().version == version.version, "it was trained twice"
    judged = client.get_model_version(MODEL, version.version)
    champion = str(client.get_model_version_by_alias(MODEL, "champion").version)
    assert judged.tags["gate.decision"] in ("passed", "failed")
    assert (champion == str(version.version)) == (judged.tags["gate.decision"] == "passed")
    with opened.engine.connect() as connection:
        (row,) = connection.execute(select(RETRAININGS)).mappings()
    assert row["run_id"] == version.run_id
    assert row["version"] == str(version.version)
    assert row["decision"] == judged.tags["gate.decision"]
    assert (row["champion_before"], row["champion_after"]) == ("1", champion)
    assert "quality roc_auc 0.6" in row["reasons"]
    assert client.get_run(version.run_id).data.tags[CAUSE_TAG] == version.tags[CAUSE_TAG]
    save(opened.engine, AS_OF, [breach(AS_OF, champion)])
    save(opened.engine, AS_OF + DAY, [breach(AS_OF + DAY, champion)])
    assert opened.step("retrain", AS_OF + DAY).said.startswith("cool_down")


@pytest.fixture
def dagster_sees(lived, tmp_path, monkeypatch) -> Cycle:
    """What the environment tells Dagster's code location; the cycle that it opens."""
    monkeypatch.setenv("SERVING_FEAST_REPO", str(lived.repo))
    monkeypatch.setenv("SERVING_PREDICTION_LOG", f"sqlite:///{tmp_path / 'log.db'}")
    return open_cycle(ServingSettings(), FaultySource(RawEvents(), []))


def test_dagster_does_what_the_cycle_does(lived, dagster_sees):
    """A day's partition: the same steps, with the suites and the monitors as checks of the assets."""
    from dagster import DagsterInstance, materialize

    from fti.loop.dagster import ASSETS, CHECKS

    with DagsterInstance.ephemeral() as instance:
        result = materialize(ASSETS[:-1], partition_key="2013-10-04", instance=instance, raise_on_error=False)
    assert result.success
    assert {name: one["status"] for name, one in steps_in(dagster_sees).items()} == dict.fromkeys(STEPS[:-1], "done")
    checks = {(one.asset_key.to_user_string(), one.check_name): one for one in result.get_asset_check_evaluations()}
    assert {name for asset, name in checks if asset == "land"} == set(CHECKS["land"])
    assert {name for asset, name in checks if asset == "monitor"} == set(CHECKS["monitor"])
    assert checks["land", "raw_weather"].passed
    # The log has nothing that was answered yet, so nothing is in breach for what it says of drift.
    assert checks["monitor", "freshness"].passed
    assert len(batch_rows(dagster_sees)) > 500


def test_dagster_fails_what_the_gate_refuses_and_does_not_try_again(dagster_sees, monkeypatch):
    from dagster import DagsterInstance, materialize

    from fti.loop import dagster as definitions

    source = FaultySource(RawEvents(), [FrozenWeather(AS_OF - DAY, AS_OF)])
    monkeypatch.setattr(project().source, "RawEvents", lambda: source)
    with DagsterInstance.ephemeral() as instance:
        result = materialize(
            definitions.ASSETS[:2], partition_key="2013-10-04", instance=instance, raise_on_error=False
        )
    assert not result.success
    checks = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert not checks["profile_weather"].passed
    assert checks["profile_departures"].passed
    assert {name: one["attempt"] for name, one in steps_in(dagster_sees).items()} == {"land": 1}
    assert not any(event.is_step_up_for_retry for event in result.all_events)


def test_the_sensor_asks_for_a_retraining_when_the_monitors_do(dagster_sees):
    from dagster import SkipReason, build_sensor_context

    from fti.loop.dagster import defs, retrain_sensor

    assert {one.name for one in defs.schedules} == {"daily_schedule"}
    assert isinstance(retrain_sensor(build_sensor_context()), SkipReason)
    save(dagster_sees.engine, AS_OF - DAY, [breach(AS_OF - DAY)])
    assert isinstance(retrain_sensor(build_sensor_context()), SkipReason)
    save(dagster_sees.engine, AS_OF, [breach(AS_OF)])
    request = retrain_sensor(build_sensor_context())
    assert request.partition_key == "2013-10-04"
    assert request.run_key == "retrain 2013-10-05T00:00:00+00:00"
