"""The arithmetic of the monitors, against formulas written out and against chance; and the table of what they found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from validation.metrics import WEIGHABLE, differences, intervals
from validation.monitoring.consistency import compared
from validation.monitoring.drift import ColumnProfile, _drifted, profile, psi, psi_by_chance
from validation.monitoring.results import Result, by_limits, save, saved, table, worst
from validation.predictions import create, open_log

START = datetime(2013, 10, 5, tzinfo=UTC)
END = START + timedelta(days=7)
RESULT = Result("drift", START, END, "a version", "wind", 0.3, 100, "investigate", 0.0, 0.01, "more wind")


def test_psi_is_its_formula() -> None:
    """The sum of (q - p) ln(q / p), here of two bins of text."""
    expected = profile(pd.DataFrame({"origin": ["JFK"] * 60 + ["LGA"] * 40}))["origin"]
    found = expected.of(pd.Series(["JFK"] * 30 + ["LGA"] * 70))
    wanted = (0.3 - 0.6) * math.log(0.3 / 0.6) + (0.7 - 0.4) * math.log(0.7 / 0.4)
    # The empty bins, for other texts and for missing ones, are taken to hold half a row each.
    assert psi(expected, found) == pytest.approx(wanted, abs=0.01)
    assert psi(expected, expected) == 0


def test_psi_by_chance_is_rarely_exceeded_when_nothing_has_changed() -> None:
    """Of samples of one distribution about one in a thousand exceeds it; of a shifted one nearly all do."""
    chance = np.random.default_rng(7)
    expected = profile(pd.DataFrame({"x": chance.normal(size=20_000)}))["x"]
    same = [expected.of(pd.Series(chance.normal(size=300))) for _ in range(300)]
    moved = [expected.of(pd.Series(chance.normal(0.5, size=300))) for _ in range(50)]
    # The bin for what is missing is empty here and in training, and counts for nothing.
    assert sum(psi(expected, one) > psi_by_chance(expected, one) for one in same) <= 5
    assert all(psi(expected, one) > psi_by_chance(expected, one) for one in moved)


def test_a_column_that_went_missing_drifts() -> None:
    """What is missing has a bin of its own."""
    expected = profile(pd.DataFrame({"x": np.arange(1000.0)}))["x"]
    found = expected.of(pd.Series([np.nan] * 400 + list(np.linspace(0, 999, 600))))
    assert psi(expected, found) > 1


def test_a_season_is_no_drift_until_it_is_beyond_all_weeks_of_training() -> None:
    """A column that is always far from its own whole, as temperatures are, and one that never was."""
    chance = np.random.default_rng(3)
    moments = pd.Series(pd.date_range("2013-01-01", periods=40 * 336, freq="30min", tz="UTC"))
    season = 30 * np.sin(np.arange(len(moments)) / len(moments) * 2 * np.pi)
    frame = pd.DataFrame({"warm": season + chance.normal(size=len(moments)), "flat": chance.normal(size=len(moments))})
    found = profile(frame, moments)
    assert found["warm"].usual is not None
    assert found["flat"].usual is not None
    assert found["warm"].usual > 1
    assert found["flat"].usual < 0.25
    # The furthest of its weeks is the week that says so.
    weeks = [
        psi(found["warm"], found["warm"].of(week)) for _, week in frame.warm.groupby(np.arange(len(moments)) // 336)
    ]
    assert found["warm"].usual == pytest.approx(max(weeks))
    week = frame.iloc[:336]
    assert judged(found, week, "warm").verdict == "healthy"
    assert (judged(found, week, "warm").value or 0) > 0.25
    assert judged(found, week + 60, "warm").verdict == "investigate"
    assert judged(found, week + 1, "flat").verdict == "investigate"
    # Of models from before it was recorded, the fixed limits judge.
    before = {name: ColumnProfile(edges=one.edges, counts=one.counts) for name, one in found.items()}
    assert judged(before, week, "warm").verdict == "investigate"


def judged(expected: dict[str, ColumnProfile], served: pd.DataFrame, name: str) -> Result:
    return _drifted(name, expected[name], served[name], "a version", START, END)


def test_each_way_to_differ_has_its_name() -> None:
    """Null and value, value and null, another value; texts too. Two nulls are the same, and so is another last bit."""
    nan = float("nan")
    served = pd.DataFrame({"x": [1.0, nan, 2.0, nan, 0.1 + 0.2], "t": ["a", None, "b", "c", None]})
    offline = pd.DataFrame({"x": [1.0, 5.0, nan, nan, 0.3], "t": ["a", None, None, "d", "e"]})
    found = compared(served, offline)
    assert found.x.tolist() == ["", "missing", "extra", "", ""]
    assert found.t.tolist() == ["", "", "extra", "mismatch", "missing"]


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """The mean forecast of 0.3 is 0.1 too high: the 90 % interval holds that in most of a hundred draws."""
    chance, held = np.random.default_rng(11), 0
    for _ in range(100):
        labels = (chance.random(400) < 0.2).astype("int64")
        found = intervals(labels, np.full(400, 0.3), np.arange(400) // 4, ["bias"], 100, 0.9, 3)
        held += found["bias"][0] <= 0.1 <= found["bias"][1]
    assert 80 <= held <= 98


SCORERS: dict[str, Callable[..., float]] = {
    "roc_auc": roc_auc_score,
    "average_precision": average_precision_score,
    "brier": brier_score_loss,
    "log_loss": log_loss,
    "bias": lambda labels, forecast, sample_weight: float(np.average(forecast - labels, weights=sample_weight)),
}


@pytest.mark.parametrize("metric", WEIGHABLE)
def test_a_draw_scores_as_if_its_rows_stood_there_so_often(metric: str) -> None:
    """Against scikit-learn, draw by draw: ties, blocks that are not drawn, and blocks with one outcome alone."""
    chance = np.random.default_rng(5)
    labels, days = chance.integers(0, 2, 600), chance.integers(0, 9, 600)
    labels[days == 3] = 0
    one, other = (np.clip(np.round(chance.random(600) + labels / 4, 1), 0, 1) for _ in range(2))
    draws = np.random.default_rng(11).multinomial(9, np.full(9, 1 / 9), size=150)

    def scored(forecast: np.ndarray) -> np.ndarray:
        return np.array([SCORERS[metric](labels, forecast, sample_weight=draw[days]) for draw in draws])

    assert intervals(labels, one, days, [metric], 150, 0.9, 11)[metric] == pytest.approx(
        np.quantile(scored(one), [0.05, 0.95]), abs=1e-12
    )
    apart = differences(labels, one, other, days, [metric], 150, 0.9, 11)[metric]
    low, high = np.quantile(scored(one) - scored(other), [0.05, 0.95])
    every = np.ones(600)
    whole = SCORERS[metric](labels, one, sample_weight=every) - SCORERS[metric](labels, other, sample_weight=every)
    assert (apart.value, apart.low, apart.high) == pytest.approx((whole, low, high), abs=1e-12)


def test_an_interval_of_one_outcome_is_left_out() -> None:
    """Of rows that are all late there is no AUC to bound."""
    assert intervals(np.ones(50, "int64"), np.full(50, 0.3), np.arange(50), ["roc_auc"], 20, 0.9, 3) == {}


def test_the_worst_verdict_speaks_for_all() -> None:
    """No data say less than health, and a result without a verdict says nothing."""
    found = [replace(RESULT, verdict=verdict) for verdict in ("healthy", "no_data", None)]
    assert worst(found) == "healthy"
    assert worst([*found, replace(RESULT, verdict="breach")]) == "breach"
    assert worst([]) == "no_data"
    assert [by_limits(value, 0.1, 0.2) for value in (None, 0.1, 0.15, 0.3)] == [
        "no_data", "healthy", "investigate", "breach",
    ]  # fmt: skip


def test_results_replace_those_of_the_same_moment(url: str) -> None:
    """Run again, the monitors leave what they say now, and what they said as of other moments."""
    engine = open_log(url)
    create(engine)
    save(engine, START, [RESULT])
    save(engine, END, [RESULT, replace(RESULT, metric="rain")])
    save(engine, END, [replace(RESULT, value=None, verdict=None)])
    assert saved(engine, START) == [RESULT]
    assert saved(engine, END) == [replace(RESULT, value=None, verdict=None)]


def test_the_table_names_what_is_not_healthy() -> None:
    """A line a subject with its worst verdict; breaches first, each with its value, its bounds and its reason."""
    bad = replace(RESULT, metric="prediction", verdict="breach", value=0.5)
    lines = table([RESULT, bad, replace(RESULT, metric="calm", verdict="healthy")]).splitlines()
    assert lines[1].split()[-1] == "breach"
    assert lines[2].strip() == "breach: prediction 0.5 [0, 0.01], 10-05 to 10-12. more wind"
    assert lines[3].strip() == "investigate: wind 0.3 [0, 0.01], 10-05 to 10-12. more wind"
    assert len(lines) == 4
