"""What is made of results: metrics that Prometheus parses, alerts that a real receiver takes or refuses, a report."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr, ValidationError
from sqlalchemy import Engine

from fti.contract.predictions import create, open_log
from fti.contract.results import Result, history, save, saved
from fti.monitoring import run
from fti.monitoring.alert import SHOWN, AlertFailed, AlertSettings, alert, message
from fti.monitoring.conclusion import conclude
from fti.monitoring.exposition import LABELS, MOST_SERIES, write_metrics
from fti.monitoring.report import MOST_MOMENTS, write_report
from fti.training.config import load_config
from tests.conftest import ROOT
from tests.receiver import OK, SECRET, Receiver

START = datetime(2013, 10, 5, tzinfo=UTC)
END = START + timedelta(days=7)
SERVED = "arrival-delay version 2, champion"
DRIFT = Result("drift", START, END, SERVED, "wind", 0.3, 100, "investigate", 0.0, 0.01, "more wind")
BREACH = Result("consistency", START, END, SERVED, "wind", 0.2, 100, "breach", details="20 mismatch")


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


BUSY = (503, {})


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


# The report


class Page(HTMLParser):
    """What a page holds: its text, headings, elements that fetch or run something, and its pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.elements: list[str] = []
        self.identifiers: list[str] = []
        self.pictures: list[dict[str, Any]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.elements.append(tag)
        self.fetched += [str(given[name]) for name in ("src", "href", "xlink:href", "action", "data") if name in given]
        self.identifiers += [str(given["id"])] if "id" in given else []
        self.headings += [""] if tag == "h2" else []
        if tag == "svg":
            self.pictures.append({"alt": given["aria-label"], "role": given["role"], "marks": 0})
        if tag in ("path", "use") and self.pictures:
            self.pictures[-1]["marks"] += len(given.get("d") or "x")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.headings and not self.headings[-1]:
            self.headings[-1] = data


SECTIONS = [
    "What needs a look", "Events", "Consistency", "Quality", "Label coverage", "Drift", "Freshness", "Volume",
    "Quarantine", "All measurements",
]  # fmt: skip
HOSTILE = "<script>alert('$x^2$')</script> & \"v\""


def found_as_of(as_of: datetime, subject: str = SERVED, differing: float = 0.0) -> list[Result]:
    """Some results of each monitor."""
    start, whole = as_of - timedelta(days=7), ("healthy", 0.7, 0.8, "in training's validation it was 0.768")
    scores = [Result("quality", start, as_of, subject, "roc_auc", 0.75, 900, *whole)]  # type: ignore[arg-type]
    scores += [replace(scores[0], metric=name, details="") for name in ("log_loss", "bias", "label_coverage")]
    scores += [replace(scores[0], metric="calibration_error", low=None, high=None)]
    days = [replace(one, verdict=None, end=start + timedelta(days=1)) for one in scores]
    spent = Result("freshness", as_of, as_of, "origin_weather", "offline_age_hours", 2.0, 1, "investigate",
                   details="2.0 h; the ttl is 3 h")  # fmt: skip
    wrong = Result("consistency", start, as_of, subject, "wind", differing, 900, "healthy")
    psi = Result("drift", start, as_of, subject, "wind", 0.3, 900, "investigate", 0.0, 0.01, "more wind")
    return [
        *scores, *days, spent, replace(spent, metric="materialization_lag_hours", value=4.0, verdict="breach"),
        replace(wrong, metric="consistency", value=1 - differing), wrong,
        psi, replace(psi, metric="prediction", value=0.05, verdict="healthy"),
        replace(psi, metric="drifted_share", value=1.0, low=None, high=None),
        Result("volume", start, start + timedelta(days=1), "origin_weather", "rows_of_usual", 0.9, 70, "healthy"),
        Result("quarantine", start, as_of, "flights", "held_share", 0.0, 6000, "healthy"),
    ]  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """A database with an empty table of results."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    return engine


def reported(engine: Engine, folder: Path, events: Sequence[tuple[datetime, str]] = ()) -> tuple[str, Page]:
    """The report as of END, as text and parsed."""
    write_report(engine, END, folder / "new" / "report.html", events)
    assert [one.name for one in (folder / "new").iterdir()] == ["report.html"]
    text = (folder / "new" / "report.html").read_text()
    return text, Page(text)


def test_a_report_has_every_section_and_needs_nothing_else(engine: Engine, tmp_path: Path) -> None:
    """Each monitor has its plots, each plot is drawn and told in words; nothing is fetched, nothing runs."""
    for day in range(10):
        as_of = END - timedelta(days=day)
        save(engine, as_of, found_as_of(as_of, differing=0.02 if day == 4 else 0.0))
    text, page = reported(engine, tmp_path, [(END - timedelta(days=3), "trained version 2")])
    assert page.headings == SECTIONS
    assert "no data" not in page.text.replace("no data below", "")
    assert len(page.pictures) == 14
    assert {one["role"] for one in page.pictures} == {"img"}
    assert min(one["marks"] for one in page.pictures) > 400
    alts = {one["alt"].partition(".")[0]: one["alt"] for one in page.pictures}
    assert f"{SERVED}: 0.75 [0.7 to 0.8] at 2013-10-12 00:00" in alts["ROC AUC: how well the outcomes are told apart"]
    assert "in training 0.768" in alts["ROC AUC: how well the outcomes are told apart"]
    assert "events: 2013-10-09 00:00 trained version 2" in alts["Served values that agree"]
    assert "from 0 to 0.02 over 10 moments" in alts["Features that differ most"]
    assert page.text.count("1 trained version 2") == 11  # plots over time
    assert [reference for reference in page.fetched if not reference.startswith("#")] == []
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.elements)
    assert "@import" not in text
    assert len(page.identifiers) == len(set(page.identifiers))
    assert len(text) < 1_000_000


def test_a_report_says_first_what_needs_a_look(engine: Engine, tmp_path: Path) -> None:
    """The newest verdict with its moment, and the breach before what is to be investigated."""
    save(engine, END - timedelta(days=1), [replace(BREACH, metric="of yesterday")])
    save(engine, END, found_as_of(END))
    save(engine, END + timedelta(days=1), [replace(BREACH, metric="of tomorrow")])
    _, page = reported(engine, tmp_path)
    headline, _, rest = page.text.partition("What needs a look")
    look = rest.partition("Consistency")[0]
    assert "Monitoring: breach" in headline
    assert "As of 2013-10-12 UTC, over 2013-10-05 to 2013-10-12" in " ".join(headline.split())
    assert look.index("materialization_lag_hours") < look.index("drifted_share") < look.index("offline_age_hours")
    assert "of yesterday" not in look  # it is in the history's plots
    assert "of tomorrow" not in page.text


def test_one_moment_is_drawn_as_points(engine: Engine, tmp_path: Path) -> None:
    """There is no history yet, and the plots over time show what there is."""
    save(engine, END, found_as_of(END))
    _, page = reported(engine, tmp_path)
    assert "show 1 moment from 2013-10-12 on" in " ".join(page.text.split())
    assert len(page.pictures) == 13  # none differs
    assert "none differs" in page.text


def test_what_is_lacking_is_said_in_words(engine: Engine, tmp_path: Path) -> None:
    """An empty table makes a page, and so do results without a value: it says why there are none."""
    _, page = reported(engine, tmp_path)
    assert "There are no measurements up to 2013-10-12" in page.text
    assert page.headings == [name for name in SECTIONS if name != "Events"]
    assert page.pictures == []
    lacking = [
        Result(which, START, END, "arrival-delay", "predictions", None, 0, "no_data", details="has logged none")
        for which in ("consistency", "drift", "quality")
    ]
    save(engine, END, lacking)
    _, page = reported(engine, tmp_path)
    assert "Monitoring: no data" in page.text
    assert "There are no data (has logged none)." in page.text
    assert page.pictures == []


def test_names_and_details_are_text(engine: Engine, tmp_path: Path) -> None:
    """Markup in a subject, a metric, details or an event is shown, not obeyed; dollars are no formula."""
    bad = [replace(one, metric=HOSTILE if one.metric == "wind" else one.metric, details=HOSTILE)
           for one in found_as_of(END, HOSTILE, 0.02)]  # fmt: skip
    save(engine, END, bad)
    text, page = reported(engine, tmp_path, [(START, HOSTILE)])
    assert "script" not in page.elements
    assert "<script" not in text
    assert HOSTILE in page.text
    assert any(HOSTILE in one["alt"] for one in page.pictures)


def test_a_long_history_stays_small(engine: Engine, tmp_path: Path) -> None:
    """Of hourly results some moments are drawn; the newest is among them."""
    moments = [END - timedelta(hours=hour) for hour in range(300)]
    for as_of in moments:
        save(engine, as_of, found_as_of(as_of))
    found = history(engine, END, timedelta(days=90), MOST_MOMENTS)
    assert found["as_of"].nunique() == 100
    assert found["as_of"].max() == END
    text, _ = reported(engine, tmp_path)
    assert len(text) < 1_000_000


def test_a_report_that_fails_leaves_the_one_before(engine: Engine, tmp_path: Path) -> None:
    """A file is replaced whole, or not at all, and nothing half-written stays beside it."""
    reported(engine, tmp_path)
    before = (tmp_path / "new" / "report.html").read_text()
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_report(engine, END, tmp_path / "taken")
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    assert (tmp_path / "new" / "report.html").read_text() == before


# All of them


def test_a_breach_is_reported_and_heard(engine: Engine, tmp_path: Path, receive: Callable[..., Receiver]) -> None:
    """Both files are written before the alert, which may fail; and a file that fails does not silence it."""
    receiver = receive((400, {}), OK)
    results = found_as_of(END)
    save(engine, END, results)
    report, metrics = tmp_path / "report.html", tmp_path / "m.prom"
    with pytest.raises(AlertFailed):
        conclude(engine, END, results, report, metrics, receiver.settings())
    assert "Monitoring: breach" in report.read_text()
    assert samples(metrics)["fti_monitor_as_of_timestamp_seconds",] == END.timestamp()
    (tmp_path / "not-a-folder").touch()
    with pytest.raises(OSError, match="not-a-folder"):
        conclude(engine, END, results, tmp_path / "not-a-folder" / "report.html", metrics, receiver.settings())
    assert len(receiver.seen) == 2
    conclude(engine, END, results, report, metrics, None)
    assert len(receiver.seen) == 2
    assert saved(engine, END) != []


def test_outcomes_are_awaited_as_long_as_training_does(tmp_path: Path) -> None:
    """By the file that training reads; one that has no such number, or is not there, is refused by name."""
    file = tmp_path / "config.yaml"
    file.write_text((ROOT / "training" / "config.yaml").read_text())
    assert run.label_delay() == run.label_delay(file) == load_config({}, file).label_delay
    file.write_text(re.sub("(?m)^label_delay_hours: .*$", "label_delay_hours: 1.5", file.read_text()))
    assert run.label_delay(file) == timedelta(minutes=90)
    for wrong in ("label_delay_hours: soon", "label_delay: 4", "", "a: [", "[]"):
        file.write_text(wrong)
        with pytest.raises(run.LabelDelayUnknown, match=r"config\.yaml has no number of hours"):
            run.label_delay(file)
    with pytest.raises(run.LabelDelayUnknown, match=r"none\.yaml"):
        run.label_delay(tmp_path / "none.yaml")


def test_a_wrong_setting_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In one line that names the variable and not what it holds."""
    monkeypatch.setenv("MONITORING_WEBHOOK_URL", f"ftp://host/{SECRET}")
    assert run.main(["--as-of", "2013-10-12", "--url", f"sqlite:///{tmp_path / 'log.db'}"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: MONITORING_WEBHOOK_URL: Value error, expected http://HOST")
    assert told.count("\n") == 1
    assert SECRET not in told
    assert not (tmp_path / "log.db").exists()


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_receiver_that_trickles_does_not_outlast_the_limit(before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the whole call, and the connection ends with it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ended = threading.Event()

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(before)
            try:
                while True:
                    connection.sendall(b"a")
                    time.sleep(0.05)
            except OSError:
                ended.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=trickle, daemon=True).start()
        url = SecretStr(f"http://127.0.0.1:{listener.getsockname()[1]}/{SECRET}")
        settings = AlertSettings(webhook_url=url, webhook_attempts=1, webhook_timeout_seconds=0.5)
        began = time.monotonic()
        with pytest.raises(AlertFailed, match="did not answer in time"):
            alert(settings, END, [BREACH])
        assert time.monotonic() - began < 2
        assert ended.wait(5)
