"""What a stretch of cycles came to, from rows as the loop writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from fti.contract.events import CYCLE_STEPS, RETRAININGS, events
from fti.contract.predictions import create, open_log
from fti.contract.results import Result, save
from fti.loop.records import as_text, costs, plots, weeks

DAY, MODEL = timedelta(days=1), "arrival-delay"
FIRST = datetime(2013, 10, 1, tzinfo=UTC)
LAST = FIRST + 16 * DAY


@pytest.fixture
def log(url) -> Engine:
    """Sixteen days: version 1 answers at first, version 2 from the tenth day on."""
    engine = open_log(url)
    create(engine)
    for number in range(1, 17):
        as_of = FIRST + number * DAY
        subject = f"{MODEL} version {1 if number < 10 else 2}, champion"
        window, mature = (as_of - 7 * DAY, as_of), (as_of - 9 * DAY, as_of - 2 * DAY)
        save(
            engine, as_of,
            [
                Result("consistency", *window, subject, "consistency", 1 - number / 1e4, 700 + number, "healthy"),
                Result("drift", *window, subject, "drifted_share", number / 100, 1, "healthy"),
                Result("drift", *window, subject, "prediction", number / 10, 1, "healthy"),
                Result("quality", *mature, subject, "roc_auc", 0.7 + number / 1000, 600, "healthy", 0.6, 0.8),
                Result("quality", *mature, subject, "bias", 0.01, 600, "healthy"),
                # Neither a day's score nor another role's is that of the week.
                Result("quality", as_of - 3 * DAY, as_of - 2 * DAY, subject, "roc_auc", 0.1, 90, None),
                Result("consistency", *window, f"{MODEL} version 1, batch", "consistency", 0.5, 9, "breach"),
            ],
        )  # fmt: skip
    step = {"began": FIRST, "seconds": 2.0, "said": "well"}
    with engine.begin() as connection:
        connection.execute(
            CYCLE_STEPS.insert(),
            [
                step | {"as_of": FIRST + DAY, "step": "land", "attempt": 1, "status": "refused", "said": "no weather"},
                step | {"as_of": FIRST + DAY, "step": "land", "attempt": 2, "status": "done", "seconds": 5.0},
                step | {"as_of": FIRST + DAY, "step": "score", "attempt": 1, "status": "done"},
                step | {"as_of": FIRST + 2 * DAY, "step": "land", "attempt": 1, "status": "running"},
            ],
        )
        connection.execute(
            RETRAININGS.insert(),
            [
                {"model_name": MODEL, "as_of": FIRST + 9 * DAY, "reasons": "drift", "champion_before": "1",
                 "version": "2", "decision": "passed", "champion_after": "2"},
                {"model_name": MODEL, "as_of": FIRST + 12 * DAY, "reasons": "bias", "champion_before": "2",
                 "version": "3", "decision": "failed", "champion_after": "2"},
            ],
        )  # fmt: skip
    return engine


def test_weeks_are_whole_and_their_outcomes_come_later(log):
    found = weeks(log, FIRST, LAST).set_index("week")
    assert list(found.index) == [FIRST, FIRST + 7 * DAY]
    first, second = found.loc[FIRST], found.loc[FIRST + 7 * DAY]
    assert (first.version, second.version) == ("1", "2")
    assert (first["rows"], second["rows"]) == (707, 714)
    assert (first.consistency, second.drifted_share) == (pytest.approx(1 - 7e-4), pytest.approx(0.14))
    # The score of a week is known two days after its end.
    assert (first.score, second.score) == (pytest.approx(0.709), pytest.approx(0.716))
    assert (first.score_low, first.score_high) == (0.6, 0.8)


def test_what_happened_is_told_in_order(log):
    found = events(log, FIRST, LAST)
    assert [(at - FIRST).days for at, _ in found] == [1, 9, 12]
    assert found[0][1] == "land refused: no weather"
    assert "gate passed, champion" in found[1][1]
    assert "gate failed, left, 2 stays" in found[2][1]
    assert events(log, FIRST + 10 * DAY, FIRST + 11 * DAY) == []
    text = as_text(weeks(log, FIRST, LAST), found)
    assert "99.9300%" in text
    assert text.endswith("bias")


def test_costs_are_those_of_what_was_done(log):
    found = costs(log, FIRST, LAST)
    assert found.loc[FIRST + DAY, ["land", "score"]].tolist() == [5.0, 2.0]
    assert len(found) == 1


def test_plots_mark_what_happened(log):
    found = plots(log, FIRST, LAST)
    assert set(found) == {"consistency.svg", "quality.svg", "drift.svg"}
    for picture in found.values():
        assert picture.startswith("<svg")
        assert "currentColor" not in picture
        assert "land refused" in picture
