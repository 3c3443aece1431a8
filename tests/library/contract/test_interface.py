"""What a view's defaults do to columns of each type: the training set says what the service answers with."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from fti.contract.interface import JoinKey, _filled


@pytest.mark.parametrize(
    ("column", "default", "filled"),
    [
        (pd.array([2**53 + 1, None], "Int64"), 3.0, [2**53 + 1, 3]),
        (pd.array([7, None], "Int64"), 0.5, [7.0, 0.5]),
        (pd.array([-(2**31), None], "Int32"), 2.0**40, [float(-(2**31)), 2.0**40]),
        (pd.array([False, None], "boolean"), 1.0, [False, True]),
        (pd.array([True, None], "boolean"), 0.25, [1.0, 0.25]),
        ([1.5, None], -1.0, [1.5, -1.0]),
        (["NA", None], "null", ["NA", "null"]),
    ],
)
def test_a_default_takes_the_place_of_a_null_and_changes_no_other_value(column: Any, default: Any, filled: list[Any]):
    """A whole number keeps its last digit, unless the default is none of its type."""
    assert _filled(pd.Series(column), default).tolist() == filled


def test_slots_of_time_are_whole_numbers_beside_a_moment_that_is_missing():
    """As the service makes them of one moment."""
    key = JoinKey(name="hour", dtype="int64", request_field="at", floor_seconds=3600, noun="hour")
    moments = pd.Series(pd.to_datetime(["2024-05-01T10:59Z", None, "1970-01-01T00:00Z"], utc=True))
    slots = key.of_column(moments)
    assert str(slots.dtype) == "Int64"
    assert slots.tolist() == [key.of(moments[0]), pd.NA, 0]
