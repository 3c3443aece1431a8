"""The suites that every problem has alike, of made-up bounds and limits: what they hold, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pytest

from fti.validation.gate import BatchRefused, Gate
from fti.validation.rules import (
    LARGEST,
    LimitUnknown,
    TrainingLimits,
    feature_suite,
    floats_of,
    leak_suite,
    profile_suite,
    training_suite,
)

NOW = pd.Timestamp("2030-01-01", tz="UTC")
LIMITS = TrainingLimits(mostly_known=0.75, told_alone={"regression": 0.9}, label=(0, 10))


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


def test_of_the_patterns_that_fit_a_feature_the_first_counts(gate):
    """A side that is None is open, and a column that no pattern fits may be anything."""
    bounds = {"level_max_*": (0, None), "level_*": (0, 5), "share": (None, 1)}
    rows = pd.DataFrame(
        {
            "pump": ["a", "b", "c", "d"],
            "level_max_1d": [7.0, -1.0, 7.0, 7.0],
            "level_mean_1d": [5.0, 5.0, 6.0, 5.0],
            "share": [-9.0, 1.0, 1.0, 2.0],
            "odd": [1e9, -1e9, 0.0, 0.0],
            "event_timestamp": NOW,
        }
    )
    checks = feature_suite("made_up", ["pump"], ["level_max_1d", "level_mean_1d", "share", "odd"], bounds)
    checks = replace(checks, max_held_share=1.0)
    held = gate.check(rows, checks).require("today").held.set_index("pump").rules
    assert held.to_dict() == {"b": "level_max_1d_in_range", "c": "level_mean_1d_in_range", "d": "share_in_range"}


def test_an_infinite_feature_is_held_whether_or_not_it_has_bounds(gate):
    """By the rule of its bounds, also on a side that they leave open; NaN and null are unknown, not infinite."""
    odd = [float("inf"), float("-inf"), None, float("nan"), LARGEST, -LARGEST]
    columns = {
        "level_max_1d": odd,
        "free": odd,
        "count": pd.array([2**63 - 1, -(2**63), None, 2**53 + 1, 0, 1], "Int64"),
    }
    rows = pd.DataFrame({"pump": list("abcdef"), "word": "inf", **columns, "event_timestamp": NOW})
    checks = feature_suite("made_up", ["pump"], [*columns, "word"], {"level_*": (None, None)}, ["level_max_1d", "free"])
    held = gate.check(rows, replace(checks, max_held_share=1.0)).require("today").held.set_index("pump").rules
    assert held.to_dict() == dict.fromkeys("ab", "free_is_finite,level_max_1d_in_range")
    one_sided = feature_suite("made_up", ["pump"], ["level_max_1d"], {"level_*": (-LARGEST, None)}, ["level_max_1d"])
    held = gate.check(rows, replace(one_sided, max_held_share=1.0)).require("today").held
    assert held.pump.tolist() == ["a", "b"]
    floats = floats_of(pa.schema({"a": pa.float32(), "b": pa.float64(), "c": pa.int64(), "d": pa.string()}))
    assert floats == ["a", "b"]


def test_outside_of_the_critical_bounds_a_batch_stops_and_outside_of_the_others_it_is_told(gate):
    """The rule's name says which of the two it was."""
    checks = profile_suite("made_up", critical={"rows": (10, None)}, warning={"rows": (50, None)})
    told = gate.check(pd.DataFrame({"window": ["monday"], "rows": [20.0]}), checks).require("monday")
    assert [(one.rule, one.severity) for one in told.findings if not one.passed] == [("rows_normal", "warning")]
    with pytest.raises(BatchRefused, match=r"rows_possible \(.*monday: 5\)"):
        gate.check(pd.DataFrame({"window": ["monday"], "rows": [5.0]}), checks).require("monday")


def test_a_training_set_is_judged_by_the_limits_of_its_problem(gate):
    """One label beyond its bounds stops it, as does a feature that is known for too few rows."""
    good = pd.DataFrame({"row": [str(n) for n in range(1000)], "litres": [0.0, 10.0] * 500, "level": [1.0] * 1000})
    checks = training_suite("made_up", "row", "litres", ["level"], "regression", LIMITS)
    known = [None] * 250 + [1.0] * 750
    assert gate.check(good.assign(level=known), checks).require("today").held.empty
    with pytest.raises(BatchRefused, match="level_mostly_known"):
        gate.check(good.assign(level=[None, *known[:-1]]), checks).require("today")
    for bad in (-0.5, 10.5, None):
        found = gate.check(good.assign(litres=[bad, *good.litres[1:]]), checks)
        assert found.held.row.tolist() == ["0"]
        with pytest.raises(BatchRefused, match="few_rows_held"):
            found.require("today")


def test_a_feature_that_tells_too_much_is_named(gate):
    """By the limit of the label's task."""
    told = pd.DataFrame({"feature": ["level", "litres_after"], "r2_alone": [0.9, 0.95]})
    with pytest.raises(BatchRefused, match=r"litres_after"):
        gate.check(told, leak_suite("made_up", "regression", LIMITS)).require("today")


def test_a_task_without_a_limit_is_refused():
    """Better than to let any leak through: with the file where it belongs."""
    with pytest.raises(LimitUnknown, match=r"classification.*training_set\.py.*regression only"):
        leak_suite("made_up", "classification", LIMITS)
