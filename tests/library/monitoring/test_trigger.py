"""When the monitors ask for a retraining: verdicts over days in a real database, and what is decided of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from fti.contract.events import RETRAININGS, events
from fti.contract.predictions import create, open_log
from fti.contract.results import Result, save
from fti.monitoring.trigger import COOL_DOWN, decide

MODEL, DAY = "arrival-delay", timedelta(days=1)
FIRST = datetime(2013, 10, 8, tzinfo=UTC)


@pytest.fixture
def log(url) -> Engine:
    engine = open_log(url)
    create(engine)
    return engine


def found(as_of, verdict, monitor="quality", subject=f"{MODEL} version 2, champion", metric="roc_auc") -> Result:
    return Result(monitor, as_of - 7 * DAY, as_of, subject, metric, 0.61, 900, verdict)


def lived(log: Engine, verdicts: str, **about) -> datetime:
    """Save a window a day: b is a breach, i to be looked at, h healthy. Returns the last one's moment."""
    names = {"b": "breach", "i": "investigate", "h": "healthy"}
    for day, letter in enumerate(verdicts):
        as_of = FIRST + day * DAY
        save(log, as_of, [found(as_of, names[letter], **about)])
    return FIRST + (len(verdicts) - 1) * DAY


@pytest.mark.parametrize(
    ("verdicts", "action"),
    [
        ("h", "none"),
        ("b", "none"),  # once is chance
        ("hb", "none"),
        ("bb", "train"),
        ("bhhhb", "train"),  # two of five, the newest among them
        ("bhhhhb", "none"),  # the other is too long ago
        ("bbbbh", "none"),  # it is over
        ("bbbbi", "none"),
    ],
)
def test_two_of_the_last_five_windows_and_the_newest_among_them(log, verdicts, action):
    assert decide(log, MODEL, "2", lived(log, verdicts)).action == action


def test_later_windows_are_not_known_yet(log):
    lived(log, "hbb")
    assert decide(log, MODEL, "2", FIRST + DAY).action == "none"


@pytest.mark.parametrize(
    "about",
    [
        {"subject": f"{MODEL} version 2, shadow"},
        {"subject": f"{MODEL} version 1, champion"},  # which it was, before a promotion by hand
        {"subject": f"{MODEL} version 1, batch"},  # a backfill of an older version
        {"subject": f"{MODEL} version 22, champion"},
        {"subject": "another-model version 2, champion"},
        {"monitor": "freshness", "subject": "origin_weather"},
        {"monitor": "consistency"},
    ],
)
def test_what_a_new_fit_cannot_mend_asks_for_none(log, about):
    assert decide(log, MODEL, "2", lived(log, "bbb", **about)).action == "none"


@pytest.mark.parametrize("monitor", ["cycle", "consistency", "freshness", "volume", "quarantine"])
def test_it_waits_while_the_data_are_in_doubt(log, monitor):
    last = lived(log, "bb")
    doubt = found(last, "breach", monitor=monitor, subject="origin_weather")
    save(log, last, [found(last, "breach"), doubt])
    decision = decide(log, MODEL, "2", last)
    assert decision.action == "hold"
    assert "in doubt" in decision.reasons
    assert "origin_weather" in decision.reasons


@pytest.mark.parametrize(
    ("ago", "action"), [(COOL_DOWN - DAY, "cool_down"), (COOL_DOWN, "train"), (timedelta(0), "train")]
)
def test_it_cools_down(log, ago, action):
    """A retraining as of this very moment is the one that a cycle which was killed goes on with."""
    last = lived(log, "bb")
    with log.begin() as connection:
        connection.execute(
            RETRAININGS.insert().values(model_name=MODEL, as_of=last - ago, reasons="drift", version="2")
        )
        connection.execute(RETRAININGS.insert().values(model_name="another-model", as_of=last - DAY, reasons="drift"))
    assert decide(log, MODEL, "2", last).action == action


def test_it_says_what_asked_for_it(log):
    decision = decide(log, MODEL, "2", lived(log, "bb"))
    assert "2 of the last 2 windows" in decision.reasons
    assert f"quality roc_auc 0.61 of {MODEL} version 2, champion" in decision.reasons


def test_a_retraining_that_made_no_version_is_tried_again(log):
    """It failed, or was killed: a model in breach is not left alone for two weeks for that."""
    last = lived(log, "bb")
    with log.begin() as connection:
        connection.execute(RETRAININGS.insert().values(model_name=MODEL, as_of=last - DAY, reasons="drift"))
    assert decide(log, MODEL, "2", last).action == "train"
    assert events(log, FIRST - DAY, last)[0][1] == "a retraining made no version: drift"


def test_what_was_not_measured_is_said_to_be_so(log):
    """The monitors failed: that is not the health that no breach would be."""
    later = lived(log, "bb") + DAY
    assert decide(log, MODEL, "2", later).reasons == "nothing was measured as of this moment"
