"""Profiles of small made-up feeds and of real days, and what their suites make of them."""

from __future__ import annotations

from datetime import timedelta
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.source import RawEvents
from fti.validation.gate import BatchRefused, Gate, Outcome
from fti.validation.profile import LOOKBACK, profile
from validation.profiles import PROFILES

DAY = timedelta(days=1)
START = pd.Timestamp("2013-06-03", tz="UTC")


def feed(*days: tuple[int, int, float]) -> pd.DataFrame:
    """For each (days from START, rows, value): so many events, spread over that day, half a unit apart in value."""
    rows = [
        {"event_timestamp": START + (day + row / count) * DAY, "value": value + row / 2, "place": "AB"[row % 2]}
        for day, count, value in days
        for row in range(count)
    ]
    frame = pd.DataFrame(rows, columns=["event_timestamp", "value", "place"])
    return frame.astype({"event_timestamp": "datetime64[us, UTC]", "value": "float64"})


def of(events: pd.DataFrame, earlier: pd.DataFrame, days: float = 1, **options) -> pd.DataFrame:
    return profile(events, earlier, START, START + days * DAY, **options)


# ---- profiles -------------------------------------------------------------------------------------------------------


def test_a_day_is_measured_against_the_same_day_of_four_weeks():
    """The median of their rows, and of their medians; other days of the week do not count."""
    earlier = feed((-28, 10, 0), (-21, 40, 0), (-14, 50, 0), (-7, 60, 0), (-6, 999, 0), (-1, 999, 0))
    (day,) = of(feed((0, 30, 5)), earlier, values=["value"]).itertuples()
    assert (day.window, day.rows, day.usual_rows) == ("2013-06-03T00:00Z", 30, 45)
    assert day.share_of_usual == pytest.approx(30 / 45)
    # 30 values from 5 up, half a unit apart; the usual medians are those of 40, 50 and 60 such values from 0 up.
    assert (day.value_median, day.value_iqr) == (5 + 29 / 4, 29 / 4)
    assert day.value_drift == 5 + 29 / 4 - 49 / 4


def test_one_week_is_not_enough_to_judge_by():
    """What it says is told; what is usual is not known."""
    (day,) = of(feed((0, 30, 5)), feed((-7, 40, 0)), values=["value"]).itertuples()
    assert day.rows == 30
    assert np.isnan([day.usual_rows, day.share_of_usual, day.value_drift]).all()


def test_a_batch_of_many_days_is_its_own_past():
    """The first weeks of a whole year have nothing to compare with, and later ones have the first."""
    whole = feed(*((day, 20 + day, 0.0) for day in range(22)))
    frame = of(whole, whole.iloc[:0], 22)
    assert frame.rows.tolist() == [20 + day for day in range(22)]
    assert frame.usual_rows.isna().tolist() == [True] * 14 + [False] * 8
    assert frame.usual_rows.iloc[14:].tolist() == [20 + day - 10.5 for day in range(14, 21)] + [20 + 21 - 14]


def test_part_of_a_day_is_not_measured_against_whole_ones():
    """Its rows are told, as are the units of its values; a share of a few hours says nothing."""
    earlier = feed(*((-7 * week + day, 40, 0.0) for week in (1, 2, 3) for day in (0, 1)))
    frame = of(feed((0, 40, 0), (1, 40, 0)), earlier, 1.75, values=["value"])
    assert frame.rows.tolist() == [40, 30]
    assert frame.share_of_usual.isna().tolist() == [False, True]
    assert frame.value_iqr.notna().all()


def test_nothing_is_expected_after_the_feed_is_known_to_end():
    """Days after it are left out; a batch that begins after it has no profile, and passes."""
    earlier = feed((-14, 40, 0), (-7, 40, 0))
    assert len(of(feed((0, 40, 0)), earlier, 5, complete_until=START + DAY)) == 1
    none = of(feed(), earlier, values=["value"], newest_by="place", complete_until=START)
    assert none.empty
    assert Gate().check(none, PROFILES["schedule"].suite).refusals == []


def test_the_hours_since_the_newest_event_are_those_of_the_most_silent_group():
    """Counted at the window's end, over batch and past; NaN before there is any event."""
    events = pd.DataFrame(
        {
            "event_timestamp": [START - timedelta(hours=30), START + timedelta(hours=1), START + timedelta(hours=23)],
            "place": ["A", "A", "B"],
        }
    ).astype({"event_timestamp": "datetime64[us, UTC]"})
    earlier, batch = events.iloc[:1], events.iloc[1:]
    assert of(batch, earlier, newest_by="place").hours_since_newest.tolist() == [23]
    assert of(batch.iloc[1:], earlier, newest_by="place").hours_since_newest.tolist() == [54]
    assert of(batch.iloc[:0], earlier.iloc[:0], newest_by="place").hours_since_newest.isna().all()


def test_the_narrowest_group_is_the_one_whose_quartiles_are_least_apart():
    """Of those with enough values to tell; NaN, and no name, where none has."""
    events = feed((0, 80, 0.0)).assign(value=lambda one: one.value * one.place.map({"A": 1.0, "B": 0.1}))
    (day,) = of(events, feed(), values=["value"], spread_by="place").itertuples()
    # 40 values of B, from 0.05 up, a tenth apart: from the first quartile to the third there are 19.5 steps.
    assert (day.window, day.value_narrowest) == ("2013-06-03T00:00Z (B)", pytest.approx(1.95))
    assert day.value_iqr > 10
    few = pd.concat([events[events.place == "A"], events[events.place == "B"].iloc[:29]])
    (day,) = of(few, feed(), values=["value"], spread_by="place").itertuples()
    assert (day.window, day.value_narrowest) == ("2013-06-03T00:00Z (A)", pytest.approx(19.5))
    (day,) = of(few.iloc[:29], feed(), values=["value"], spread_by="place").itertuples()
    assert day.window == "2013-06-03T00:00Z"
    assert np.isnan(day.value_narrowest)


def test_events_without_a_stamp_and_few_values_are_no_trouble():
    """The gate holds the one, and of the other nothing is concluded."""
    events = feed((0, 20, 0))
    events.loc[0, "event_timestamp"] = pd.NaT
    (day,) = of(events, feed(), values=["value"]).itertuples()
    assert day.rows == 19
    assert np.isnan(day.value_iqr)


@settings(max_examples=30, deadline=None)
@given(
    hours=st.lists(st.integers(-28 * 24, 71), min_size=1, max_size=300),
    split=st.sampled_from([1, 2, 3]),
)
def test_shares_are_what_counting_by_hand_says(hours, split):
    """Whatever lies where, and however many days the batch has; counted one by one in plain Python."""
    moments = [START + timedelta(hours=hour) for hour in hours]
    whole = pd.DataFrame({"event_timestamp": pd.Series(moments, dtype="datetime64[us, UTC]")})
    landed = whole.event_timestamp < START
    frame = of(whole[~landed], whole[landed], split)

    def count(day: int) -> int:
        return sum(START + day * DAY <= moment < START + (day + 1) * DAY for moment in moments)

    for day in range(split):
        weeks = [rows for back in (7, 14, 21, 28) if (rows := count(day - back))]
        share = count(day) / np.median(weeks) if len(weeks) >= 2 else np.nan
        assert frame.rows[day] == count(day)
        np.testing.assert_allclose(frame.share_of_usual[day], share)


# ---- the suites, on the real year -----------------------------------------------------------------------------------

ENDS = {"schedule": "2013-12-04T05:00Z", "departures": "2014-01-01T05:00Z", "arrivals": "2014-01-01T05:00Z",
        "weather": "2013-12-31T00:00Z"}  # fmt: skip


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@cache
def source() -> RawEvents:
    """The raw files, read once."""
    return RawEvents()


@cache
def real(name: str) -> pd.DataFrame:
    """Every event of a feed."""
    first, last = START - 400 * DAY, START + 400 * DAY
    return pd.concat([source().between(table, first, last) for table in PROFILES[name].tables], ignore_index=True)


def judged(gate: Gate, name: str, start: str, days: int = 1, fault=lambda events: events) -> Outcome:
    """The suite's outcome for a batch of real events with a fault in it, after the real weeks before it."""
    first = pd.Timestamp(start, tz="UTC")
    events, last, stamps = real(name), first + days * DAY, real(name).event_timestamp
    batch, earlier = (
        events[(stamps >= first) & (stamps < last)],
        events[(stamps >= first - LOOKBACK) & (stamps < first)],
    )
    rules = PROFILES[name]
    until = pd.Timestamp(ENDS[name])
    frame = profile(
        fault(batch), earlier, first, last, values=rules.values, newest_by=rules.newest_by, spread_by=rules.spread_by,
        complete_until=until,
    )  # fmt: skip
    return gate.check(frame, rules.suite)


@pytest.mark.parametrize("name", list(PROFILES))
def test_the_real_year_passes(gate, name):
    """No critical rule refuses it, storms, holidays and its end included."""
    assert judged(gate, name, "2012-12-01", days=398).require("the year").findings


@pytest.mark.parametrize("name", ["departures", "arrivals", "weather"])
@pytest.mark.parametrize(
    "day",
    ["2013-02-08", "2013-02-08T18:00", "2013-02-09", "2013-03-08T12:00", "2013-03-10", "2013-07-01", "2013-09-02",
     "2013-10-26", "2013-11-03", "2013-11-28T18:00", "2013-11-29", "2013-12-25", "2013-12-30", "2014-01-02"],
)  # fmt: skip
def test_odd_days_pass(gate, name, day):
    """Blizzard, snow, clock changes, storms, Labor Day, gaps in the weather, Thanksgiving, Christmas, the end."""
    judged(gate, name, day).require(day)


def only(share: float):
    return lambda events: events.sample(frac=share, random_state=1)


def scaled(column: str, factor: float, less: float = 0.0):
    return lambda events: events.assign(**{column: (events[column] - less) * factor})


@pytest.mark.parametrize(
    ("name", "day", "fault", "rule"),
    [
        ("schedule", "2013-06-03", only(0.35), "share_of_usual_possible"),
        ("schedule", "2013-06-03", scaled("distance_miles", 1.609), "distance_miles_drift_possible"),
        ("departures", "2013-06-03", only(0.35), "share_of_usual_possible"),
        ("departures", "2013-02-09", only(0.33), "share_of_usual_possible"),
        ("departures", "2013-06-03", scaled("dep_delay_minutes", 1 / 60), "dep_delay_minutes_iqr_possible"),
        ("departures", "2013-06-03", scaled("dep_delay_minutes", 60), "dep_delay_minutes_iqr_possible"),
        ("departures", "2013-06-03", scaled("dep_delay_minutes", 1, 60), "dep_delay_minutes_drift_possible"),
        ("arrivals", "2013-06-03", only(0.35), "share_of_usual_possible"),
        ("arrivals", "2013-06-03", scaled("arr_delay_minutes", 1 / 60), "arr_delay_minutes_iqr_possible"),
        ("arrivals", "2013-06-03", scaled("arr_delay_minutes", 60), "arr_delay_minutes_iqr_possible"),
        ("weather", "2013-06-03", only(0.5), "share_of_usual_possible"),
        ("weather", "2013-05-10", scaled("temperature_f", 1 / 1.8, 32), "temperature_f_drift_possible"),
        ("weather", "2013-07-20", scaled("temperature_f", 1 / 1.8, 32), "temperature_f_drift_possible"),
        ("weather", "2013-06-03", lambda events: events.iloc[:0], "hours_since_newest_possible"),
        ("weather", "2013-06-03", lambda events: events[events.origin != "JFK"], "hours_since_newest_possible"),
    ],
)
def test_a_broken_feed_is_refused(gate, name, day, fault, rule):
    """By name, with the day and what was observed."""
    with pytest.raises(BatchRefused, match=rf"{rule} \(1 of 1, {day}T00:00Z( \(\w+\))?: "):
        judged(gate, name, day, fault=fault).require(day)


@pytest.mark.parametrize("carrier", ["EV", "UA", "9E"])
@pytest.mark.parametrize(
    ("name", "column", "day"),
    [
        ("arrivals", "arr_delay_minutes", "2013-03-08"),
        ("arrivals", "arr_delay_minutes", "2013-06-03"),
        ("arrivals", "arr_delay_minutes", "2013-10-05"),
        ("departures", "dep_delay_minutes", "2013-10-05"),
    ],
)
def test_one_carrier_that_counts_in_hours_is_refused_and_named(gate, name, column, carrier, day):
    """It moves no number of all flights. By their arrivals on a day of snow, too, by departures on calm ones."""

    def spoil(events: pd.DataFrame) -> pd.DataFrame:
        return events.assign(**{column: events[column].mask(events.carrier == carrier, events[column] / 60)})

    with pytest.raises(BatchRefused, match=rf"{column}_narrowest_possible \(1 of 1, {day}T00:00Z \({carrier}\): "):
        judged(gate, name, day, fault=spoil).require(day)


def test_half_a_day_missing_is_reported(gate):
    """A holiday can be as quiet, so it warns and refuses nothing."""
    findings = judged(gate, "departures", "2013-06-03", fault=only(0.5)).require("half").findings
    assert [found.rule for found in findings if not found.passed] == ["share_of_usual_normal"]


def test_one_bad_day_among_many_refuses_them_all_and_is_named(gate):
    """The reader learns which day it was."""
    bad = pd.Timestamp("2013-06-12", tz="UTC").date()

    def lose(events: pd.DataFrame) -> pd.DataFrame:
        return events[events.event_timestamp.dt.date != bad]

    with pytest.raises(BatchRefused, match=r"1 of 14, 2013-06-12T00:00Z: 0"):
        judged(gate, "schedule", "2013-06-03", days=14, fault=lose).require("two weeks")
