"""What the service reports of itself, from small tables on real databases, and when they cannot be read."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import OperationalError

from fti.contract.events import CYCLE_STEPS, RETRAININGS, breaches
from fti.contract.feature_contract import FeatureContract
from fti.contract.predictions import PREDICTIONS, create, open_log
from fti.contract.results import Result, save
from fti.scoring.schemas import RequestInvalid, parse_limit, request_schema
from fti.scoring.served_model import ServedModel
from fti.serving.http import monitored, recorded
from fti.serving.http.status import Reading, Status
from fti.serving.model.predictor import Predictor
from fti.serving.prediction_log import LoggedPrediction, stored, write
from fti.serving.settings import ServingSettings

MODEL, HOUR, DAY = "pump-failure", timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 11, 26, 14, 30, tzinfo=UTC)
AS_OF = datetime(2013, 10, 8, tzinfo=UTC)
VIEWS = [
    {"name": "pressure", "ttl_seconds": 3600},
    {"name": "wear", "ttl_seconds": 86_400},
    {"name": "maker", "ttl_seconds": 0},
    {"name": "oil", "ttl_seconds": 3600},
]
SERVED: Any = SimpleNamespace(name=MODEL, views=VIEWS)


def logged(number: int, at: datetime, **change: Any) -> LoggedPrediction:
    values: dict[str, Any] = {
        "request_id": f"request-{number}", "row": 0, "role": "champion", "predicted_at": at, "as_of": at,
        "model_name": MODEL, "model_version": "2", "contract_sha256": "ab", "feature_service": "pump_v1",
        "request": {"pump": f"P{number}", "load": 3}, "features": {}, "ages": {}, "prediction": 0.5,
        "latency_ms": float(number),
    }  # fmt: skip
    return LoggedPrediction(**values | change)


def put(engine: Engine, *rows: LoggedPrediction) -> None:
    assert write(engine, [stored(row, engine.dialect) for row in rows]) == len(rows)


@pytest.fixture
def log(url: str) -> Engine:
    """An empty log, and empty tables of the loop, as the report reads them."""
    create(open_log(url))
    return recorded.open_reader(url, 5)


# ---- traffic --------------------------------------------------------------------------------------------------------


def test_traffic_is_what_clients_were_answered_in_the_last_day(log):
    """By hour of the clock, requests apart from rows; neither shadows nor batches nor another model's."""
    of_hour = [logged(number, NOW - 5 * HOUR) for number in range(1, 101)]
    put(
        log, *of_hour,
        *(logged(200, NOW, row=row, latency_ms=200.0) for row in range(50)),
        logged(300, NOW - 24 * HOUR), logged(301, NOW, role="shadow"), logged(302, NOW, role="batch", row_key="x"),
        logged(303, NOW, model_name="another"),
    )  # fmt: skip
    found = recorded.traffic(log, MODEL, NOW)
    assert (found["hours"], found["requests"], len(found["by_hour"])) == (24, 101, 24)
    assert {one["at"]: one["rows"] for one in found["by_hour"] if one["rows"]} == {
        datetime(2026, 11, 26, 9, tzinfo=UTC): 100,
        datetime(2026, 11, 26, 14, tzinfo=UTC): 50,
    }
    # 1 to 100 ms, and one request of 200 ms whatever its rows.
    assert found["latency_ms"] == {"p50": 51.0, "p95": 96.0, "p99": 100.0}


def test_without_traffic_there_are_zeros_and_no_latency(log):
    """As before the first request."""
    found = recorded.traffic(log, MODEL, NOW)
    assert (found["requests"], {one["rows"] for one in found["by_hour"]}, found["latency_ms"]) == (0, {0}, None)


def test_no_question_reads_the_whole_log(tmp_path, monkeypatch):
    """Every statement on the table of predictions goes by an index that has the time in front."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    asked: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    recorded.traffic(engine, MODEL, NOW)
    recorded.views(engine, SERVED, NOW)
    recorded.requests(engine, SERVED, NOW, 50)
    plans = []
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        for statement, values in asked:
            if "FROM predictions" in statement:
                plans.append(str(connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()))
    assert len(plans) == 24 + 3
    assert {"predictions_by_time" in plan for plan in plans} == {True}, plans


# ---- views ----------------------------------------------------------------------------------------------------------


def freshness(view: str, offline: float | None, online: float | None) -> list[Result]:
    return [
        Result("freshness", AS_OF, AS_OF, view, metric, value, 1, "healthy")
        for metric, value in (("offline_age_hours", offline), ("materialization_lag_hours", online))
    ]


def test_views_are_as_old_as_what_was_served_says(log):
    """The newest row that any recent answer was made of; seen from now, for requests ask about now."""
    minutes = timedelta(minutes=1)
    put(
        log,
        logged(1, NOW - 50 * minutes, ages={"pressure": 30 * minutes, "maker": 900 * DAY}),
        logged(2, NOW - 20 * minutes, ages={"pressure": 61 * minutes}),
    )
    found = {one["name"]: one for one in recorded.views(log, SERVED, NOW)}
    assert found["pressure"] == {
        "name": "pressure", "ttl_seconds": 3600, "newest": NOW - 80 * minutes, "age_seconds": 4800.0, "state": "stale",
        "as_of": NOW,
    }  # fmt: skip
    assert (found["maker"]["state"], found["maker"]["age_seconds"]) == ("fresh", 900 * 86_400 + 3000)
    assert {(one["state"], one["newest"]) for one in (found["wear"], found["oil"])} == {("unknown", None)}


def test_views_are_as_old_as_the_monitors_say_where_nobody_asked(log):
    """What is offline and was put online; null is an empty view, and silence is not."""
    save(
        log, AS_OF, [*freshness("pressure", 0.5, 0.75), *freshness("wear", 30.0, 0.0), *freshness("maker", None, None)]
    )
    found = {one["name"]: one for one in recorded.views(log, SERVED, NOW)}
    assert {name: one["state"] for name, one in found.items()} == {
        "pressure": "fresh", "wear": "stale", "maker": "empty", "oil": "unknown",
    }  # fmt: skip
    assert (found["pressure"]["newest"], found["pressure"]["as_of"]) == (AS_OF - 0.75 * HOUR, AS_OF)


def test_a_view_that_the_service_calls_otherwise_is_as_old_as_the_monitors_say_of_its_source(log):
    """Monitors know a view by its name in the feature store; each role of it is told by its own name."""
    save(log, AS_OF, freshness("pressure", 0.5, 0.75))
    roles = [{"name": name, "ttl_seconds": 3600, "source": "pressure"} for name in ("inlet", "outlet")]
    served: Any = SimpleNamespace(name=MODEL, views=roles)
    found = recorded.views(log, served, NOW)
    assert [(one["name"], one["state"], one["newest"]) for one in found] == [
        ("inlet", "fresh", AS_OF - 0.75 * HOUR), ("outlet", "fresh", AS_OF - 0.75 * HOUR),
    ]  # fmt: skip


def test_a_replay_is_seen_from_its_own_time(log):
    """Requests ask about 2013, all but one; a minute after the last one the views are a minute older."""
    lag = NOW - AS_OF
    put(
        log,
        *(logged(one, NOW - one * timedelta(minutes=1), as_of=AS_OF - one * timedelta(minutes=1),
                 ages={"pressure": timedelta(0)}) for one in range(1, 10)),
        logged(99, NOW, as_of=NOW),
    )  # fmt: skip
    found = recorded.views(log, SERVED, NOW + timedelta(minutes=5))
    assert found[0]["as_of"] == NOW - lag + timedelta(minutes=5)
    assert found[0]["age_seconds"] == 6 * 60


# ---- monitors and events --------------------------------------------------------------------------------------------


def week(monitor: str, subject: str, metric: str, value: float | None, verdict: Any, days: int = 7) -> Result:
    return Result(monitor, AS_OF - days * DAY, AS_OF, subject, metric, value, 100, verdict, 0.1, 0.9, "told")


def test_monitors_speak_of_what_serves_and_the_worst_is_not_hidden(log):
    """The champion's whole window, by version; the worst view; and one slice in breach, though no headline is."""
    mine, other, batch = (f"{MODEL} version {one}" for one in ("2, champion", "1, champion", "2, batch"))
    for number in range(40):
        save(log, AS_OF - (number + 1) * DAY, [week("quality", other, "roc_auc", 0.6 + number / 100, "healthy")])
    save(
        log, AS_OF,
        [
            week("quality", other, "roc_auc", 0.5, "healthy"),
            week("quality", mine, "roc_auc", 0.7, "healthy"),
            week("quality", mine, "roc_auc", 0.1, None, days=1),
            week("quality", f"{mine}, asked ahead", "roc_auc", 0.2, None),
            week("drift", batch, "drifted_share", 0.3, "investigate"),
            week("drift", batch, "wind", 2.0, "breach"),
            week("volume", "wear", "rows_of_usual", 0.2, "investigate"),
            week("volume", "oil", "rows_of_usual", 0.9, "healthy"),
            week("consistency", MODEL, "predictions", None, "no_data"),
            week("cycle", "land", "seconds", 3.0, "healthy"),
        ],
    )  # fmt: skip
    found = {(one["monitor"], one["metric"]): one for one in monitored.monitors(log, "2")}
    assert {key: (one["subject"], one["value"], one["verdict"]) for key, one in found.items()} == {
        ("quality", "roc_auc"): (mine, 0.7, "healthy"),
        ("drift", "drifted_share"): (batch, 0.3, "investigate"),
        ("drift", "wind"): (batch, 2.0, "breach"),
        ("volume", "rows_of_usual"): ("wear", 0.2, "investigate"),
        ("consistency", "predictions"): (MODEL, None, "no_data"),
        ("cycle", "seconds"): ("land", 3.0, "healthy"),
    }
    history = found["quality", "roc_auc"]["history"]
    assert [one["as_of"] for one in history] == [AS_OF - number * DAY for number in range(29, -1, -1)]
    assert [one["value"] for one in history[-2:]] == [0.6, 0.7]
    assert history[-1] == {"as_of": AS_OF, "value": 0.7, "low": 0.1, "high": 0.9}


def test_what_happened_is_what_the_loop_and_the_monitors_recorded(log):
    """Of the thirty days before the newest moment, whatever the clock says."""
    save(log, AS_OF, [week("quality", "a", "roc_auc", 0.5, "breach"), week("quality", "b", "bias", 0.5, "breach")])
    step = {"as_of": AS_OF - DAY, "step": "land", "attempt": 1, "began": NOW, "seconds": 1.0, "said": "no weather"}
    trained = {"model_name": MODEL, "reasons": "drift", "version": "2", "decision": "passed", "champion_after": "2"}
    with log.begin() as connection:
        connection.execute(CYCLE_STEPS.insert(), [step | {"status": "refused"}])
        connection.execute(RETRAININGS.insert(), [trained | {"as_of": AS_OF - day * DAY} for day in (2, 31)])
    found = sorted(monitored.happened(log), reverse=True)
    assert found == [
        (AS_OF, "quality in breach: roc_auc of a and 1 more"),
        (AS_OF - DAY, "land refused: no weather"),
        (AS_OF - 2 * DAY, "version 2 trained, gate passed, champion: drift"),
    ]
    assert breaches(log, AS_OF - 9 * DAY, AS_OF - DAY) == []


def test_where_no_loop_ever_ran_there_is_nothing_to_tell(url):
    """Not even its tables are there: the service makes only its own."""
    create(open_log(url), [PREDICTIONS])
    engine = recorded.open_reader(url, 5)
    assert (monitored.monitors(engine, "2"), monitored.happened(engine)) == ([], [])
    assert {one["state"] for one in recorded.views(engine, SERVED, NOW)} == {"unknown"}


# ---- requests -------------------------------------------------------------------------------------------------------

CONTRACT = FeatureContract.model_validate(
    {
        "interface": {
            "feature_service": "pump_v1", "inputs": [], "stored_views": [], "on_demand_views": [],
            "join_keys": [{"name": "pump", "dtype": "string", "request_field": "pump", "noun": "pump"}],
            "request_fields": [
                {"name": "pump", "dtype": "string", "required": True, "description": "Serial number."},
                {"name": "load", "dtype": "int64", "required": False, "description": "Bars."},
            ],
            "spine_view": "runs", "label_view": "failures", "label": "failed", "label_definition": "within a day",
            "prediction_anchor": "opened_at", "prediction_lead_minutes": 0,
        },
        "known_values": {},
        "training_set": {"as_of": AS_OF, "start": AS_OF, "end": AS_OF, "rows": 1, "sha256": "0", "delta_versions": {}},
        "example_request": {"pump": "P7", "load": 1, "as_of": "2013-10-08T00:00:00Z"},
    }
)  # fmt: skip


@pytest.fixture
def served() -> ServedModel:
    """A version with a schema; nothing is asked of its model here."""
    about: dict[str, Any] = dict.fromkeys(("model", "reader", "explainer", "meanings"))
    return ServedModel(
        name=MODEL, version="2", contract=CONTRACT, schema=request_schema(CONTRACT), loaded_at=NOW, **about
    )


def test_requests_to_try_are_those_that_the_model_takes(log, served):
    """Newest first, each once, without its nulls; what another version was asked is left out."""
    put(
        log,
        logged(1, NOW - HOUR), logged(2, NOW, request={"pump": "P2", "load": None}), logged(3, NOW - 2 * HOUR),
        logged(4, NOW - 3 * HOUR, request={"pump": "P1", "load": 3}),
        logged(5, NOW, request={"pump": "P5", "colour": "red"}),
        logged(6, NOW - HOUR / 2, role="batch", row_key="x", as_of=NOW + HOUR),
        logged(7, NOW, model_name="another"),
    )  # fmt: skip
    found = recorded.requests(log, served, NOW, 50)
    assert [(one["request"]["pump"], one["role"]) for one in found] == [
        ("P2", "champion"), ("P6", "batch"), ("P1", "champion"), ("P3", "champion"),
    ]  # fmt: skip
    assert found[0] == {"as_of": NOW, "request": {"pump": "P2"}, "role": "champion"}
    assert found[1]["as_of"] == NOW + HOUR
    assert recorded.requests(log, served, NOW, 2) == found[:2]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "limit=1&limit=1", "a=1"])
def test_a_limit_is_one_number(query):
    """Anything else is said to be none."""
    with pytest.raises(RequestInvalid, match="from 1 to 200"):
        parse_limit(parse_qsl(query))
    assert (parse_limit([]), parse_limit([("limit", "7")])) == (50, 7)


# ---- what is slow, broken or not there ------------------------------------------------------------------------------


def test_a_question_that_takes_too_long_is_given_up(url):
    """By the database itself: no thread goes on working for nobody. The next question has its own time."""
    create(open_log(url))
    engine = recorded.open_reader(url, 0.3)
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n WHERE i < 0"
        if engine.dialect.name == "sqlite"
        else "SELECT pg_sleep(60)"
    )
    for _ in range(2):
        began = time.monotonic()
        with engine.connect() as connection, pytest.raises(OperationalError):
            connection.execute(text(endless))
        assert 0.2 < time.monotonic() - began < 5
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1


def test_a_source_that_hangs_is_waited_for_once(monkeypatch):
    """Everybody who asks hears of it in time; it is begun once, and once it is there everybody has it."""
    monkeypatch.setattr("fti.serving.http.status.PATIENCE", 0.2)
    release, begun = threading.Event(), []

    def slow() -> Any:
        begun.append(1)
        release.wait(20)
        return {"versions": 7}, []

    async def use() -> None:
        reading = Reading("registry", slow, ("versions",))
        began = time.monotonic()
        answers = await asyncio.gather(*(reading.get() for _ in range(5)))
        assert time.monotonic() - began < 2
        assert answers == [({"versions": None}, ["registry: no answer within 0.2 s"])] * 5
        release.set()
        while (await reading.get())[1]:
            await asyncio.sleep(0.01)
        assert await asyncio.gather(*(reading.get() for _ in range(5))) == [({"versions": 7}, [])] * 5
        assert len(begun) == 1
        reading.close()

    asyncio.run(use())


def test_a_source_that_fails_in_a_way_nobody_thought_of_costs_its_parts(caplog):
    """And no more: there is a report, and the log has the cause."""

    async def use() -> Any:
        reading = Reading("registry", lambda: {}["what"], ("versions",))
        try:
            return await reading.get()
        finally:
            reading.close()

    assert asyncio.run(use()) == (
        {"versions": None},
        ["registry: it cannot be read; the service's log says why"],
    )
    assert "KeyError" in caplog.text


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model registry that cannot be opened."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'mlflow.db'}")
    return tmp_path


def report(settings: ServingSettings) -> dict[str, Any]:
    async def use() -> dict[str, Any]:
        status = Status(settings, Predictor(settings, "champion", "champion"))
        try:
            return await status.report()
        finally:
            status.close()

    return asyncio.run(use())


def test_without_a_log_a_registry_and_a_model_there_is_still_a_report(nowhere):
    """Each part that is missing is null, with a line that says why, and no address in it."""
    settings = ServingSettings(prediction_log="off", docs_url="https://docs.example.org/runbook", model_name="nothing")
    found = report(settings)
    parts = ("model", "versions", "views", "traffic", "monitors")
    assert [found[part] for part in parts] == [None] * 5
    assert found["events"] == []
    assert found["links"] == [{"title": "Documentation", "url": "https://docs.example.org/runbook"}]
    model, registry, log = found["problems"]
    assert model.startswith("model: There is no model to serve")
    assert registry == "registry: it cannot be read; the service's log says why"
    assert log == "views, traffic, monitors, events: SERVING_PREDICTION_LOG is off"
    assert str(nowhere) not in str(found)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "shows no 'pump-failure' to this service's user: there is none yet, and `make pipeline` trains one"),
        (401, "does not know this service's user; see MLFLOW_TRACKING_USERNAME"),
        (503, "does not answer; see MLFLOW_TRACKING_URI"),
    ],
)
def test_a_registry_that_refuses_is_not_said_to_be_away(receive, monkeypatch, status, said):
    """One with users says 403 of a model that is not there yet: whoever waits for the first is told so."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{receive((status, {})).port}")
    predictor = Predictor(ServingSettings(model_name=MODEL), "champion", "champion")
    predictor.refresh()
    (problem,) = predictor.problems
    assert problem.startswith(f"The MLflow registry {said}")


def test_a_log_that_is_locked_or_no_database_costs_its_own_parts(nowhere, caplog):
    """Soon, with the cause in the service's log and not in the report."""
    file = nowhere / "log.db"
    engine = open_log(f"sqlite:///{file}")
    create(engine)
    engine.dispose()
    settings = ServingSettings(prediction_log=f"sqlite:///{file}")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        found = report(settings)
        assert time.monotonic() - began < 8
    assert (found["traffic"], found["monitors"]) == (None, None)
    for part in Path(nowhere).glob("log.db*"):
        part.unlink()
    file.write_bytes(b"junk" * 10_000)
    found = report(settings)
    assert found["traffic"] is None
    assert (
        "traffic: the log of predictions cannot be read, or not in time; the service's log says why"
        in found["problems"]
    )
    assert str(nowhere) not in str(found)
    assert "not a database" in caplog.text


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc/passwd", "example.org"])
def test_a_link_is_http_or_none(url):
    """What a page shows as a link is nothing that runs or reads files."""
    with pytest.raises(ValueError, match="mlflow_url"):
        ServingSettings(mlflow_url=url)
