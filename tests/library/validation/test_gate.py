"""The gate on tiny literal frames: which rows are held and why, which batches are refused, what is only reported."""

from __future__ import annotations

from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
import pytest

from fti.validation.gate import BatchRefused, Gate, Outcome, Suite
from fti.validation.rules import feature_suite, training_suite
from validation.features import BOUNDS
from validation.raw import RAW_SUITES
from validation.training_set import LIMITS

SPEED = gxe.ExpectColumnValuesToBeBetween(column="speed", min_value=0, max_value=100)
NAMED = gxe.ExpectColumnValuesToNotBeNull(column="name")
UNIQUE = gxe.ExpectColumnValuesToBeUnique(column="name")


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


def frame(**columns: list) -> pd.DataFrame:
    return pd.DataFrame({"name": ["a", "b", "c"], "speed": [1.0, 2.0, 3.0]} | columns)


def suite(rows: dict | None = None, batch: dict | None = None, **limits: Any) -> Suite:
    rows = {"speed_in_range": SPEED, "name_present": NAMED} if rows is None else rows
    return Suite("made_up", rows, batch or {}, **{"max_held_share": 1.0, "few_held": 0} | limits)


def refused(outcome: Outcome) -> str:
    """The reason for which a batch is refused."""
    with pytest.raises(BatchRefused) as error:
        outcome.require("2013-01-01/2013-01-02")
    return str(error.value)


LABELS = [f"label {number}" for number in range(6714)]


@pytest.mark.parametrize(
    "rule",
    [gxe.ExpectColumnMeanToBeBetween(column="name", min_value=0.1), gxe.ExpectColumnDistinctValuesToBeInSet(
        column="name", value_set=["a"]
    )],
    ids=["the mean of texts", "a set"],
)  # fmt: skip
def test_a_refusal_fits_a_screen_however_many_values_a_column_has(gate, rule):
    """A library's own message may hold every value of a column."""
    many = pd.DataFrame({"name": LABELS, "speed": 1.0})
    reason = refused(gate.check(many, suite(rows={}, batch={"names_are_sound": rule})))
    assert "names_are_sound" in reason
    assert len(reason) < 1500


# ---- row rules ------------------------------------------------------------------------------------------------------


def test_a_good_batch_passes_whole(gate):
    """Nothing held, nothing refused, and the frame as it came."""
    given = frame()
    outcome = gate.check(given, suite(batch={"names_are_unique": UNIQUE})).require("today")
    pd.testing.assert_frame_equal(outcome.accepted, frame())
    assert outcome.held.empty
    assert (outcome.rows, outcome.refusals) == (3, [])
    assert list(outcome.held.columns) == ["name", "speed", "rules"]
    pd.testing.assert_frame_equal(given, frame())


def test_rows_that_break_a_rule_are_held_with_the_names_of_all_they_broke(gate):
    """The other rows go on; the reasons are rule names, sorted."""
    outcome = gate.check(frame(name=["a", None, "c"], speed=[500.0, -1.0, 3.0]), suite()).require("today")
    assert outcome.accepted.name.tolist() == ["c"]
    assert outcome.held.rules.tolist() == ["speed_in_range", "name_present,speed_in_range"]
    assert list(outcome.accepted.columns) == ["name", "speed"]


def test_accepted_and_held_rows_are_the_batch_whatever_its_index(gate):
    """Rows are told apart by position: an index with gaps or out of order does not confuse them."""
    given = frame(speed=[1.0, 500.0, 3.0])
    given.index = pd.Index([40, 7, 8])
    outcome = gate.check(given, suite())
    assert (outcome.accepted.name.tolist(), outcome.held.name.tolist()) == (["a", "c"], ["b"])


def test_rows_with_the_same_index_label_are_told_apart(gate):
    """Of two rows with one label only the one that broke a rule is held; none is lost."""
    given = frame(speed=[1.0, 500.0, 3.0])
    given.index = pd.Index([0, 0, 1])
    outcome = gate.check(given, suite())
    assert (outcome.accepted.name.tolist(), outcome.held.name.tolist()) == (["a", "c"], ["b"])


def test_a_null_breaks_no_rule_but_the_one_that_asks_for_a_value(gate):
    """A range says nothing of what is unknown."""
    assert gate.check(frame(speed=[None, 2.0, 3.0]), suite()).held.empty


def test_a_row_rule_that_tolerates_some_still_holds_those_rows(gate):
    """`mostly` lets the rule pass; the rows that broke it are no better for that."""
    tolerant = gxe.ExpectColumnValuesToBeBetween(column="speed", min_value=0, max_value=100, mostly=0.5)
    outcome = gate.check(frame(speed=[1.0, 500.0, 3.0]), suite({"speed_in_range": tolerant}))
    assert outcome.held.name.tolist() == ["b"]


def test_a_rule_of_severity_warning_is_reported_and_holds_nothing(gate):
    """The finding is there, the row goes on, the batch is not stopped: for row rules and for batch rules."""
    warning = gxe.ExpectColumnValuesToBeBetween(column="speed", min_value=0, max_value=100, severity="warning")
    unique = gxe.ExpectColumnValuesToBeUnique(column="name", severity="warning")
    given = frame(name=["a", "a", "c"], speed=[1.0, 500.0, 3.0])
    outcome = gate.check(given, suite({"speed_in_range": warning}, {"names_are_unique": unique})).require("today")
    assert outcome.held.empty
    broken = {(f.rule, f.severity, f.broken) for f in outcome.findings if not f.passed}
    assert broken == {("speed_in_range", "warning", 1), ("names_are_unique", "warning", 2)}


def test_too_many_held_rows_stop_the_batch(gate):
    """When half of the rows are bad, the feed is, or the rule."""
    bad = frame(speed=[500.0, 500.0, 3.0])
    assert gate.check(bad, suite(max_held_share=0.67)).refusals == []
    reason = refused(gate.check(bad, suite(max_held_share=0.66)))
    assert "few_rows_held" in reason
    assert "2 of 3 rows held" in reason


def test_rows_that_were_told_of_before_stop_no_batch_and_make_none(gate):
    """A source that repeats them is no worse for it; a batch of nothing else is an empty one."""
    bad = frame(speed=[500.0, 500.0, 3.0])
    outcome = gate.check(bad, suite(max_held_share=0.0), len)
    assert outcome.refusals == []
    assert outcome.held.name.tolist() == ["a", "b"]
    assert "1 of 2 rows held" in refused(gate.check(bad, suite(max_held_share=0.4), lambda held: len(held) - 1))
    alone = refused(gate.check(bad.iloc[:2], suite(max_held_share=0.0), len))
    assert "0 rows, at least 1 expected" in alone
    assert "few_rows_held" not in alone


@pytest.mark.parametrize(("broken", "stops"), [(1, False), (2, False), (3, True)])
def test_a_bad_row_or_two_of_a_small_raw_batch_stop_nothing(gate, broken, stops):
    """Eight cancellations on a good day: a share of one in twenty would let none of them be wrong."""
    given = batch("cancellations").iloc[:8].copy()
    given.iloc[:broken, given.columns.get_loc("carrier")] = "JetBlue"
    outcome = gate.check(given, RAW_SUITES["cancellations"])
    assert (len(outcome.held), len(outcome.accepted)) == (broken, 8 - broken)
    assert bool(outcome.refusals) == stops


# ---- batch rules ----------------------------------------------------------------------------------------------------


def test_a_broken_batch_rule_refuses_the_batch_and_holds_no_single_row(gate):
    """The reason names suite, batch and rule; a duplicate is no fault of one row."""
    outcome = gate.check(frame(name=["a", "a", "c"]), suite(batch={"names_are_unique": UNIQUE}))
    assert outcome.held.empty
    reason = refused(outcome)
    for part in ("made_up", "2013-01-01/2013-01-02", "names_are_unique"):
        assert part in reason


def test_a_batch_rule_names_the_rows_that_broke_it(gate):
    """By the suite's label, each with its value; the first three of them."""
    rules = suite({}, {"speed_in_range": SPEED}, label="name")
    given = pd.DataFrame({"name": list("abcde"), "speed": [500.0, 2.0, -1.25, 600.0, 700.0]})
    outcome = gate.check(given, rules)
    assert outcome.refusals == ["speed_in_range (4 of 5, a: 500, c: -1.25, d: 600, ...)"]
    assert outcome.held.empty


def test_a_suite_is_judged_by_its_newest_rules(gate):
    """Rules that changed under the same name are not the ones that an earlier batch met."""
    assert gate.check(frame(), suite()).held.empty
    slower = gxe.ExpectColumnValuesToBeBetween(column="speed", min_value=0, max_value=1.5)
    assert gate.check(frame(), suite({"speed_in_range": slower})).held.name.tolist() == ["b", "c"]
    assert gate.check(frame(), suite()).held.empty


@pytest.mark.parametrize("column", ["name", "speed"])
def test_a_missing_column_refuses_the_batch_and_does_not_raise(gate, column):
    """A row rule that cannot be asked says nothing of single rows: it stops them all."""
    outcome = gate.check(frame().drop(columns=column), suite())
    assert column in refused(outcome)
    assert outcome.held.empty


def test_a_retyped_column_refuses_the_batch_and_does_not_raise(gate):
    """Numbers that came as text cannot be compared with numbers."""
    outcome = gate.check(frame(speed=["1", "2", "fast"]), suite())
    assert "speed_in_range" in refused(outcome)


def test_an_empty_batch_is_no_pass(gate):
    """No rows break no rule, and still an empty batch is refused, unless the suite allows it."""
    assert "0 rows, at least 1 expected" in refused(gate.check(frame().iloc[:0], suite()))
    allowed = gate.check(frame().iloc[:0], suite(min_rows=0)).require("today")
    assert len(allowed.accepted) == len(allowed.held) == 0
    assert "2" in refused(gate.check(frame().iloc[:1], suite(min_rows=2)))


def test_a_gate_remembers_what_it_found_and_writes_it_down(tmp_path):
    """Findings of all batches, in order, and Data Docs to read them in."""
    gate = Gate()
    gate.check(frame(), suite())
    gate.check(frame(speed=[500.0, 2.0, 3.0]), suite())
    assert [f.broken for f in gate.findings if f.rule == "speed_in_range"] == [0, 1]
    index = gate.write_docs(tmp_path / "docs")
    assert index.exists()
    assert list((tmp_path / "docs" / "validations").rglob("*.html"))


# ---- the suites that ship -------------------------------------------------------------------------------------------

DAY = pd.Timestamp("2013-07-01", tz="UTC")
FLIGHT = {
    "flight_id": "B67_JFK_20130701T1200Z", "origin": "JFK", "dest": "BOS", "carrier": "B6", "flight_number": 7,
    "tailnum": "N1AB", "scheduled_departure": DAY, "event_timestamp": DAY, "created_timestamp": DAY,
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "schedule": FLIGHT | {"scheduled_arrival": DAY + pd.Timedelta(hours=1), "distance_miles": 187.0},
    "departures": FLIGHT | {"dep_delay_minutes": 5.0},
    "arrivals": FLIGHT | {"arr_delay_minutes": -5.0},
    "cancellations": FLIGHT,
    "weather": {
        "origin": "JFK", "observed_at": DAY, "temperature_f": 70.0, "dew_point_f": 60.0, "humidity_pct": 50.0,
        "wind_dir_deg": 180.0, "wind_speed_mph": 9.0, "precip_in": 0.0, "pressure_mb": 1013.0, "visibility_mi": 10.0,
        "event_timestamp": DAY + pd.Timedelta(hours=1), "created_timestamp": DAY,
    },
    "aircraft": {
        "tailnum": "N1AB", "year_built": 1999.0, "seats": 150, "event_timestamp": DAY, "created_timestamp": DAY,
    },
}  # fmt: skip
KEYS = {"weather": ("observed_at", pd.Timedelta(hours=1)), "aircraft": ("tailnum", "X")}


def batch(table: str, *changes: dict[str, Any]) -> pd.DataFrame:
    """Fifty good rows, each with a key of its own, and after them one for each change."""
    key, step = KEYS.get(table, ("flight_id", "X"))
    rows = []
    for number, change in enumerate([{}] * 50 + list(changes)):
        row = dict(GOOD[table])
        if isinstance(step, str):
            row[key] = f"N{number}AB"
        else:
            row |= {key: row[key] + number * step, "event_timestamp": row["event_timestamp"] + number * step}
        rows.append(row | change)
    return pd.DataFrame(rows)


@pytest.mark.parametrize("table", list(RAW_SUITES))
def test_good_raw_rows_pass(gate, table):
    """The suites know what ordinary events look like."""
    assert gate.check(batch(table), RAW_SUITES[table]).require("today").held.empty


@pytest.mark.parametrize(
    ("table", "change", "rules"),
    [
        ("schedule", {"distance_miles": 17.0}, "distance_in_range"),
        ("schedule", {"scheduled_arrival": DAY}, "arrives_after_it_departs"),
        ("schedule", {"origin": "jfk", "carrier": "JBU"}, "carrier_is_airline_code,origin_is_airport_code"),
        ("schedule", {"dest": None}, "dest_present"),
        ("departures", {"dep_delay_minutes": 1441.0}, "dep_delay_in_range"),
        ("departures", {"flight_number": 0}, "flight_number_in_range"),
        ("arrivals", {"arr_delay_minutes": -121.0}, "arr_delay_in_range"),
        ("arrivals", {"arr_delay_minutes": None}, "arr_delay_minutes_present"),
        ("arrivals", {"event_timestamp": DAY - pd.Timedelta(days=1)}, "known_after_scheduled_departure"),
        ("cancellations", {"tailnum": "no plane"}, "tailnum_is_registration"),
        ("weather", {"wind_speed_mph": 1048.36}, "wind_speed_mph_in_range"),
        ("weather", {"event_timestamp": DAY}, "known_after_observed"),
        ("aircraft", {"seats": 0, "year_built": 1903.0}, "seats_in_range,year_built_in_range"),
    ],
)
def test_a_bad_raw_row_is_held_for_its_reason(gate, table, change, rules):
    """One bad row among fifty good ones is held, with the rules it broke, and the others go on."""
    outcome = gate.check(batch(table, change), RAW_SUITES[table]).require("today")
    assert outcome.held.rules.tolist() == [rules]
    assert len(outcome.accepted) == 50


def test_an_unknown_tailnum_is_no_fault(gate):
    """2,512 real flights have none."""
    assert gate.check(batch("schedule", {"tailnum": None}), RAW_SUITES["schedule"]).require("today").held.empty


@pytest.mark.parametrize("table", list(RAW_SUITES))
def test_a_doubled_raw_row_refuses_the_batch(gate, table):
    """Both of a pair claim to be the event: neither is published before somebody has looked."""
    doubled = pd.concat([batch(table), batch(table).iloc[:1]], ignore_index=True)
    assert "unique" in refused(gate.check(doubled, RAW_SUITES[table]))


@pytest.mark.parametrize(("table", "empty_allowed"), [("schedule", False), ("weather", False), ("cancellations", True)])
def test_only_quiet_feeds_may_be_empty(gate, table, empty_allowed):
    """A day without cancellations is good; a day without a schedule is a broken feed."""
    assert (gate.check(batch(table).iloc[:0], RAW_SUITES[table]).refusals == []) == empty_allowed


def test_feature_rows_are_judged_by_what_they_are_called(gate):
    """Rates lie between 0 and 1, counts are not negative, keys and stamps are there; nulls are fine."""
    columns = {
        "route_late_rate_7d": 0.5,
        "origin_departures_1h": 3,
        "route_mean_arr_delay_7d": -2.0,
        "event_timestamp": DAY,
    }
    rows = [columns | {"origin": f"A{number:03}"} for number in range(400)]
    bad = [{"route_late_rate_7d": 1.5}, {"origin_departures_1h": -1}, {"origin": None}]
    good = {"route_late_rate_7d": None, "route_mean_arr_delay_7d": None}
    given = pd.DataFrame(rows + [columns | {"origin": f"B{n}"} | change for n, change in enumerate([*bad, good])])
    checks = feature_suite("made_up", ["origin"], list(columns), BOUNDS)
    outcome = gate.check(given, checks).require("today")
    assert outcome.held.rules.tolist() == [
        "route_late_rate_7d_in_range",
        "origin_departures_1h_in_range",
        "origin_present",
    ]
    assert "one_row_a_key_and_moment" in refused(
        gate.check(pd.concat([given, given.iloc[:1]], ignore_index=True), checks)
    )


def test_a_training_set_needs_both_outcomes_one_row_a_flight_and_known_features(gate):
    """Each of these alone stops a training run."""
    good = pd.DataFrame({"flight_id": [str(n) for n in range(1000)], "is_late": [0, 1] * 500, "seats": [150.0] * 1000})
    checks = training_suite("made_up", "flight_id", "is_late", ["seats"], "classification", LIMITS)
    assert gate.check(good, checks).require("today").held.empty
    assert "both_outcomes_occur" in refused(gate.check(good.assign(is_late=0), checks))
    assert "rows_are_unique" in refused(gate.check(good.assign(flight_id="1"), checks))
    assert "seats_mostly_known" in refused(gate.check(good.assign(seats=[None] * 501 + [1.0] * 499), checks))
    assert "few_rows_held" in refused(gate.check(good.assign(is_late=[2, *good.is_late[1:]]), checks))
    assert "enough_rows" in refused(gate.check(good.iloc[:999], checks))


def test_a_training_set_of_numbers_needs_them_finite_and_not_all_the_same(gate):
    """Infinite, missing and constant labels stop a training run; negative and large ones do not."""
    minutes = [-30.0, 1e9] * 500
    good = pd.DataFrame({"flight_id": [str(n) for n in range(1000)], "minutes": minutes, "seats": [150.0] * 1000})
    checks = training_suite("made_up", "flight_id", "minutes", ["seats"], "regression", LIMITS)
    assert gate.check(good, checks).require("today").held.empty
    assert "outcomes_differ" in refused(gate.check(good.assign(minutes=7.0), checks))
    for bad in (float("inf"), float("-inf"), None):
        assert "few_rows_held" in refused(gate.check(good.assign(minutes=[bad, *minutes[1:]]), checks))


def test_an_accepted_batch_rule_is_reported_and_does_not_stop():
    """Odd and known to be right: the finding stays, the batch goes on; other rules stop as before."""
    suite = Suite("odd", {}, {"unique": gxe.ExpectColumnValuesToBeUnique(column="a")}, min_rows=3)
    frame = pd.DataFrame({"a": [1, 1]})
    outcome = Gate(accept=["odd.unique"]).check(frame, suite)
    assert [found.severity for found in outcome.findings if found.rule == "unique" and not found.passed] == ["accepted"]
    assert [refusal.split()[0] for refusal in outcome.refusals] == ["enough_rows"]
    assert not Gate(accept=["odd.unique", "odd.enough_rows"]).check(frame, suite).refusals
