"""What is made of results: metrics that Prometheus parses, alerts that a real receiver takes or refuses, a report."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr, ValidationError

from validation.monitoring.alert import SHOWN, AlertFailed, AlertSettings, alert, message
from validation.monitoring.exposition import LABELS, MOST_SERIES, write_metrics
from validation.monitoring.results import Result

START = datetime(2013, 10, 5, tzinfo=UTC)
END = START + timedelta(days=7)
SERVED = "arrival-delay version 2, champion"
DRIFT = Result("drift", START, END, SERVED, "wind", 0.3, 100, "investigate", 0.0, 0.01, "more wind")
BREACH = Result("consistency", START, END, SERVED, "wind", 0.2, 100, "breach", details="20 mismatch")
SECRET = "T0/B0/a-secret"


# Metrics


def samples(path: Path) -> dict[tuple[str, ...], float]:
    """Each sample of a file by its name and labels."""
    families = text_string_to_metric_families(path.read_text())
    found = [one for family in families for one in family.samples]
    return {(one.name, *(one.labels[name] for name in LABELS if name in one.labels)): one.value for one in found}


def test_prometheus_reads_what_was_measured(tmp_path: Path) -> None:
    """Value, verdict and rows of each measurement, with any text for a label, and the moment they are as of."""
    odd = replace(DRIFT, subject='a "quoted"\nname \\', value=None, verdict="no_data")
    write_metrics(END, [DRIFT, BREACH, odd, replace(DRIFT, metric="slice", verdict=None)], tmp_path / "new" / "m.prom")
    found = samples(tmp_path / "new" / "m.prom")
    assert found["fti_monitor_value", "drift", SERVED, "wind"] == 0.3
    assert found["fti_monitor_verdict", "drift", SERVED, "wind"] == 1
    assert found["fti_monitor_verdict", "consistency", SERVED, "wind"] == 2
    assert found["fti_monitor_rows", "drift", SERVED, "wind"] == 100
    assert found["fti_monitor_as_of_timestamp_seconds",] == END.timestamp()
    assert found["fti_monitor_verdict", "drift", odd.subject, "wind"] == -1
    assert ("fti_monitor_value", "drift", odd.subject, "wind") not in found
    assert ("fti_monitor_verdict", "drift", SERVED, "slice") not in found
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["m.prom"]


def test_days_of_a_measurement_share_a_series(tmp_path: Path) -> None:
    """Its value is the newest day's, or the whole window's where there is one; its verdict the worst of all."""
    days = [
        replace(DRIFT, start=START + timedelta(days=day), end=START + timedelta(days=day + 1), value=float(day))
        for day in range(3)
    ]
    bad = replace(days[0], verdict="breach")
    write_metrics(END, [days[1], days[2], bad], tmp_path / "days.prom")
    found = samples(tmp_path / "days.prom")
    assert found["fti_monitor_value", "drift", SERVED, "wind"] == 2
    assert found["fti_monitor_verdict", "drift", SERVED, "wind"] == 2
    write_metrics(END, [*days, DRIFT], tmp_path / "whole.prom")
    assert samples(tmp_path / "whole.prom")["fti_monitor_value", "drift", SERVED, "wind"] == 0.3


def test_series_are_bounded_and_the_worst_stay(tmp_path: Path) -> None:
    """What is beyond the bound is counted, and no breach is among it."""
    many = [replace(DRIFT, metric=f"f{number}", verdict="healthy") for number in range(MOST_SERIES + 9)]
    write_metrics(END, [*many, BREACH], tmp_path / "m.prom")
    found = samples(tmp_path / "m.prom")
    assert sum(name == "fti_monitor_value" for name, *_ in found) == MOST_SERIES
    assert found["fti_monitor_series_left_out",] == 10
    assert found["fti_monitor_verdict", "consistency", SERVED, "wind"] == 2


# Alerts


@dataclass
class Receiver:
    """Answers with each of `plan` in turn, the last one for ever: a status and headers, or seconds to say nothing."""

    plan: list[tuple[int, dict[str, str]] | float]
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    port: int = 0

    def settings(self, attempts: int = 3, timeout: float = 5) -> AlertSettings:
        url = SecretStr(f"http://127.0.0.1:{self.port}/services/{SECRET}")
        return AlertSettings(webhook_url=url, webhook_attempts=attempts, webhook_timeout_seconds=timeout)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers.get("Content-Length", 0))) or b"null")
        turn = self.plan[min(len(self.seen), len(self.plan) - 1)]
        self.seen.append((handler.path, dict(handler.headers.items()), body))
        self.times.append(time.monotonic())
        if isinstance(turn, float):
            time.sleep(turn)
            return
        handler.send_response_only(turn[0])  # without a date of its own
        for name, value in turn[1].items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@pytest.fixture
def receive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Receiver]]:
    """Start receivers on ports of this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(*plan: tuple[int, dict[str, str]] | float) -> Receiver:
        receiver = Receiver(list(plan))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.answer(self)

            def do_GET(self) -> None:
                receiver.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        receiver.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return receiver

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


OK, BUSY = (200, {}), (503, {})


def test_an_alert_arrives_after_two_failures(receive: Callable[..., Receiver]) -> None:
    """All three deliveries have one key, by which a receiver can drop repeats; so has the same finding later."""
    receiver = receive(BUSY, BUSY, OK)
    assert alert(receiver.settings(), END, [DRIFT, BREACH], 0.01)
    assert alert(receiver.settings(), END, [DRIFT, BREACH], 0.01)
    keys = {headers["Idempotency-Key"] for _, headers, _ in receiver.seen}
    assert (len(receiver.seen), len(keys)) == (4, 1)
    assert alert(receiver.settings(), END + timedelta(days=1), [BREACH], 0.01)
    assert receiver.seen[-1][1]["Idempotency-Key"] not in keys
    path, headers, body = receiver.seen[0]
    assert (path, headers["Content-Type"]) == (f"/services/{SECRET}", "application/json")
    assert (body["verdict"], body["as_of"], len(body["results"])) == ("breach", END.isoformat(), 1)
    assert body["text"].splitlines() == [
        "Monitoring as of 2013-10-12 00:00 UTC: 1 measurement is in breach.",
        f"- consistency, {SERVED}: wind 0.2. 20 mismatch",
    ]


def test_nothing_is_sent_without_a_breach_or_a_receiver(receive: Callable[..., Receiver]) -> None:
    """Healthy results concern nobody, and no URL means no alerts."""
    receiver = receive(OK)
    assert not alert(receiver.settings(), END, [DRIFT])
    assert not alert(AlertSettings(webhook_url=None), END, [BREACH])
    assert receiver.seen == []


@pytest.mark.parametrize(
    ("plan", "attempts", "said"),
    [
        ([BUSY], 3, "it answered 503"),
        ([(400, {})], 1, "it answered 400"),
        ([(404, {})], 1, "it answered 404"),
        ([5.0], 3, "it did not answer in time"),
        ([0.0], 3, "RemoteDisconnected"),
    ],
)
def test_a_receiver_that_does_not_take_it_is_named_and_its_url_is_not(
    receive: Callable[..., Receiver], caplog: pytest.LogCaptureFixture, plan: list[Any], attempts: int, said: str
) -> None:
    """What may pass is tried again, what will not is not; in error and log there is the host alone."""
    receiver = receive(*plan)
    with caplog.at_level(logging.DEBUG), pytest.raises(AlertFailed) as failed:
        alert(receiver.settings(timeout=0.2), END, [BREACH], 0.01)
    assert len(receiver.seen) == attempts
    assert f"127.0.0.1 (attempt {attempts} of 3): {said}" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert SECRET not in str(failed.value) + caplog.text
    assert failed.value.__suppress_context__


def test_no_redirect_is_followed(receive: Callable[..., Receiver]) -> None:
    """What is meant for one address goes to no other."""
    other = receive(OK)
    receiver = receive((302, {"Location": f"http://127.0.0.1:{other.port}/"}))
    with pytest.raises(AlertFailed, match="it answered 302"):
        alert(receiver.settings(), END, [BREACH], 0.01)
    assert (len(receiver.seen), len(other.seen)) == (1, 0)


@pytest.mark.parametrize(
    "headers",
    [{"Retry-After": "1"}, {"Retry-After": "Sat, 12 Oct 2013 00:00:01 GMT", "Date": "Sat, 12 Oct 2013 00:00:00 GMT"}],
)
def test_a_receiver_may_say_how_long_to_wait(receive: Callable[..., Receiver], headers: dict[str, str]) -> None:
    """429 with Retry-After, in seconds or as a moment, is tried again then and not before."""
    receiver = receive((429, headers), OK)
    assert alert(receiver.settings(), END, [BREACH], 0.01)
    assert 1.0 <= receiver.times[1] - receiver.times[0] < 3


def test_nobody_listens(receive: Callable[..., Receiver]) -> None:
    """A port without a listener is refused, and tried again."""
    receiver = receive(OK)
    settings = receiver.settings(attempts=2)
    free = SecretStr(f"http://127.0.0.1:1/{SECRET}")
    with pytest.raises(AlertFailed, match=r"attempt 2 of 2\): Connection refused"):
        alert(settings.model_copy(update={"webhook_url": free}), END, [BREACH], 0.01)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/x", "host/x", "https:///x", "http://user:word@host/", "http://h:x/",
            "http://h/ü", "http://h/a b", "http://[h/"],
)  # fmt: skip
def test_only_a_web_address_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """And what was given instead is not repeated."""
    monkeypatch.setenv("MONITORING_WEBHOOK_URL", url)
    with pytest.raises(ValidationError) as refused:
        AlertSettings()
    assert url not in str(refused.value)
    assert "expected http://HOST" in str(refused.value)


def test_a_message_is_bounded_and_commands_nobody() -> None:
    """Many breaches are counted, long details cut, numbers that JSON lacks are null, and markup is text."""
    odd = replace(BREACH, value=float("nan"), details="<!channel> " + "x" * 1000)
    body = message(END, [odd] * 50)
    assert (len(body["results"]), body["breaches"]) == (SHOWN, 50)
    assert body["text"].endswith("and 30 more")
    assert "<!channel>" not in body["text"]
    assert body["results"][0]["value"] is None
    assert len(json.dumps(body, allow_nan=False)) < 20_000
