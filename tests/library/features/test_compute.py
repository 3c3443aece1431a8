"""Rows of a feature table, computed of the raw events; also of those alone whose keys late events have touched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from ibis.expr.types import Table

from fti.features.compute import TOUCHED, _rows
from fti.features.windows import FeatureTable, Interval, Tables
from fti.stores.delta import connect

START, HOUR = datetime(2025, 1, 1, tzinfo=UTC), timedelta(hours=1)
INTERVAL = Interval(START, START + 24 * HOUR)


def with_the_hour_before(tables: Tables, _: Interval) -> Table:
    """A table that is joined with itself."""
    counts = tables["counts"]
    now = counts.select("street", "people", hour=counts.hour + 1)
    before = counts.select("street", usual=counts.people, hour=counts.hour + 2)
    return now.join(before, ["street", "hour"])


def one_above_another(tables: Tables, _: Interval) -> Table:
    return tables["counts"].union(tables["counts"].mutate(hour=tables["counts"].hour + 100))[["street", "hour"]]


def with_another(tables: Tables, _: Interval) -> Table:
    """Both of them have the key."""
    return tables["counts"].join(tables["shops"].select("street", "shops"), "street")[["street", "hour", "shops"]]


@pytest.mark.parametrize("transform", [with_the_hour_before, one_above_another, with_another])
def test_rows_of_touched_keys_are_those_of_all_rows(transform):
    """Whatever a transform does with its tables."""
    con = connect()
    rows = [(street, hour, ord(street) + hour, START + hour * HOUR) for street in "abc%" for hour in range(24)]
    counts = pd.DataFrame(rows, columns=["street", "hour", "people", "event_timestamp"])
    shops = pd.DataFrame({"street": list("abc%"), "shops": [1, 2, 3, 4], "event_timestamp": START})
    for name, frame in {"counts": counts, "shops": shops}.items():
        con.register("given", frame)
        con.execute(f"CREATE TABLE raw_{name} AS SELECT * FROM given")
    table = FeatureTable(("street",), ("counts", "shops"), transform)
    keys = pa.table({"street": ["b", "%"]})
    con.register(TOUCHED, keys)
    every = _rows(con, table, INTERVAL).to_pandas()
    wanted = every[every.street.isin(["b", "%"])]
    found = _rows(con, table, INTERVAL, keys).to_pandas()
    order = ["street", "hour"]
    assert len(wanted) > 40
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True), wanted.sort_values(order, ignore_index=True), check_dtype=True
    )
