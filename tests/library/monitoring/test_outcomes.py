"""Which row of the spine a request was: found by all of its fields."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from fti.monitoring.outcomes import Spine

FIELDS = {"zone": "string", "depot_id": "int64", "fragile": "bool", "pace": "double"}
INTERFACE: Any = SimpleNamespace(
    request_fields=[SimpleNamespace(name=name, dtype=kind) for name, kind in FIELDS.items()]
)


def keys_of(rows: pd.DataFrame, spine: pd.DataFrame) -> list[str | None]:
    keys = pd.Series([f"row {number}" for number in range(len(spine))])
    found = Spine(INTERFACE, spine, keys).keys_of(rows)
    assert found.index.equals(rows.index)
    return found.tolist()


def test_a_request_without_a_value_is_not_one_that_says_none() -> None:
    """Nor NaN, nor nothing; and a number is the same from a table of floats as from the log."""
    zones = [None, "None", "nan", "<NA>", ""]
    spine = pd.DataFrame({"zone": zones, "depot_id": [7.0, None, 7.0, 7.0, 7.0], "fragile": True, "pace": 1.0})
    asked = spine.assign(depot_id=pd.array([7, None, 7, 7, 7], "Int64"), fragile=pd.array([True] * 5, "boolean"))
    asked = asked.iloc[::-1]
    assert keys_of(asked, spine) == [f"row {number}" for number in (4, 3, 2, 1, 0)]


def test_a_request_is_found_whether_or_not_numbers_are_missing_beside_it() -> None:
    """A column of whole numbers or of yes and no with a gap is read as 5.0 and 1.0, and is the same."""
    full = pd.DataFrame({"zone": ["a", "b"], "depot_id": [5, 6], "fragile": [True, False], "pace": [1.5, 2.0]})
    gaps = pd.DataFrame({
        "zone": ["a", "b", None], "depot_id": [5.0, 6.0, np.nan], "fragile": [1.0, 0.0, np.nan],
        "pace": [1.5, 2, np.nan],
    })  # fmt: skip
    assert keys_of(full, gaps) == ["row 0", "row 1"]
    assert keys_of(gaps, full) == ["row 0", "row 1", None]


def test_what_two_rows_of_the_spine_say_is_neither_of_them() -> None:
    """Their outcomes may differ; a request that nothing in the spine says has none either."""
    spine = pd.DataFrame({"zone": ["a", "a", "b", None], "depot_id": 5, "fragile": True, "pace": 1.5})
    asked = pd.DataFrame({"zone": ["a", "b", None, "c"], "depot_id": 5, "fragile": True, "pace": 1.5})
    assert keys_of(asked, spine) == [None, "row 2", "row 3", None]
