"""The real Bento over HTTP, on the real year: exactness, bad requests, and what happens when things around it break.

One service serves the whole module, started as BentoML documents it; a second one, started by `fti.serving.start`, is
there for its start and its end. The tests run in this order: the last two end the services.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import psutil
import pytest

from tests.conftest import copy_registry, emptied

ROOT = Path(__file__).resolve().parents[3]
MODEL = "arrival-delay"
AS_OF = datetime(2013, 10, 1, tzinfo=UTC)
FLIGHTS = 200
COMPUTED = {"aircraft_age", "aircraft_turnaround", "schedule_clock"}
PATIENCE = 180
JSON = {"Content-Type": "application/json"}
# What an answer must not show: where things lie, and how they failed.
SECRETS = ("Traceback", ".py", "/work", "/tmp", "sqlite", str(ROOT))


# ---- the service ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    type: str
    text: str
    headers: Any = None

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Service:
    """A service under test: its process, and its own copies of the model registry and the online store."""

    process: subprocess.Popen[str]
    port: int
    root: Path
    log: Path
    without_champion: dict[str, Answer]

    @property
    def registry(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def online_store(self) -> Path:
        return self.root / "data" / "feast" / "online_wal.db"

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, JSON if headers is None else headers)
            response = connection.getresponse()
            type_ = response.headers.get("content-type", "")
            return Answer(response.status, type_, response.read().decode(), response.headers)
        finally:
            connection.close()

    def predict(self, request: Any) -> Answer:
        return self.send("POST", "/predict", json.dumps(request).encode())

    def metric(self, name: str) -> float:
        """The sum of the samples whose line starts so."""
        lines = self.send("GET", "/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def logged_rows(self, where: str) -> pd.DataFrame:
        """The rows of the log of predictions, oldest first; none while there is no table."""
        with contextlib.closing(sqlite3.connect(f"file:{self.root / 'predictions.db'}?mode=ro", uri=True)) as log:
            query = f"SELECT * FROM predictions WHERE {where} ORDER BY predicted_at, request_id, row"
            return pd.read_sql_query(query, log)

    def slow(self, seconds: float | None) -> None:
        """Make each read of the online store slow, or as fast as it is."""
        file = self.root / "feature_repo" / "slow"
        if seconds is None:
            file.unlink()
        else:
            file.write_text(str(seconds))

    def champion(self, version: str | None, served: str | None = None) -> None:
        """Move or delete the alias, and wait for a version to serve: that one, if none is named."""
        move_champion(self.registry, version)
        until(lambda: self.send("GET", "/model").json.get("version") == (served or version))

    def logged(self, text: str) -> None:
        """Wait for a line in the log."""
        until(lambda: text in self.log.read_text())


def move_champion(registry: Path, version: str | None) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{registry}")
    if version is None:
        client.delete_registered_model_alias(MODEL, "champion")
    else:
        client.set_registered_model_alias(MODEL, "champion", version)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; a service that is not there yet counts as false."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, sqlite3.OperationalError, pd.errors.DatabaseError):
            pass
        time.sleep(0.1)
    pytest.fail(f"not within {PATIENCE} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(command: list[str], port: int, root: Path, log: Path, settings: dict[str, str]) -> subprocess.Popen[str]:
    environment = settings | {
        "SERVING_PORT": str(port),
        "SERVING_FEAST_REPO": str(root / "feature_repo"),
        "SERVING_POLL_SECONDS": "0.2",
        "SERVING_PREDICTION_LOG": f"sqlite:///{root / 'predictions.db'}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
    }
    with log.open("w") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


class Collector(ThreadingHTTPServer):
    """What takes traces by OTLP: the names, parents and attributes of the spans it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Collecting)
        self.spans: list[Any] = []


class Collecting(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        sent = ExportTraceServiceRequest.FromString(body)
        self.server.spans += [span for of in sent.resource_spans for scope in of.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    server = Collector()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def launched(trained, collector, tmp_path_factory) -> Iterator[tuple[Service, Service]]:
    """Both services, started at once: most of a start is imports, and there are two cores."""
    from mlflow import MlflowClient

    # A pooled connection of this process would go on writing to a registry file that a test replaced.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    services = []
    bentoml = [str(Path(sys.executable).with_name("bentoml")), "serve", "serving.service:PredictionService"]
    commands = {
        "bentoml": (bentoml, {"SERVING_BODY_SECONDS": "1", "SERVING_DRAIN_SECONDS": "3"}),
        "start": (
            [sys.executable, "-m", "fti.serving.start"],
            {
                "SERVING_WORKERS": "2",
                "SERVING_SHADOW_ALIAS": "challenger",
                "SERVING_SHADOW_SHARE": "1",
                "SERVING_TRACES_URL": f"http://127.0.0.1:{collector.server_port}/v1/traces",
            },
        ),
    }
    for name, (command, settings) in commands.items():
        root = tmp_path_factory.mktemp(name)
        copy_registry(trained, root)
        shutil.copytree(trained.repo, root / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(trained.root / "data" / "feast", root / "data" / "feast")
        if name == "bentoml":
            move_champion(root / "mlflow.db", None)
            store = root / "feature_repo" / "feature_store.yaml"
            store.write_text(store.read_text().replace("fti.stores.wal_sqlite.", "tests.slow_store.Slow"))
        else:
            MlflowClient(f"sqlite:///{root / 'mlflow.db'}").set_registered_model_alias(MODEL, "challenger", "1")
        port, log = free_port(), root / "log"
        services.append(Service(launch(command, port, root, log, settings), port, root, log, {}))
    yield services[0], services[1]
    monkeypatch.undo()
    for service in services:
        if service.process.poll() is None:
            service.process.terminate()
            service.process.wait(60)


@pytest.fixture(scope="module")
def service(launched) -> Service:
    """`bentoml serve`, started without a champion, which came later."""
    service, _ = launched
    until(lambda: service.send("GET", "/livez").status == 200)
    service.without_champion = {path: service.send("GET", path) for path in ("/readyz", "/model", "/openapi.json")}
    service.without_champion["/predict"] = service.predict({})
    service.champion("2")
    return service


@pytest.fixture(scope="module")
def started(launched) -> Service:
    """`python -m fti.serving.start`."""
    _, started = launched
    started.logged("curl -s")
    return started


@pytest.fixture(scope="module")
def flights(trained) -> pd.DataFrame:
    """The next flights to depart as of the moment of materialization."""
    from deltalake import DeltaTable

    known = DeltaTable(trained.root / "data" / "features" / "flight_schedule").to_pandas()
    known = known[known.scheduled_departure >= AS_OF].sort_values(["scheduled_departure", "flight_id"]).head(FLIGHTS)
    return known.drop(columns=["event_timestamp", "created_timestamp", "event_month"]).reset_index(drop=True)


def request_for(flight: dict[str, Any], as_of: datetime = AS_OF) -> dict[str, Any]:
    fields = ("origin", "dest", "carrier", "flight_number", "tailnum", "scheduled_departure", "scheduled_arrival")
    values = {name: flight[name] for name in fields if pd.notna(flight[name])} | {"as_of": as_of}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


@pytest.fixture(scope="module")
def complete(service, flights) -> dict[str, Any]:
    """A request whose every view has a row."""
    for flight in flights.to_dict("records"):
        request = request_for(flight)
        if service.predict(request).json.get("warnings") == []:
            return request
    pytest.fail("every one of the flights misses some features")


def null_sources(answer: dict[str, Any]) -> set[str]:
    """The stored views all of whose features are null."""
    found: dict[str, list[Any]] = {}
    for feature in answer["features"].values():
        if feature["source"] in COMPUTED:
            continue
        found.setdefault(feature["source"], []).append(feature["value"])
    return {source for source, values in found.items() if all(value is None for value in values)}


# ---- start ----------------------------------------------------------------------------------------------------------


def test_without_a_champion_it_waits_and_says_so(service):
    """`bentoml serve` comes up unready, says in answers and log what to do, and serves once there is a model."""
    said = "'arrival-delay' has no version with the alias 'champion'. Train one: `make pipeline`."
    assert service.without_champion.pop("/readyz").status == 503
    for path, answer in service.without_champion.items():
        assert (answer.status, answer.type, answer.json) == (
            503,
            "application/json",
            {"error": f"There is no model to serve. {said}"},
        ), path
    assert said in service.log.read_text()
    assert service.send("GET", "/readyz").status == 200


def test_the_request_that_start_prints_works(started):
    """`fti.serving.start` says what it serves, and its curl line is answered as pasted."""
    printed = started.log.read_text()
    assert f"Serving arrival-delay version 2 at http://localhost:{started.port}" in printed
    body = printed.split("-d '")[1].split("'")[0]
    answer = started.send("POST", "/predict", body.encode())
    assert answer.status == 200
    assert answer.json["warnings"] == []
    assert "scheme=http,method=GET" not in printed, "start-up polls into the access log"
    assert "DeprecationWarning" not in printed


@pytest.mark.parametrize("command", [["-m", "fti.serving.start"], ["-m", "fti.serving.start", "--check"]])
def test_a_second_service_on_the_port_is_refused(started, command):
    """The one that listens goes on; the other ends with one line."""
    environment = os.environ | {"SERVING_PORT": str(started.port)}
    second = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{started.port}" in second.stderr
    assert started.send("GET", "/model").status == 200


# ---- exactness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "2"])
def test_answers_equal_the_point_in_time_join(service, trained, flights, version, monkeypatch):
    """For the next 200 flights: every feature as the offline join has it, and the model's probability for that row."""
    import mlflow
    from feast import FeatureStore

    from fti.contract.feature_contract import FeatureContract

    service.champion(version)
    contract = FeatureContract.model_validate(service.send("GET", "/model").json["contract"])
    assert contract.interface.feature_service == f"arrival_delay_v{version}"
    # New York flies to a few places for the first time after the training set ends: refused, in a test of its own.
    flights = flights[flights.dest.isin(contract.known_values["dest"])].reset_index(drop=True)
    assert len(flights) > FLIGHTS * 0.95
    answers = [service.predict(request_for(flight)).json for flight in flights.to_dict("records")]

    store = FeatureStore(repo_path=str(trained.repo))
    hours = flights.scheduled_departure.astype("int64") // 3_600_000_000
    assert flights.scheduled_departure.dt.unit == "us"
    asked = flights.assign(departure_hour=hours, event_timestamp=pd.Timestamp(AS_OF).as_unit("us"))
    joined = store.get_historical_features(asked, store.get_feature_service(f"arrival_delay_v{version}")).to_df()
    offline = joined.set_index("flight_id").loc[flights.flight_id].reset_index()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.tracking_uri)
    model = mlflow.sklearn.load_model(f"models:/{MODEL}/{version}")
    probabilities = model.predict_proba(contract.interface.model_inputs(offline))[:, 1]

    names = [model_input.name for model_input in contract.interface.inputs]
    compared = 0
    for row, answer, probability in zip(offline.to_dict("records"), answers, probabilities, strict=True):
        assert list(answer["features"]) == names
        for name, feature in answer["features"].items():
            if pd.isna(row[name]):
                assert feature["value"] is None, (row["flight_id"], name)
            elif isinstance(row[name], str):
                assert feature["value"] == row[name]
            else:
                assert math.isclose(feature["value"], row[name], rel_tol=0, abs_tol=1e-9), (row["flight_id"], name)
                compared += 1
        assert abs(answer["probability"] - probability) <= 1e-12, row["flight_id"]
        assert answer["model"] == {"name": MODEL, "version": version}
    assert compared > FLIGHTS * len(names) * 0.8, "too little to compare"


def test_a_batch_answers_each_row_as_alone_and_in_order(service, flights, complete):
    """Hundreds of flights, among them rows that cannot be answered: each says why, and the others are as alone."""
    rows = [request_for(flight) for flight in flights.to_dict("records")]
    rows[3:3] = [{**complete, "dest": "XXX"}, {}, 7, {**complete, "as_of": "2013-01-01T00:00:00Z"}]
    answer = service.send("POST", "/predict_batch", json.dumps({"rows": rows, "features": True}).encode())
    assert answer.status == 200
    found = answer.json["rows"]
    assert len(found) == len(rows)
    assert "knows no airport" in found[3]["error"]
    assert set(found[4]["fields"]) >= {"carrier", "origin", "dest", "scheduled_departure"}
    assert "expected one object" in found[5]["error"]
    assert "online store no longer knows" in found[6]["error"]
    for number in (0, 1, 2, *range(7, len(rows), 25)):
        alone = service.predict(rows[number])
        if alone.status == 200:
            for part in ("probability", "features", "warnings", "as_of"):
                assert found[number][part] == alone.json[part], number
        else:
            assert found[number] == alone.json
    brief = service.send("POST", "/predict_batch", json.dumps({"rows": [complete]}).encode()).json["rows"]
    assert set(brief[0]) == {"probability", "as_of", "missing", "stale", "warnings"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Invalid JSON"),
        (b"[]", 'expected {"rows"'),
        (b'{"rows": []}', 'expected {"rows"'),
        (b'{"rows": {}}', 'expected {"rows"'),
        (b'{"rows": [{}], "features": "yes"}', "features"),
        (b'{"rows": [{}], "more": 1}', "more"),
        (b'{"rows": [NaN]}', "Invalid JSON"),
        (b"[" * 30_000, "Invalid JSON"),
        (json.dumps({"rows": [{}] * 1001}).encode(), "at most 1000 at once"),
        (json.dumps({"rows": [{}] * 10_000}).encode(), "at most 1000 at once"),
    ],
)
def test_a_batch_that_is_none_is_a_422(service, body, said):
    """Not JSON, no rows, too many, too deep."""
    answer = service.send("POST", "/predict_batch", body)
    assert answer.status == 422
    assert said in answer.json["error"]


def test_metrics_tell_what_was_predicted_and_what_was_missing(service, complete):
    """The counters move by what was asked, and the stages are timed."""
    metric = service.metric
    names = ("fti_predictions_total", 'fti_features_missing_total{view="aircraft_rotation"}')
    before = [metric(name) for name in names]
    rows = [complete, complete | {"tailnum": None}, complete | {"tailnum": "N0NE"}]
    assert service.send("POST", "/predict_batch", json.dumps({"rows": rows}).encode()).status == 200
    assert [metric(name) for name in names] == [before[0] + 3, before[1] + 2]
    assert metric('fti_stage_seconds_count{stage="model"}') > 0
    assert metric('fti_request_seconds_count{path="/predict_batch",status="200"}') > 0
    assert metric("fti_model_version{") == 2


def test_every_prediction_is_logged_as_it_was_answered(service, complete):
    """Its request, the features it was made of with their ages, version, contract, probability and time, once each."""
    answer = service.send("POST", "/predict", json.dumps(complete), JSON | {"X-Request-ID": "logged-one"})
    assert answer.headers["x-request-id"] == "logged-one"
    rows = [complete, {}, complete | {"tailnum": None}]
    service.send("POST", "/predict_batch", json.dumps({"rows": rows}), JSON | {"X-Request-ID": "logged-many"})
    until(lambda: len(service.logged_rows("request_id IN ('logged-one', 'logged-many')")) == 3)
    (one,) = service.logged_rows("request_id = 'logged-one'").to_dict("records")
    said = service.send("GET", "/model").json
    assert (one["row"], one["role"], one["row_key"]) == (0, "champion", None)
    assert (one["model_name"], one["model_version"], one["feature_service"]) == (MODEL, "2", "arrival_delay_v2")
    assert one["contract_sha256"] == said["feature_contract_sha256"]
    assert one["as_of"] == AS_OF.timestamp() * 1e6
    assert abs(one["predicted_at"] / 1e6 - time.time()) < 60
    assert 0 < one["latency_ms"] < 10_000
    assert one["prediction"] == answer.json["probability"]
    assert json.loads(one["request"]) == {
        name: value.replace("+00:00", "Z") if isinstance(value, str) else value
        for name, value in complete.items()
        if name != "as_of"
    }
    shown = answer.json["features"]
    assert json.loads(one["features"]) == {name: feature["value"] for name, feature in shown.items()}
    ages = json.loads(one["ages"])
    assert {name: ages[feature["source"]] for name, feature in shown.items() if "age_seconds" in feature} == {
        name: feature["age_seconds"] for name, feature in shown.items() if "age_seconds" in feature
    }
    assert service.logged_rows("request_id = 'logged-many'").row.tolist() == [0, 2]


def test_a_locked_or_lost_log_costs_no_answer(service, complete):
    """While another process holds it, answers come as fast and are logged afterwards; a lost file comes anew."""
    file = service.root / "predictions.db"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        for number in range(20):
            sent = service.send("POST", "/predict", json.dumps(complete), JSON | {"X-Request-ID": f"locked-{number}"})
            assert sent.status == 200
        assert time.monotonic() - began < 4, "as if each had waited for the lock"
        other.execute("ROLLBACK")
    until(lambda: len(service.logged_rows("request_id LIKE 'locked-%'")) == 20)
    for part in service.root.glob("predictions.db*"):
        part.unlink()
    service.send("POST", "/predict", json.dumps(complete), JSON | {"X-Request-ID": "anew"})
    until(file.exists)
    until(lambda: len(service.logged_rows("request_id = 'anew'")) == 1)
    assert service.metric('fti_log_rows_total{outcome="dropped"}') == 0


def test_what_is_served_and_followed(service):
    """/model tells the version, its aliases, what is followed and when it was loaded; and the whole contract."""
    said = service.send("GET", "/model").json
    assert (said["name"], said["version"], said["following"]) == (MODEL, "2", "alias champion")
    assert said["aliases"] == ["champion"]
    assert said["compiled"] is True
    assert datetime.now(UTC) - timedelta(minutes=15) < datetime.fromisoformat(said["loaded_at"]) < datetime.now(UTC)
    assert said["contract"]["interface"]["feature_service"] == "arrival_delay_v2"


def test_live_features_are_those_that_a_prediction_used(service, complete):
    """Each view that /features names, looked up by the request's own fields: values and ages as in the answer."""
    used = service.predict(complete).json["features"]
    for view in service.send("GET", "/features").json["views"]:
        query = urlencode({name: complete[name] for name in [*view["found_by"], "as_of"]})
        found = service.send("GET", f"/features/{view['name']}?{query}").json
        assert found["state"] == "fresh", found
        shown = {name: one for name, one in used.items() if one["source"] == view["name"]}
        assert {name: found["features"][name] for name in shown} == {name: one["value"] for name, one in shown.items()}
        assert {found["age_seconds"]} >= {one["age_seconds"] for one in shown.values()}
    old = service.send("GET", "/features/origin_congestion?origin=JFK&as_of=2013-10-02T00:00:00Z").json
    assert (old["state"], old["age_seconds"], old["ttl_seconds"]) == ("stale", 86_400, 3600)
    assert old["features"]["origin_departures_3h"] > 0
    assert service.send("GET", "/features/aircraft_profile?tailnum=N0NE").json["state"] == "missing"


def test_one_version_may_be_kept_to(trained, monkeypatch):
    """Wherever the alias points; a version that is not there is said to be so."""
    from fti.serving.model.predictor import NoModel, Predictor
    from fti.serving.settings import ServingSettings

    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.tracking_uri)
    settings = ServingSettings(feast_repo=trained.repo)
    pinned = Predictor(settings, "champion", "champion", version=1)
    pinned.refresh()
    assert (pinned.served.version, pinned.following) == ("1", "version 1")
    nowhere = Predictor(settings, "champion", "champion", version=99)
    nowhere.refresh()
    with pytest.raises(NoModel, match=r"has no version 99\. Set SERVING_MODEL_VERSION to one that is there"):
        _ = nowhere.served


def test_a_registry_rebuilt_with_the_same_numbers_is_followed(trained, monkeypatch, tmp_path):
    """A version 1 with other files takes over from the version 1 that there was; the same one is not loaded again."""
    from mlflow import MlflowClient

    from fti.serving.model.predictor import Predictor
    from fti.serving.settings import ServingSettings

    registry, rebuilt = tmp_path / "mlflow.db", tmp_path / "rebuilt.db"
    copy_registry(trained, tmp_path)
    shutil.copy(registry, rebuilt)
    MlflowClient(f"sqlite:///{registry}").set_registered_model_alias(MODEL, "champion", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{rebuilt}")
    client = MlflowClient()
    second = client.get_model_version(MODEL, "2")
    client.delete_registered_model(MODEL)
    client.create_registered_model(MODEL)
    assert str(client.create_model_version(MODEL, second.source, tags=second.tags).version) == "1"
    client.set_registered_model_alias(MODEL, "champion", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registry}")
    predictor = Predictor(ServingSettings(feast_repo=trained.repo), "champion", "champion")
    predictor.refresh()
    assert (predictor.served.version, predictor.served.about["feature_service"]) == ("1", "arrival_delay_v1")
    rebuilt.replace(registry)
    predictor.refresh()
    assert (predictor.served.version, predictor.served.about["feature_service"]) == ("1", "arrival_delay_v2")
    loaded_at = predictor.served.loaded_at
    predictor.refresh()
    assert predictor.served.loaded_at == loaded_at
    assert predictor.problems == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("nothing?origin=JFK", "view"),
        ("origin_congestion", "origin"),
        ("origin_congestion?origin=JFK&origin=EWR", "query"),
        ("origin_congestion?origin=JFK&carrier=AA", "carrier"),
        ("flight_number_reliability?carrier=AA&flight_number=x", "flight_number"),
        ("origin_congestion?origin=JFK&as_of=2013", "as_of"),
        ("origin_schedule_load?origin=JFK&scheduled_departure=yesterday", "scheduled_departure"),
    ],
)
def test_a_look_up_that_is_none_is_a_422_that_names_the_field(service, query, field):
    """An unknown view, a key missing, twice, too many or of another type."""
    answer = service.send("GET", f"/features/{query}")
    assert (answer.status, list(answer.json["fields"])) == (422, [field])


def test_each_view_is_used_up_to_its_ttl_and_no_longer(service, complete):
    """At exactly its ttl a row is used; a microsecond later that view, and what has expired before it, is null."""
    contract = service.send("GET", "/model").json["contract"]["interface"]
    ttls = {view["name"]: view["ttl_seconds"] for view in contract["stored_views"] if view["ttl_seconds"]}
    first = service.predict(complete).json
    expiry = {
        feature["source"]: AS_OF + timedelta(seconds=ttls[feature["source"]] - feature["age_seconds"])
        for feature in first["features"].values()
        if feature["source"] in ttls
    }
    assert expiry.keys() == ttls.keys()
    assert not null_sources(first)
    for view, moment in expiry.items():
        at = service.predict(complete | {"as_of": moment.isoformat()}).json
        assert null_sources(at) == {other for other, end in expiry.items() if end < moment}
        assert view not in " ".join(at["warnings"])
        after = moment + timedelta(microseconds=1)
        past = service.predict(complete | {"as_of": after.isoformat()}).json
        expired = {other for other, end in expiry.items() if end < after}
        assert view in expired
        assert null_sources(past) == expired
        told = [warning for warning in past["warnings"] if not warning.startswith("as_of: ")]  # long after departure
        assert {warning.split(":")[0] for warning in told} == expired
        assert all(" old, good for " in warning and warning.endswith("; not used") for warning in told)


def test_an_aircraft_is_unknown_or_not_given(service, complete):
    """Both are answered, each with a warning of its own for each view that needs the aircraft."""
    unknown = service.predict(complete | {"tailnum": "NOSUCH"})
    assert unknown.json["warnings"] == [
        "aircraft_rotation: aircraft has not landed in two days",
        "aircraft_departures: aircraft has neither left nor been overdue in two days",
        "aircraft_profile: unknown aircraft",
    ]
    absent = service.predict({name: value for name, value in complete.items() if name != "tailnum"})
    assert absent.json["warnings"] == [
        "aircraft_rotation: no tailnum given",
        "aircraft_departures: no tailnum given",
        "aircraft_profile: no tailnum given",
    ]
    assert unknown.json["probability"] == absent.json["probability"] != service.predict(complete).json["probability"]


# ---- bad requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"origin": "XXX"}, "origin"),
        ({"dest": "ILM"}, "dest"),  # first flown to in October
        ({"carrier": "??"}, "carrier"),
        ({"dest": None}, "dest"),
        ({"flight_number": 10**4000}, "flight_number"),
        ({"flight_number": math.nan}, "flight_number"),
        ({"scheduled_departure": "2013-10-01T02:05:00"}, "scheduled_departure"),
        ({"scheduled_departure": "0001-01-01T00:00:00+14:00"}, "scheduled_departure"),
        ({"scheduled_arrival": "9999-12-31T23:59:59-14:00"}, "scheduled_arrival"),
        ({"as_of": "9999-12-31T23:59:59-14:00"}, "as_of"),
        ({"\u202etail": 1}, "\u202etail"),
    ],
)
def test_a_bad_field_is_a_422_that_names_it(service, complete, change, field):
    """One sentence, and the problem under its field."""
    answer = service.predict(complete | change)
    assert (answer.status, answer.type) == (422, "application/json")
    assert list(answer.json["fields"]) == [field]
    assert answer.json["error"] == f"{field}: {answer.json['fields'][field]}"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"NaN", b"[" * 10_000 + b"]" * 10_000])
def test_what_is_no_object_is_a_422(service, body):
    """Empty, torn, of another type, or deep enough to break a parser."""
    answer = service.send("POST", "/predict", body)
    assert (answer.status, list(answer.json["fields"])) == (422, ["body"])


@pytest.mark.parametrize("body", ['{"dest": "Z\u00fcrich"}'.encode("utf-16"), b'{"dest": "Z\xfcrich"}'])
def test_what_is_no_utf_8_is_a_415(service, body):
    answer = service.send("POST", "/predict", body)
    assert answer.status == 415
    assert "Send JSON in UTF-8." in answer.json["error"]


def test_a_moment_before_the_online_rows_is_a_422(service, complete):
    """The online store no longer knows what was known then, and the answer says so."""
    answer = service.predict(complete | {"as_of": "2013-09-30T23:59:59Z"})
    assert answer.status == 422
    assert "Ask for a later as_of" in answer.json["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/vnd.bentoml+pickle"])
def test_another_content_type_is_a_415(service, complete, kind):
    """Only what says that it is JSON is read, pickles least of all."""
    answer = service.send("POST", "/predict", json.dumps(complete), {"Content-Type": kind})
    assert answer.status == 415
    assert "Content-Type: application/json" in answer.json["error"]


def test_a_large_body_is_a_413_however_it_comes(service):
    """With its length, in chunks without one, and with a length that is only claimed."""
    megabyte = b" " * 1_000_000
    assert service.send("POST", "/predict", megabyte).status == 413
    assert service.send("POST", "/predict", iter([megabyte[:1000]] * 1000)).status == 413
    assert service.send("POST", "/predict", b"{}", JSON | {"Content-Length": "99999999999"}).status == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("DELETE", "/model", 405),
        ("GET", "/nope", 404),
        ("POST", "/predict/x", 404),
        ("GET", "/static_content/../service.py", 400),
        ("GET", "/static_content/nope", 404),
    ],
)
def test_what_is_not_there_is_said_in_json(service, method, path, status):
    """Unknown paths and wrong methods are one sentence, not BentoML's plain text."""
    answer = service.send(method, path)
    assert (answer.status, answer.type) == (status, "application/json")
    assert list(answer.json) == ["error"]


def test_the_documentation_is_of_the_version_that_serves(service, complete):
    """The page, its script and the request schema are there; the example in it is a request that works."""
    assert service.send("GET", "/docs").status == 200
    assert service.send("GET", "/static_content/swagger-ui-bundle.js").status == 200
    described = service.send("GET", "/openapi.json").json
    assert described["info"]["version"] == "2"
    schema = described["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(complete) <= set(schema["properties"])
    assert service.predict(schema["example"]).status == 200


# ---- what breaks around it ------------------------------------------------------------------------------------------


def test_the_alias_moves_a_hundred_times_under_load(service, complete):
    """Between v1 and v2 while requests run: none fails, and no answer mixes two versions."""
    alone = {}
    for version in ("1", "2"):
        service.champion(version)
        answer = service.predict(complete).json
        alone[version] = (answer["probability"], answer["feature_service"], list(answer["features"]))
    assert set(alone["1"][2]) - set(alone["2"][2]), "v1 has features that v2 lacks"
    moved = Event()

    def ask() -> list[Answer]:
        answers: list[Answer] = []
        while not moved.is_set():
            answers.append(service.predict(complete))
        return answers

    swaps = service.metric("fti_model_swaps_total")
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for number in range(98):
            move_champion(service.registry, str(1 + number % 2))
            time.sleep(0.05)
        for version in ("1", "2"):
            service.champion(version)
        moved.set()
        answers = [answer for future in asking for answer in future.result()]
    assert len(answers) >= FLIGHTS
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["model"]["version"] for answer in answers} == {"1", "2"}
    assert service.metric("fti_model_swaps_total") >= swaps + 2
    for answer in (answer.json for answer in answers):
        found = (answer["probability"], answer["feature_service"], list(answer["features"]))
        assert found == alone[answer["model"]["version"]]


def test_a_request_of_the_newer_model_is_answered_by_the_older_one(service, complete):
    """A rollback breaks no client: what only v2 takes is left alone by v1, with a warning."""
    service.champion("1")
    warnings = service.predict(complete).json["warnings"]
    service.champion("2")
    assert warnings == ["flight_number: this model makes no use of it", "tailnum: this model makes no use of it"]


def test_a_deleted_alias_changes_nothing(service, complete):
    """The last good version goes on serving, and the log says that the alias is gone."""
    service.champion(None, served="2")
    service.logged("has no version with the alias 'champion'. Train one: `make pipeline`. Version 2 goes on serving.")
    assert service.predict(complete).json["model"]["version"] == "2"
    service.champion("2")


def test_a_lost_registry_changes_nothing_and_is_followed_when_it_is_back(service, complete):
    """MLflow's database may go and be put back, as another file, while requests are answered."""
    kept = service.root / "kept.db"
    shutil.copy(service.registry, kept)
    service.registry.unlink()
    service.logged("There is no MLflow registry where MLFLOW_TRACKING_URI says. Correct that, or train a model: ")
    assert service.predict(complete).status == 200
    kept.replace(service.registry)
    service.champion("1")
    service.champion("2")


def register_copy(service: Service, folder: Path, change: Callable[[Path], dict[str, str]]) -> str:
    """Register a copy of version 2 whose files `change` has changed; returns its version. `change` gives new tags."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    client = MlflowClient(f"sqlite:///{service.registry}")
    good = client.get_model_version(MODEL, "2")
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{service.registry}")
        shutil.copytree(download_artifacts(good.source), folder)
    tags = good.tags | change(folder)
    return str(client.create_model_version(MODEL, source=str(folder), tags=tags).version)


@pytest.mark.parametrize(
    ("change", "registered_as", "said"),
    [
        ({"ttl_seconds": 1}, "before", "it was changed since. Train and register again."),
        ({"ttl_seconds": 1}, "after", "stored_views.carrier_origin_reliability.ttl_seconds: recorded 1, now 21600"),
        ({"features": {"another": "double"}}, "after", "stored_views.carrier_origin_reliability.features.another"),
    ],
)
def test_a_broken_contract_is_refused(service, complete, tmp_path, change, registered_as, said):
    """A contract that is not the one registered, or that the live feature registry cannot honour, never serves."""
    from fti.contract.feature_contract import FeatureContract
    from fti.contract.registered import DIGEST_TAG, MODEL_DIGEST_TAG, folder_sha256

    def broken(folder: Path) -> dict[str, str]:
        file = folder / "extra_files" / "feature_contract.json"
        contract = json.loads(file.read_text())
        contract["interface"]["stored_views"][0] |= change
        file.write_text(json.dumps(contract))
        after = FeatureContract.model_validate(contract).sha256
        return {DIGEST_TAG: after, MODEL_DIGEST_TAG: folder_sha256(folder)} if registered_as == "after" else {}

    bad = register_copy(service, tmp_path / "model", broken)
    service.champion(bad, served="2")
    service.logged(f"Version {bad} of 'arrival-delay' is refused: ")
    refusal = service.log.read_text().split(f"Version {bad} of 'arrival-delay' is refused: ")[1].splitlines()[0]
    assert said in refusal
    assert "Version 2 goes on serving." in refusal
    assert service.predict(complete).json["model"]["version"] == "2"
    service.champion("2")


def test_a_model_that_predicts_otherwise_here_is_refused(service, complete, tmp_path):
    """Golden rows that come out a millionth off, as under another version of a library: never served."""
    from fti.contract.registered import MODEL_DIGEST_TAG, folder_sha256

    def another(folder: Path) -> dict[str, str]:
        file = folder / "extra_files" / "golden.json"
        golden = json.loads(file.read_text())
        golden["probabilities"][7] += 1e-6
        file.write_text(json.dumps(golden))
        return {MODEL_DIGEST_TAG: folder_sha256(folder)}

    service.champion(register_copy(service, tmp_path / "model", another), served="2")
    service.logged("does not predict here what it did in training: 20 golden rows differ by up to 1e-06.")
    assert service.predict(complete).json["model"]["version"] == "2"
    service.champion("2")


def test_what_is_refused_leaves_no_files(trained, monkeypatch, tmp_path):
    """It is fetched again at every poll, for as long as it is refused: that would fill a disk."""
    from fti.contract.interface import ContractBroken
    from fti.contract.registered import MODEL_DIGEST_TAG
    from fti.scoring.loading import find_version, load

    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.tracking_uri)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    version = find_version(MODEL, "champion")
    fetched = []
    monkeypatch.setattr("fti.contract.registered.folder_sha256", lambda folder: fetched.append(folder) or "another")
    with pytest.raises(ContractBroken, match=f"registered with {version.tags[MODEL_DIGEST_TAG]}"):
        load(version, trained.repo)
    assert [tmp_path in folder.parents for folder in fetched] == [True]
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_files_were_changed_is_refused(service, complete, tmp_path):
    """One byte after the version was registered, and nothing of it is loaded."""

    def touched(folder: Path) -> dict[str, str]:
        file = next(folder.glob("model.*"))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        return {}

    service.champion(register_copy(service, tmp_path / "model", touched), served="2")
    service.logged("the model was changed since. Nothing of it was loaded")
    assert service.predict(complete).json["model"]["version"] == "2"
    service.champion("2")


def test_a_slow_online_store_slows_answers_and_nothing_else(service, complete):
    """Requests that come meanwhile share the wait; probes and /model answer at once; then all is as before."""
    before = service.predict(complete).json
    service.slow(1)
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            asking = [pool.submit(service.predict, complete) for _ in range(20)]
            time.sleep(0.3)
            looked = time.monotonic()
            assert {service.send("GET", path).status for path in ("/livez", "/readyz", "/model")} == {200}
            assert time.monotonic() - looked < 0.7
            answers = [future.result() for future in asking]
        assert {answer.status for answer in answers} == {200}
        assert 1 < time.monotonic() - began < 10, "twenty reads after one another take 20 s"
    finally:
        service.slow(None)
    assert service.predict(complete).json == before


def test_a_store_that_hangs_is_a_504_and_too_many_are_a_429(service, complete):
    """Nobody waits for ever; what cannot be answered in time is told so at once, and it ends with the cause."""
    service.slow(12)
    try:
        with ThreadPoolExecutor(80) as pool:
            asking = [pool.submit(service.predict, complete) for _ in range(80)]
            answers = [future.result() for future in asking]
    finally:
        service.slow(None)
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {429, 504}
    assert statuses[504] <= 64
    assert {answer.type for answer in answers} == {"application/json"}
    told = next(answer for answer in answers if answer.status == 429)
    assert told.headers["retry-after"] == "1"
    assert "ask again in a second" in told.json["error"]
    until(lambda: service.predict(complete).status == 200)


def test_a_client_that_sends_no_body_is_a_408_and_delays_nobody(service, complete):
    """A hundred of them: each is told after a second, and meanwhile others are answered."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 100\r\n\r\n{"
    slow = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(100)]
    for client in slow:
        client.sendall(head)
    began = time.monotonic()
    assert service.predict(complete).status == 200
    assert time.monotonic() - began < 1
    for client in slow:
        client.settimeout(10)
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")
        client.close()


def test_what_schemathesis_makes_up_never_breaks_it(service):
    """Requests generated from the service's own OpenAPI description, good and bad: no answer is a 5xx."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"http://127.0.0.1:{service.port}/openapi.json",
        "--checks", "not_a_server_error,content_type_conformance,status_code_conformance,response_schema_conformance",
        "--max-examples", "60", "--seed", "1", "--generation-deterministic",
    ]  # fmt: skip
    found = subprocess.run(command, cwd=service.root, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout[-6000:]


def test_a_broken_online_store_is_a_503_until_it_is_mended(service, complete):
    """One sentence for the client and no trace of where or how; a good file in its place is found by itself.

    Until the store is next opened anew, pages of the file that SQLite still has in memory may answer: as before.
    """
    before = service.predict(complete).json
    kept = service.root / "kept.db"
    shutil.copy(service.online_store, kept)
    service.online_store.write_bytes(b"junk" * 1_000_000)
    answers: list[Answer] = []

    def refused() -> bool:
        answers.append(service.predict(complete))
        return answers[-1].status == 503

    until(refused)
    *earlier, answer = answers
    assert [one.json for one in earlier] == [before] * len(earlier)
    assert "The online store cannot be read" in answer.json["error"]
    assert not [secret for secret in SECRETS if secret in answer.text]
    kept.replace(service.online_store)
    until(lambda: service.predict(complete).status == 200)
    assert service.predict(complete).json == before


def test_an_emptied_online_store_scores_nobody_until_it_is_filled(service, complete):
    """A server that came back without its rows is not a thousand unknown flights; and no version is lost over it."""
    before = service.predict(complete).json
    with emptied(service.online_store):
        for number in range(3):
            answer = service.predict(complete | {"carrier": ["DL", "UA", "B6"][number]})
            assert (answer.status, "it is empty" in answer.json["error"]) == (503, True)
        rows = json.dumps({"rows": [complete]})
        assert service.send("POST", "/predict_batch", rows).status == 503
    until(lambda: service.predict(complete).status == 200)
    assert service.predict(complete).json == before


# ---- explanations, and how the service is ---------------------------------------------------------------------------


def test_an_explanation_adds_up_to_the_answer_it_explains(service, flights, complete):
    """It is the answer of /predict, and the log-odds of its probability, input by input; nothing of it is logged."""
    counted, rows = service.metric("fti_predictions_total"), 0
    bare = {name: value for name, value in complete.items() if name != "tailnum"}
    for request in [complete, bare, *(request_for(one) for one in flights.head(20).to_dict("records"))]:
        sent = service.send("POST", "/explain", json.dumps(request), JSON | {"X-Request-ID": "explained"})
        predicted = service.predict(request)
        assert sent.status == predicted.status
        if sent.status == 422:
            assert sent.json == predicted.json
            continue
        rows += 1
        said = sent.json
        explanation = said.pop("explanation")
        assert said == predicted.json
        contributions = explanation["contributions"]
        moved = [abs(one["contribution"]) for one in contributions]
        assert moved == sorted(moved, reverse=True)
        assert moved[0] > 0
        assert {one["feature"]: (one["value"], one["source"]) for one in contributions} == {
            name: (one["value"], one["source"]) for name, one in said["features"].items()
        }
        total = explanation["base"] + sum(one["contribution"] for one in contributions)
        assert abs(total - explanation["output"]) < 1e-6
        assert abs(explanation["output"] - math.log(said["probability"] / (1 - said["probability"]))) < 1e-6
        assert abs(explanation["base_probability"] - 1 / (1 + math.exp(-explanation["base"]))) < 1e-12
        assert explanation["scale"] == "log-odds"
    assert rows > 15
    until(lambda: service.metric("fti_log_queue") == 0)
    assert service.metric("fti_predictions_total") == counted + rows
    assert service.logged_rows("request_id = 'explained'").empty


def test_what_cannot_be_predicted_cannot_be_explained(service, complete):
    """With the same words."""
    for body, headers in (
        (b"[]", JSON), (b"{", JSON), (b"{}", {"Content-Type": "text/plain"}), (b" " * 70_000, JSON),
        (json.dumps(complete | {"dest": "XXX"}), JSON), (json.dumps(complete | {"as_of": "2013-01-01T00:00Z"}), JSON),
    ):  # fmt: skip
        refused, explained = (service.send("POST", path, body, headers) for path in ("/predict", "/explain"))
        assert (explained.status, explained.json) == (refused.status, refused.json)
        assert refused.status in {413, 415, 422}


def test_few_are_explained_at_once_and_predictions_go_on(service, complete):
    """Beyond four, who asks is told to come again; that takes no place from those who only want an answer."""
    service.slow(1)
    try:
        with ThreadPoolExecutor(30) as pool:
            body = json.dumps(complete)
            explaining = [pool.submit(service.send, "POST", "/explain", body) for _ in range(10)]
            predicting = [pool.submit(service.predict, complete) for _ in range(20)]
            answers, others = [one.result() for one in explaining], [one.result() for one in predicting]
    finally:
        service.slow(None)
    assert Counter(one.status for one in answers) == {200: 4, 429: 6}
    assert {one.status for one in others} == {200}
    told = next(one for one in answers if one.status == 429)
    assert (told.headers["retry-after"], "ask again in a second" in told.json["error"]) == ("1", True)
    assert service.send("POST", "/explain", json.dumps(complete)).status == 200


def test_a_model_that_is_not_explained_is_a_501_that_says_why(service, complete, tmp_path):
    """A calibrated version predicts, and its contributions are known to nobody."""
    import mlflow
    import numpy as np

    from fti.contract.feature_contract import FeatureContract
    from fti.contract.registered import MODEL_DIGEST_TAG, folder_sha256
    from fti.training.config import load_config
    from training.model import TRUSTED_TYPES, build_model

    def calibrated(folder: Path) -> dict[str, str]:
        file = folder / "extra_files" / "golden.json"
        golden = json.loads(file.read_text())
        interface = FeatureContract.model_validate_json(
            (folder / "extra_files" / "feature_contract.json").read_text()
        ).interface
        inputs = interface.model_inputs(pd.DataFrame(golden["inputs"]))
        parameters = load_config({}).model.model_copy(update={"calibration": "sigmoid", "max_iter": 3})
        model = build_model(interface.categories, parameters).fit(inputs, np.arange(len(inputs)) % 2)
        mlflow.sklearn.save_model(
            model, tmp_path / "calibrated", skops_trusted_types=TRUSTED_TYPES, pip_requirements=[]
        )
        for made in (tmp_path / "calibrated").glob("model.*"):
            shutil.copy(made, folder)
        golden["probabilities"] = model.predict_proba(inputs)[:, 1].tolist()
        file.write_text(json.dumps(golden))
        return {MODEL_DIGEST_TAG: folder_sha256(folder)}

    service.champion(register_copy(service, tmp_path / "model", calibrated))
    try:
        assert service.predict(complete).status == 200
        answer = service.send("POST", "/explain", json.dumps(complete))
        assert answer.status == 501
        assert "such as a calibrated one" in answer.json["error"]
    finally:
        service.champion("2")


def test_the_report_tells_model_versions_traffic_views_and_swaps(service, complete):
    """As the registry, the log and the process have them; and every request it offers is one that is answered."""
    assert service.predict(complete).status == 200
    until(lambda: service.metric("fti_log_queue") == 0)
    time.sleep(3)  # what was reported a moment ago is not read again
    told = service.send("GET", "/status").json
    assert told["problems"] == []
    model = service.send("GET", "/model").json
    assert {name: told["model"][name] for name in ("name", "version", "following", "loaded_at")} == {
        name: model[name] for name in ("name", "version", "following", "loaded_at")
    }
    assert 0.1 < told["model"]["base_rate"] < 0.4
    champion, previous = told["versions"]["champion"], told["versions"]["previous"]
    assert (champion["version"], champion["decision"], champion["feature_service"]) == (
        "2",
        "passed",
        "arrival_delay_v2",
    )
    assert champion["roc_auc"] > previous["roc_auc"] > 0.6
    assert (previous["version"], told["versions"]["challenger"]) == ("1", None)
    answered = service.logged_rows("role = 'champion'")
    assert sum(one["rows"] for one in told["traffic"]["by_hour"]) == len(answered)
    assert told["traffic"]["requests"] == answered.request_id.nunique()
    assert 0 < told["traffic"]["latency_ms"]["p50"] <= told["traffic"]["latency_ms"]["p99"]
    assert [one["name"] for one in told["views"]] == [
        one["name"] for one in service.send("GET", "/features").json["views"]
    ]
    assert {one["state"] for one in told["views"]} == {"fresh"}
    assert "serving version 2 of 'arrival-delay' as champion" in {one["what"] for one in told["events"]}
    assert [one["at"] for one in told["events"]] == sorted((one["at"] for one in told["events"]), reverse=True)
    assert (told["monitors"], told["links"]) == ([], [])
    offered = service.send("GET", "/requests?limit=5").json
    assert offered["problems"] == []
    assert len(offered["requests"]) >= 2
    for one in offered["requests"]:
        assert service.predict(one["request"] | {"as_of": one["as_of"]}).status == 200


# ---- the end --------------------------------------------------------------------------------------------------------


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def test_sigterm_lets_running_requests_finish(service, complete):
    """Readiness goes first, while requests are still answered; each sent before that is; then all processes end."""
    processes = family(service.process)
    told = Event()

    def ask() -> list[tuple[bool, int]]:
        answers = []
        while True:
            late = told.is_set()
            try:
                answers.append((late, service.predict(complete).status))
            except OSError:
                answers.append((late, 0))
                return answers

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        time.sleep(1)
        told.set()
        service.process.send_signal(signal.SIGTERM)
        until(lambda: service.send("GET", "/readyz").status == 503)
        assert service.predict(complete).status == 200
        answers = [answer for future in asking for answer in future.result()]
    assert {status for late, status in answers if not late} == {200}
    assert [status for late, status in answers if late].count(200) > 10
    assert service.process.wait(60) == 0
    assert psutil.wait_procs(processes, timeout=10)[1] == []


def workers(service: Service) -> list[psutil.Process]:
    """The processes that answer; one that was killed is none, before its parent has noticed too."""
    found = []
    for one in family(service.process):
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "_bentoml_impl.worker.service" in " ".join(one.cmdline()):
                found.append(one)
    return found


def versions(service: Service) -> list[str]:
    """The version that each living worker serves, by their own account."""
    lines = service.send("GET", "/metrics").text.splitlines()
    return [line.rpartition(" ")[2] for line in lines if line.startswith("fti_model_version{") and "champion" in line]


def test_all_workers_follow_the_alias(started):
    """Each says so in the metrics, whichever is asked; and once they do, no answer is of another version."""
    until(lambda: versions(started) == ["2.0", "2.0"])
    for version in ("1", "2"):
        move_champion(started.registry, version)
        until(lambda wanted=version: versions(started) == [f"{wanted}.0"] * 2)
        assert {started.send("GET", "/model").json["version"] for _ in range(20)} == {version}


def test_a_shadow_scores_and_is_never_answered(started, complete):
    """The challenger's answers go nowhere but into metrics and the log of predictions."""
    before = started.metric('fti_shadow_total{outcome="scored"}')
    assert {started.predict(complete).json["model"]["version"] for _ in range(20)} == {"2"}
    until(lambda: started.metric('fti_shadow_total{outcome="scored"}') > before)
    assert started.metric('fti_shadow_total{outcome="failed"}') == 0
    until(lambda: len(started.logged_rows("role = 'shadow'")) > 0)
    shadow = started.logged_rows("role = 'shadow'")
    champion = started.logged_rows("role = 'champion'")
    assert set(shadow.model_version) == {"1"}
    assert set(shadow.request_id) <= set(champion.request_id)
    assert set(shadow.prediction).isdisjoint(champion.prediction)


def test_traces_go_where_they_are_wanted(started, complete, collector):
    """One trace a request, under the caller's own; its stages are named, and say which version scored how many rows."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = JSON | {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    assert started.send("POST", "/predict", json.dumps(complete), headers).status == 200
    until(lambda: {"parse", "score"} <= {span.name for span in collector.spans if span.trace_id.hex() == trace})
    (scored,) = [span for span in collector.spans if span.trace_id.hex() == trace and span.name == "score"]
    told = {one.key: one.value.string_value or one.value.int_value for one in scored.attributes}
    assert told == {"model.name": MODEL, "model.version": "2", "rows": 1}


def test_a_killed_worker_is_replaced_and_the_other_answers(started, complete):
    """No answer is an error; what is counted for the dead one ends with it."""
    victim, other = workers(started)
    victim.kill()
    statuses = []
    for _ in range(50):
        try:
            statuses.append(started.predict(complete).status)
        except OSError:
            statuses.append(0)  # its connection went with it
    assert set(statuses) <= {200, 0}
    assert statuses.count(200) > 40
    until(lambda: len(workers(started)) == 2 and versions(started) == ["2.0", "2.0"])
    assert other in workers(started)
    assert victim.pid not in {one.pid for one in workers(started)}


def test_interrupting_start_ends_everything(started):
    """Ctrl-C, or SIGINT to `fti.serving.start` alone, leaves no process behind."""
    processes = family(started.process)
    assert len(processes) > 3
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(60) == 130
    assert psutil.wait_procs(processes, timeout=10)[1] == []
