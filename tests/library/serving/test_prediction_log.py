"""The log of predictions on real databases, SQLite and Postgres: exact rows, and what happens while one is away."""

from __future__ import annotations

import json
import math
import multiprocessing
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from fti.contract.predictions import LogUnusable, create, delete_before, open_log, read
from fti.serving import metrics
from fti.serving.prediction_log import LoggedPrediction, PredictionLog, stored, write

PATIENCE = 20
NOW = datetime(2013, 10, 2, 14, 30, 15, 123_456, tzinfo=UTC)
ALWAYS = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@contextmanager
def log_to(url: str | Path, **options: Any) -> Iterator[PredictionLog]:
    log = PredictionLog(f"sqlite:///{url}" if isinstance(url, Path) else url, **options)
    try:
        yield log
    finally:
        log.close()


def prediction(number: int = 0, **change: Any) -> LoggedPrediction:
    values: dict[str, Any] = {
        "request_id": f"request-{number}", "row": 0, "role": "champion", "predicted_at": NOW, "as_of": NOW,
        "model_name": "arrival-delay", "model_version": "2", "contract_sha256": "ab" * 32,
        "feature_service": "arrival_delay_v2", "request": {"carrier": "DL"}, "features": {"wind": 3.5},
        "ages": {"origin_weather": timedelta(minutes=12)}, "prediction": 0.1 + 0.2, "latency_ms": 1.5,
    }  # fmt: skip
    return LoggedPrediction(**values | change)


def rows_in(url: str | Path) -> list[dict[str, Any]]:
    engine = open_log(f"sqlite:///{url}" if isinstance(url, Path) else url)
    return read(engine, *ALWAYS).to_dict("records")


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s"
        time.sleep(0.01)


def waiting() -> float:
    """What the metric says; the log that was put to last, or has written last, has set it."""
    (metric,) = metrics.LOG_QUEUE.collect()
    (sample,) = metric.samples
    return sample.value


def impatient(file: Path) -> str:
    """A log that waits for no lock."""
    return f"sqlite:///{file}?timeout=0.05"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another process's lock on the file."""
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('BEGIN IMMEDIATE'); print('held'); input()"
    command = [sys.executable, "-uc", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate("\n", PATIENCE)


# ---- what is stored ------------------------------------------------------------------------------------------------


def test_a_row_comes_back_as_it_was(url):
    """Moments aware and to the microsecond, probabilities to the last bit, ages in seconds, no row key."""
    with log_to(url) as log:
        log.put([prediction()])
    (row,) = rows_in(url)
    assert row["as_of"] == row["predicted_at"] == NOW
    assert row["as_of"].utcoffset() == timedelta()
    assert row["prediction"] == 0.1 + 0.2
    assert (row["request_id"], row["row"], row["role"], row["row_key"]) == ("request-0", 0, "champion", None)
    assert [json.loads(row[name]) for name in ("request", "features", "ages")] == [
        {"carrier": "DL"}, {"wind": 3.5}, {"origin_weather": 720.0},
    ]  # fmt: skip
    assert (log.written, log.dropped, log.failures, log.queued) == (1, 0, 0, 0)


def test_json_is_strict(url):
    """NaN and infinity are null, moments are ISO 8601, and what is in the text is escaped."""
    moment = datetime(2013, 10, 2, 16, 30, tzinfo=UTC)
    features = {"nan": math.nan, "inf": math.inf, "least": -math.inf, "none": None, "text": 'a"\x00\n\u2028', "n": 7}
    with log_to(url) as log:
        log.put([prediction(features=features, request={"scheduled_departure": moment})])
    (row,) = rows_in(url)

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    found = json.loads(row["features"], parse_constant=refuse)
    assert found == features | {"nan": None, "inf": None, "least": None}
    assert json.loads(row["request"]) == {"scheduled_departure": "2013-10-02T16:30:00Z"}


def as_before(url: str) -> None:
    """Make the log as it was when all predictions were probabilities."""
    engine = open_log(url)
    create(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE predictions RENAME COLUMN prediction TO probability"))


def test_a_log_from_before_keeps_its_rows_and_takes_new_ones(url):
    """The column that was called probability is called prediction, once, whoever opens the log first or again."""
    with log_to(url) as log:
        log.put([prediction(number, prediction=number / 7) for number in range(5)])
    kept = rows_in(url)
    as_before(url)
    with open_log(url).connect() as connection:
        found = connection.execute(text("SELECT probability FROM predictions ORDER BY request_id")).scalars().all()
    assert found == [number / 7 for number in range(5)]
    for _ in range(2):
        create(open_log(url))
        assert rows_in(url) == kept
    with log_to(url) as log:
        log.put([prediction(5, prediction=31.5), prediction(0)])
    assert rows_in(url) == [*kept, kept[0] | {"request_id": "request-5", "prediction": 31.5}]
    assert {index["name"] for index in inspect(open_log(url)).get_indexes("predictions")} >= {"predictions_by_time"}


def test_several_that_open_a_log_from_before_at_once_rename_once(url):
    as_before(url)
    with ThreadPoolExecutor(8) as pool:
        for opened in [pool.submit(create, open_log(url)) for _ in range(8)]:
            opened.result()
    assert "prediction" in {column["name"] for column in inspect(open_log(url)).get_columns("predictions")}


def test_who_may_only_add_waits_until_the_owner_has_renamed(postgres):
    """In production serving may not alter a table: its rows wait in memory, and none is lost."""
    url = postgres.replace("DATABASE", "postgres")
    as_before(url)
    owner = open_log(url)
    with owner.begin() as connection:
        connection.execute(text("CREATE ROLE adds LOGIN"))
        connection.execute(text("GRANT SELECT, INSERT ON predictions TO adds"))
    with log_to(owner.url.set(username="adds").render_as_string(hide_password=False)) as log:
        log.put([prediction()])
        until(lambda: log.failures)
        assert log.queued == 1
        create(owner)
        until(lambda: log.written)
    assert [row["prediction"] for row in rows_in(url)] == [0.1 + 0.2]


def test_ranges_hold_their_start_and_not_their_end(url):
    """In order of `as_of`, also before 1970 and to the microsecond."""
    moments = [NOW, NOW + timedelta(microseconds=1), NOW - timedelta(days=20_000), NOW - timedelta(microseconds=1)]
    with log_to(url) as log:
        log.put([prediction(number, as_of=moment) for number, moment in enumerate(moments)])
    found = read(open_log(url), NOW - timedelta(microseconds=1), NOW + timedelta(microseconds=1))
    assert found.as_of.tolist() == [moments[3], moments[0]]
    assert read(open_log(url), NOW - timedelta(days=30_000), NOW).as_of.tolist() == [moments[2], moments[3]]


def test_a_row_is_stored_once(url):
    """Online rows by request, row and role; batch rows by key, moment and version, whichever run they are of."""
    engine = open_log(url)
    create(engine)
    create(engine)
    online = [prediction(), prediction(row=1), prediction(role="shadow")]
    flight = {"role": "batch", "row_key": "UA1", "latency_ms": None}
    batch = [
        prediction(1, **flight), prediction(1, row=1, **flight | {"row_key": "UA2"}),
        prediction(1, row=2, **flight | {"model_version": "1"}),
    ]  # fmt: skip
    values = [stored(row, engine.dialect) for row in online + batch]
    again = [stored(prediction(2, **flight, prediction=0.9), engine.dialect)]
    assert [write(engine, values), write(engine, values + again)] == [6, 0]
    assert len(rows_in(url)) == 6


def test_a_row_that_cannot_be_stored_costs_no_other(url, caplog):
    """It is dropped, and the log says why."""
    bad = [prediction(7, role="nobody"), prediction(8, request={"carrier": "\ud800"}), prediction(9, prediction=None)]
    with log_to(url) as log:
        log.put([prediction(0), *bad, prediction(1)])
    assert {row["request_id"] for row in rows_in(url)} == {"request-0", "request-1"}
    assert (log.written, log.dropped, log.failures) == (2, 3, 0)
    assert caplog.text.count("a prediction cannot be logged") == 3


def test_monitoring_and_retention_need_no_scan_of_the_table(file):
    """Each of their questions is answered by an index."""
    engine = open_log(f"sqlite:///{file}")
    create(engine)
    asked = ["as_of >= 0 AND as_of < 9", "predicted_at >= 0 AND model_version = '2'", "predicted_at < 9"]
    with engine.connect() as connection:
        for where in asked:
            plan = connection.execute(text(f"EXPLAIN QUERY PLAN SELECT * FROM predictions WHERE {where}")).all()
            assert "USING INDEX" in plan[0].detail, where
    assert inspect(engine).get_unique_constraints("predictions")


# ---- databases that are away ---------------------------------------------------------------------------------------


def test_put_does_not_wait_for_a_lock_and_what_does_not_fit_is_counted(file, caplog):
    """The rows that fit are written once the other process lets go; the trouble is one line, its end another."""
    with log_to(impatient(file), queue_size=40, batch_rows=10) as log:
        until(lambda: log._created)
        with locked(file):
            began = time.perf_counter()
            for number in range(60):
                log.put([prediction(number)])
            assert time.perf_counter() - began < 0.1
            assert (log.queued, log.dropped, waiting()) == (40, 20, 40)
            until(lambda: log.failures >= 3)
            assert (log.written, waiting()) == (0, 40)
        until(lambda: log.written == 40 and waiting() == 0)
        assert (log.queued, log.dropped) == (0, 20)
        log.put([prediction(100)])
    assert len(rows_in(file)) == 41
    assert caplog.text.count("database is locked") == 1
    assert caplog.text.count("predictions are logged again; 20 were dropped") == 1


def test_a_file_that_was_deleted_is_made_again(file):
    """With its table; nothing is written into the file that is no more."""
    with log_to(file) as log:
        log.put([prediction(0)])
        until(lambda: log.written == 1)
        for one in file.parent.glob("log.db*"):
            one.unlink()
        log.put([prediction(1)])
        until(lambda: log.written == 2)
    assert [row["request_id"] for row in rows_in(file)] == ["request-1"]


def test_a_full_disk_keeps_the_rows_until_there_is_room(file, caplog):
    """A file that may not grow is to SQLite what a full disk is."""
    with log_to(file) as log:
        log.put([prediction(0)])
        until(lambda: log.written == 1)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limits[1]))
        try:
            log.put([prediction(number, features={"text": "x" * 5000}) for number in range(1, 101)])
            until(lambda: log.failures)
            assert (log.written, log.queued) == (1, 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        until(lambda: log.written == 101)
    assert len(rows_in(file)) == 101
    assert "predictions cannot be logged" in caplog.text


def test_a_file_that_is_no_database_is_left_as_it_is(file, caplog):
    """Rows wait until somebody takes it away."""
    file.write_text("a letter to my aunt, of more than sixteen bytes")
    with log_to(file) as log:
        log.put([prediction()])
        until(lambda: log.failures)
        assert file.read_text().startswith("a letter")
        file.unlink()
        until(lambda: log.written == 1)
    assert "file is not a database" in caplog.text


def test_a_database_that_comes_later_gets_the_rows(postgres, caplog):
    """A Postgres without the database yet; its password is in no log."""
    name = "later"
    url = postgres.replace("DATABASE", name).replace("postgres:@", "postgres:secret@")
    with log_to(url) as log:
        log.put([prediction()])
        until(lambda: log.failures)
        with open_log(postgres.replace("DATABASE", "postgres")).connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(f"CREATE DATABASE {name}"))
        until(lambda: log.written == 1)
    assert "does not exist" in caplog.text
    assert "secret" not in caplog.text


# ---- many, and the end ---------------------------------------------------------------------------------------------


def write_many(url: str, process: int, rows: int, found: Any) -> None:
    log = PredictionLog(url, batch_rows=20)
    for number in range(rows):
        log.put([prediction(number, request_id=f"{process}-{number}")])
    log.close(PATIENCE)
    found.put((log.written, log.dropped))


def test_two_processes_write_at_once(url):
    """Every row of both is there, and the table was made once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fti.serving.prediction_log"])  # seconds of imports, once
    found = context.Queue()
    processes = [context.Process(target=write_many, args=(url, number, 500, found)) for number in range(2)]
    for process in processes:
        process.start()
    assert [found.get(timeout=60) for _ in processes] == [(500, 0), (500, 0)]
    for process in processes:
        process.join(PATIENCE)
    assert len(rows_in(url)) == 1000


def test_close_writes_what_is_queued_and_takes_nothing_more(url):
    """Without waiting for the next turn of the writer."""
    log = PredictionLog(url)
    until(lambda: log._created)
    log.put([prediction(number) for number in range(1200)])
    log.close(PATIENCE)
    assert (log.written, log.queued) == (1200, 0)
    log.put([prediction(5000)])
    log.close()
    assert (log.written, log.dropped, log.queued) == (1200, 1, 0)
    assert len(rows_in(url)) == 1200


def test_close_gives_up_in_time_and_says_what_is_lost(file, caplog):
    """A service ends when it is told to, whatever its database does."""
    log = PredictionLog(impatient(file))
    until(lambda: log._created)
    with locked(file):
        log.put([prediction(), prediction(1)])
        began = time.monotonic()
        log.close(0.3)
        assert time.monotonic() - began < 1
        assert log.dropped == 2
    assert "2 predictions were not logged" in caplog.text


def test_old_rows_go_and_others_stay(url):
    """At the start, by when they were predicted; without a limit none ever goes."""
    days = {"old": 8, "young": 6}
    now = datetime.now(UTC)
    with log_to(url) as log:
        log.put([prediction(request_id=name, predicted_at=now - timedelta(days=age)) for name, age in days.items()])
    assert len(rows_in(url)) == 2
    with log_to(url, retention_days=7) as log:
        until(lambda: log._created and len(rows_in(url)) == 1)
    assert [row["request_id"] for row in rows_in(url)] == ["young"]


def test_who_may_only_add_logs_on_and_the_owner_deletes(postgres, caplog):
    """In production serving may not delete: it says so once, its rows are written, and the loop's role does it."""
    with open_log(postgres.replace("DATABASE", "postgres")).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("CREATE DATABASE kept"))
    url = postgres.replace("DATABASE", "kept")
    owner = open_log(url)
    create(owner)
    with owner.begin() as connection:
        connection.execute(text("CREATE ROLE only_adds LOGIN"))
        connection.execute(text("GRANT SELECT, INSERT ON predictions TO only_adds"))
    now = datetime.now(UTC)
    adds = owner.url.set(username="only_adds").render_as_string(hide_password=False)
    with log_to(adds, retention_days=7) as log:
        log.put([prediction(0, predicted_at=now - timedelta(days=8)), prediction(1, predicted_at=now)])
        until(lambda: log.written == 2)
        log.put([prediction(2, predicted_at=now)])
        until(lambda: log.written == 3)
        log._delete_at = 0.0  # an hour later
        until(lambda: log._delete_at)
    assert (log.dropped, log.failures) == (0, 0)
    assert caplog.text.count("permission denied") == 1
    assert [row["request_id"] for row in rows_in(url)] == ["request-0", "request-1", "request-2"]
    assert delete_before(owner, now - timedelta(days=7)) == 1
    assert [row["request_id"] for row in rows_in(url)] == ["request-1", "request-2"]


@pytest.mark.parametrize("address", ["", "log.db", "mysql://host/log", "sqlite://", "sqlite:///:memory:"])
def test_an_address_that_cannot_be_a_log_is_refused(address):
    """With one that could."""
    with pytest.raises(LogUnusable, match="Set SERVING_PREDICTION_LOG to sqlite:////PATH"):
        PredictionLog(address)


def test_putting_a_row_costs_a_request_nothing_to_speak_of(file):
    """JSON is written by the writer."""
    with log_to(file) as log:
        rows = [prediction(features={f"feature_{number}": 0.5 for number in range(54)})]
        took = []
        for _ in range(2000):
            began = time.perf_counter()
            log.put(rows)
            took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 20e-6
    assert log.dropped == 0
