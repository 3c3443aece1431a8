"""Sums over windows: what they are, whatever the order of rows and the kind of number."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import ibis
import pyarrow as pa
import pytest

from fti.features import compute as computing
from fti.features.compute import OutOfRange
from fti.features.windows import HOUR, FeatureTable, Interval, counted, ratio, stamped, union_counts, windowed
from fti.stores.delta import connect

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
ONE_HOUR = Interval(NOON, NOON + timedelta(hours=1))
US = pa.timestamp("us", tz="UTC")


def spent(tables: Any, interval: Interval) -> Any:
    """Sum and mean of the amounts of an hour, and their number."""
    orders = tables["orders"]
    counts = counted(orders, ("shop",), HOUR, orders=ibis.literal(1), amount=orders.amount)
    rows = windowed(counts, ("shop",), HOUR, {"1h": HOUR}, interval, heartbeat=True)
    return stamped(
        rows, ("shop",), total=rows.amount_1h, mean=ratio(rows.amount_1h, rows.orders_1h), orders=rows.orders_1h
    )


ORDERS = FeatureTable(("shop",), ("orders",), spent, HOUR)


def orders(amounts: list[Any], kind: pa.DataType | None = None) -> pa.Table:
    """Orders of these amounts, one a second."""
    moments = pa.array([NOON + timedelta(seconds=number) for number in range(len(amounts))], US)
    stamps = {"event_timestamp": moments, "created_timestamp": moments}
    return pa.table({"shop": ["a"] * len(amounts), "amount": pa.array(amounts, kind)} | stamps)


def publish(amounts: list[Any], kind: pa.DataType | None = None) -> pa.Table:
    """The rows of an hour with these orders."""
    con = connect()
    con.register("raw_orders", orders(amounts, kind))
    return computing._rows(con, ORDERS, ONE_HOUR)


CENTS = [round(random.Random(3).uniform(-500, 500), 2) for _ in range(2000)]
PARTS = [round(random.Random(4).uniform(0, 1), 6) for _ in range(2000)]
LARGE_AND_SMALL = [10.0**9, 0.1, -(10.0**9), 0.2] * 500


@pytest.mark.parametrize("amounts", [CENTS, PARTS, LARGE_AND_SMALL], ids=["cents", "millionths", "large and small"])
def test_amounts_are_added_up_exactly_in_any_order(amounts):
    """Sum and mean are the numbers next to the true ones, and the same to the bit however the rows lie."""
    exact = sum(Fraction(str(amount)) for amount in amounts)
    (row,) = publish(amounts).to_pylist()
    assert row["total"] == float(exact)
    assert row["mean"] == float(exact) / len(amounts)
    for seed in range(3):
        assert publish(random.Random(seed).sample(amounts, len(amounts))).to_pylist()[0]["total"] == row["total"]


@pytest.mark.parametrize(
    ("amounts", "kind", "total"),
    [
        ([1, 2, 3], pa.int64(), 6),
        ([1.0, 2.0, None], pa.float64(), 3.0),
        ([0.5, 0.25], pa.float32(), 0.75),
        ([Decimal("0.05"), Decimal("0.10")], pa.decimal128(10, 2), 0.15),
        ([True, False, True], pa.bool_(), 2),
    ],
)
def test_integers_stay_integers_and_fractions_become_floats(amounts, kind, total):
    """The type of a sum is told by that of the raw column, not by the numbers in it."""
    rows = publish(amounts, kind)
    assert rows.column("total").to_pylist() == [total]
    assert rows.schema.field("total").type == (pa.int64() if isinstance(total, int) else pa.float64())
    assert rows.schema.field("orders").type == pa.int64()


@pytest.mark.parametrize(
    ("amounts", "kind"),
    [([1e13], pa.float64()), ([float("inf")], pa.float64()), ([2**62] * 3, pa.int64())],
    ids=["a large amount", "infinite", "a large sum"],
)
def test_what_no_type_holds_is_refused(amounts, kind):
    """In one line that says what to do, rather than as a null or as another number."""
    with pytest.raises(OutOfRange, match=r"too large to add up.*another unit"):
        publish(amounts, kind)


def test_parts_that_measure_different_kinds_are_stacked():
    """Where one part has integers and another fractions of one name, both are amounts; who does not count adds zero."""
    con = connect()
    moments = pa.array([NOON, NOON], US)
    stamps = {"event_timestamp": moments, "created_timestamp": moments}
    con.register("bought", pa.table({"shop": ["a", "a"], "amount": [1.25, 2.5], **stamps}))
    con.register("returned", pa.table({"shop": ["a", "a"], "amount": [1, 2], "parcels": [1, 1], **stamps}))
    backend = ibis.duckdb.from_connection(con)
    bought, returned = backend.table("bought"), backend.table("returned")
    stacked = union_counts(
        counted(bought, ("shop",), HOUR, amount=bought.amount),
        counted(returned, ("shop",), HOUR, amount=-returned.amount, parcels=returned.parcels),
    )
    rows = windowed(stacked, ("shop",), HOUR, {"1h": HOUR}, ONE_HOUR, heartbeat=True)
    (row,) = backend.to_pyarrow(rows).to_pylist()
    assert (row["amount_1h"], row["parcels_1h"]) == (0.75, 2)
