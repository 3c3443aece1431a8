"""A real Prometheus beside the real service: by the files of deploy/monitoring, at other addresses, less patiently."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import yaml

from fti.contract.results import Result
from fti.monitoring.exposition import write_metrics
from tests.conftest import ROOT, copy_registry, emptied
from tests.project.journeys.test_serving import MODEL, Service, free_port, launch, until
from tests.receiver import OK, Receiver

MONITORING = ROOT / "deploy" / "monitoring"
NEEDED = ("prometheus", "prometheus-alertmanager")  # as Debian calls them
pytestmark = pytest.mark.skipif(
    not all(shutil.which(name) for name in NEEDED),
    reason="Prometheus is not on the PATH: apt-get install prometheus prometheus-alertmanager",
)
NOON = datetime(2013, 10, 1, 12, tzinfo=UTC)
FLIGHT = {
    "as_of": "2013-10-01T00:00:00Z", "carrier": "DL", "origin": "LGA", "dest": "ATL",
    "scheduled_departure": "2013-10-01T12:00:00Z", "scheduled_arrival": "2013-10-01T14:30:00Z",
}  # fmt: skip
WINTER = {name: value.replace("2013-10", "2013-12") for name, value in FLIGHT.items()}


@pytest.fixture(scope="module")
def service(trained, tmp_path_factory) -> Iterator[Service]:
    """With a shadow model, on copies of the registry and the online store."""
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("scraped")
    copy_registry(trained, root)
    shutil.copytree(trained.repo, root / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(trained.root / "data" / "feast", root / "data" / "feast")
    MlflowClient(f"sqlite:///{root / 'mlflow.db'}").set_registered_model_alias(MODEL, "challenger", "1")
    port, log = free_port(), root / "log"
    command = [sys.executable, "-m", "fti.serving.start"]
    shadow = {"SERVING_SHADOW_ALIAS": "challenger", "SERVING_SHADOW_SHARE": "1"}
    process = launch(command, port, root, log, shadow)
    try:
        made = Service(process, port, root, log, {})
        until(lambda: made.send("GET", "/readyz").status == 200)
        yield made
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def monitors(tmp_path_factory) -> Iterator[int]:
    """The port of a node_exporter, which hands out what the monitors wrote."""
    file = tmp_path_factory.mktemp("monitors") / "monitor.prom"
    found = [
        ("quality", "all", "roc_auc"), ("quality", "all", "bias"), ("consistency", "champion", "consistency"),
        ("drift", "champion", "prediction"), ("freshness", "a view", "online_rows_lost"), ("cycle", "train", "seconds"),
    ]  # fmt: skip
    write_metrics(NOON, [Result(*one[:1], NOON, NOON, *one[1:], 0.5, 10, "investigate") for one in found], file)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(file.read_bytes())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def prometheus(service, monitors, receive, tmp_path) -> Iterator[tuple[Callable[[str], list[Any]], Receiver]]:
    """What answers a question in PromQL, and who alerts are sent to by Alertmanager."""
    receiver, port, manager = receive(OK), free_port(), free_port()
    settings = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{manager}"]}]
    for job, where in zip(settings["scrape_configs"], (service.port, monitors), strict=True):
        job["static_configs"] = [{"targets": [f"127.0.0.1:{where}"]}]
        if "authorization" in job:
            job["authorization"]["credentials_file"] = "key"
    (tmp_path / "key").write_text("any")
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    rules = re.sub(r"\[\d+m\]", "[20s]", re.sub(r"for: \d+[mh]", "for: 2s", (MONITORING / "alerts.yaml").read_text()))
    (tmp_path / "alerts.yaml").write_text(rules)
    patience = {"group_by": ["alertname"], "group_wait": "1s", "group_interval": "1s"}
    told = {"name": "hook", "webhook_configs": [{"url": receiver.url}]}
    (tmp_path / "manager.yaml").write_text(
        yaml.safe_dump({"route": {"receiver": "hook"} | patience, "receivers": [told]})
    )
    commands = (
        ["prometheus", f"--config.file={tmp_path}/prometheus.yaml", f"--storage.tsdb.path={tmp_path}/data",
         f"--web.listen-address=127.0.0.1:{port}"],
        ["prometheus-alertmanager", f"--config.file={tmp_path}/manager.yaml", f"--storage.path={tmp_path}/manager",
         f"--web.listen-address=127.0.0.1:{manager}", "--cluster.listen-address="],
    )  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        running = [subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path) for command in commands]

    def asked(question: str) -> list[Any]:
        answer = requests.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": question}, timeout=30)
        return [one for one in answer.json()["data"]["result"] if one["value"][1] != "NaN"]

    try:
        until(lambda: len(asked("up == 1")) == 2)
        yield asked, receiver
    finally:
        for one in running:
            one.terminate()
        for one in running:
            one.wait(30)


def panels() -> Iterator[tuple[str, str]]:
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m").replace("$job", ".*")


def traffic(service: Service) -> None:
    """Requests of every kind: known and unknown, long after the newest rows, many at once, explained, and wrong."""
    for flight in (FLIGHT, FLIGHT | {"tailnum": "N0BODY"}, WINTER, {}):
        service.predict(flight)
    for path, body in (("/predict_batch", {"rows": [FLIGHT, WINTER]}), ("/explain", FLIGHT)):
        assert service.send("POST", path, json.dumps(body)).status == 200


def test_every_panel_of_the_dashboard_shows_something(service, prometheus):
    """After requests of every kind, and a registry that was away for a while."""
    asked, _ = prometheus
    away = service.registry.with_suffix(".away")
    traffic(service)  # a counter is seen to grow only after it was seen at all
    service.registry.rename(away)
    until(lambda: service.metric("fti_refusals_total") > 0)
    away.rename(service.registry)

    def empty() -> list[str]:
        traffic(service)
        time.sleep(1)
        return [f"{title}: {question}" for title, question in panels() if not asked(question)]

    until(lambda: not empty())


def test_alerts_reach_who_is_to_hear_of_them(service, prometheus):
    """Of a view that lost its rows, of an online store that lost all, and that it is well again."""
    _, receiver = prometheus

    def heard(status: str, **labels: str) -> bool:
        for flight in (FLIGHT, FLIGHT | {"tailnum": "N0BODY"}):
            service.predict(flight)
        alerts = [one for _, _, body in receiver.seen for one in body["alerts"] if one["status"] == status]
        return any(one["labels"].items() >= labels.items() for one in alerts)

    with emptied(service.online_store, "%origin_weather"):
        until(lambda: heard("firing", alertname="FeaturesMissing", view="origin_weather", severity="page"))
    with emptied(service.online_store):
        until(lambda: heard("firing", alertname="PredictionsFail", severity="page"))
    until(lambda: heard("resolved", alertname="PredictionsFail"))
