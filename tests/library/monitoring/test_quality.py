"""Which row of the spine a request was: found by all of its fields."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd

from fti.monitoring.quality import _as_asked

FIELDS = {"zone": "string", "depot_id": "int64", "fragile": "bool", "pace": "double"}
INTERFACE = SimpleNamespace(request_fields=[SimpleNamespace(name=name, dtype=dtype) for name, dtype in FIELDS.items()])


def test_a_request_without_a_value_is_not_one_that_says_none():
    """Nor NaN, nor nothing; and a number is the same from a table of floats as from the log."""
    zones = [None, "None", "nan", "<NA>", ""]
    rows = pd.DataFrame({"zone": zones, "depot_id": [7.0, None, 7.0, 7.0, 7.0], "fragile": True, "pace": 1.0})
    asked = rows.assign(depot_id=pd.array([7, None, 7, 7, 7], "Int64"), fragile=pd.array([True] * 5, "boolean"))
    spine = _as_asked(INTERFACE, rows)
    assert spine.is_unique
    assert spine.equals(_as_asked(INTERFACE, asked))
