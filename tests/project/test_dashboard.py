"""What the dashboard and the alerts ask Prometheus for is what the service and the monitors export."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from fti.contract.results import MONITORS, Result
from fti.monitoring.exposition import write_metrics
from fti.serving import metrics

MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
BY_PROMETHEUS = {"job", "instance"}  # labels of whatever is scraped
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not on the PATH: apt-get install prometheus"
)
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """By name as Prometheus has it, the labels of all metrics of the service and of the monitors."""
    found: dict[str, set[str]] = {}
    for one in vars(metrics).values():
        if isinstance(one, MetricWrapperBase):
            for suffix in SUFFIXES[one._type]:
                found[one._name + suffix] = {*one._labelnames, *(["le"] if suffix == "_bucket" else [])}
    file, moment = tmp_path_factory.mktemp("monitor") / "monitor.prom", datetime(2013, 10, 1, tzinfo=UTC)
    write_metrics(moment, [Result("drift", moment, moment, "one", "psi", 0.1, 10, "healthy")], file)
    for family in text_string_to_metric_families(file.read_text()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found | {"up": set()}  # which Prometheus makes itself, of each target


def dashboard() -> dict[str, Any]:
    return json.loads((MONITORING / "dashboard.json").read_text())


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
    ]


def questions() -> Iterator[tuple[str, str]]:
    """Who asks, and what, with Grafana's variables filled in."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*")
    for rule in rules():
        yield rule["alert"], rule["expr"]


def selectors(question: str) -> list[tuple[str, dict[str, str]]]:
    """The metrics that a question reads, each with what it wants their labels to be."""
    found = []

    def walk(node: Any) -> None:
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {one.name: one.value for one in node.matchers.matchers}))
        for part in ("lhs", "rhs", "expr"):
            if hasattr(node, part):
                walk(getattr(node, part))
        for one in getattr(node, "args", None) or []:
            walk(one)

    walk(promql_parser.parse(question))
    return found


@pytest.mark.parametrize(("name", "question"), list(questions()))
def test_what_is_asked_for_is_exported(exported, name, question):
    """Every metric there is, with the labels that it is chosen and grouped by."""
    asked = selectors(question)
    assert asked
    for metric, wanted in asked:
        assert metric in exported, f"{name} asks for {metric}"
        assert set(wanted) <= exported[metric] | BY_PROMETHEUS
    labels = set().union(*(exported[metric] for metric, _ in asked))
    grouped = {label.strip() for inner in re.findall(r"by \(([^)]*)\)", question) for label in inner.split(",")}
    assert grouped <= labels


def test_labels_have_the_values_that_are_asked_for():
    """A path that nobody serves, or a monitor that there is not, would show nothing for ever."""
    chosen = [wanted for _, question in questions() for _, wanted in selectors(question)]
    assert {one["path"] for one in chosen if "path" in one} == {"/predict"}
    assert {one["monitor"] for one in chosen if "monitor" in one} <= {*MONITORS, "cycle"}
    source = (Path(metrics.__file__).parent / "prediction_log.py").read_text()
    for outcome in {one["outcome"] for one in chosen if "outcome" in one}:
        assert f'"{outcome}"' in source


def test_every_metric_of_the_service_is_on_the_dashboard(exported):
    """What is worth counting is worth seeing."""
    shown = {metric for _, question in questions() for metric, _ in selectors(question)}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported}
    assert families == {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}


def test_panels_have_places_of_their_own_and_legends_that_labels_fill(exported):
    panels = dashboard()["panels"]
    assert max(Counter(panel["id"] for panel in panels).values()) == 1
    taken = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert max(taken.values()) == 1
    assert max(x for x, _ in taken) < 24
    for panel in panels:
        for target in panel.get("targets", []):
            (metric, _), *_ = selectors(target["expr"].replace("$__rate_interval", "5m"))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= exported[metric]
            assert target["datasource"]["uid"] == "${source}"


def test_instances_are_those_of_a_job_that_is_scraped():
    """By its name here; tests/project/test_deployment.py looks at the chart's."""
    jobs = {one["job_name"] for one in yaml.safe_load((MONITORING / "prometheus.yaml").read_text())["scrape_configs"]}
    asked = {wanted["job"] for rule in rules() for metric, wanted in selectors(rule["expr"]) if metric == "up"}
    assert asked == {"fti"} <= jobs


def test_alerts_say_how_bad_it_is_and_what_to_do():
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_starts_with_the_rules_and_the_places_to_look_at(tmp_path):
    """As it lies in a checkout, with the key that the comment beside it makes."""
    here = Path(shutil.copytree(MONITORING, tmp_path / "deploy" / "monitoring"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prometheus.key").write_text("a key")
    promtool("check", "config", here / "prometheus.yaml")


@needs_promtool
def test_alerts_fire_on_what_they_are_for_and_on_nothing_else():
    """Nor where all is well, nobody asks, or there is no model yet."""
    promtool("test", "rules", MONITORING / "alerts_test.yaml")


def test_every_alert_is_seen_to_fire():
    """In one of the worlds of alerts_test.yaml."""
    worlds = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    fires = {one["alertname"] for world in worlds for one in world.get("alert_rule_test", []) if one["exp_alerts"]}
    for one in (one for world in worlds for one in world.get("promql_expr_test", [])):
        fires |= set(re.findall(r'alertname="(\w+)"', str(one["exp_samples"])))
    assert fires == {rule["alert"] for rule in rules()}
