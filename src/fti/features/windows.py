"""What every transform is made of: windows over raw events, rows at grid points, and what a published table is.

A row stamped T summarises events with timestamps before T: an event at t counts from the end of its grid cell,
`floor(t / grid) * grid + grid`, the first grid point after t.

Two kinds of views need rows at different moments. A *heartbeat* view has a row at each grid point for each key seen in
the last 30 days, so that the age of its newest row is the age of the feed. An *on-change* view, for the many keys that
are seldom seen, has a row when an event enters one of its windows or leaves it, which says the same with fewer rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import ibis
from ibis import _
from ibis.expr.types import Table

MINUTE, HOUR, DAY = 60, 3600, 86_400
ROSTER = 30 * DAY

# What may be a fraction is summed as a decimal of so many places: one row up to 10^12, and sums of any number of them.
DIGITS = 6
AMOUNT, TOTAL = f"decimal(18, {DIGITS})", f"decimal(38, {DIGITS})"

Tables = dict[str, Table]


@dataclass(frozen=True)
class Interval:
    """Feature rows with `start` < event timestamp <= `end`: those that summarise events in [start, end)."""

    start: datetime
    end: datetime

    def grid_points(self, grid: int) -> list[int]:
        first = int(self.start.timestamp()) // grid * grid + grid
        return list(range(first, int(self.end.timestamp()) + 1, grid))


@dataclass(frozen=True)
class FeatureTable:
    """One published table: its key, the raw tables it reads, what computes it and how far back that looks, in seconds.

    Rows that summarise a window lie in (start, end] of an interval (`closed="right"`): the row stamped `end` is made of
    events before it. Rows that pass an event on carry its own timestamp and lie in [start, end) (`closed="left"`).
    """

    keys: tuple[str, ...]
    reads: tuple[str, ...]
    compute: Callable[[Tables, Interval], Table]
    lookback_seconds: int = 0
    closed: Literal["left", "right"] = "right"

    def holds(self, timestamp: str, start: str, end: str) -> str:
        """SQL that is true for the table's rows of an interval; the arguments are SQL too."""
        low, high = (">=", "<") if self.closed == "left" else (">", "<=")
        return f"{timestamp} {low} {start} AND {timestamp} {high} {end}"

    def touched_by(self, first: datetime, last: datetime) -> Interval:
        """The interval that holds every row which events from `first` to `last` can be part of."""
        return Interval(first, last + timedelta(seconds=self.lookback_seconds, microseconds=1))


def seconds(moment):
    """Whole seconds since 1970, cut off: DuckDB alone would round them. ibis types them int32, which ends in 2038."""
    return moment.truncate("s").epoch_seconds().cast("int64")


def cell_end(moment, grid: int):
    """The first grid point after `moment`, in seconds since 1970. Integer `//` floors on DuckDB and Spark alike."""
    return (seconds(moment) // grid) * grid + grid


def counted(events: Table, keys: tuple[str, ...], grid: int, **measures) -> Table:
    """One row an event: its keys, its grid cell, what it adds to each measure, and when we learnt of it."""
    return events.filter([events[key].notnull() for key in keys]).select(
        *keys,
        bucket=cell_end(events.event_timestamp, grid),
        learnt=seconds(events.created_timestamp),
        **{name: exact(expression) for name, expression in measures.items()},
    )


def exact(value):
    """A number whose sums do not depend on the order of rows, nor on the engine: an integer, or a decimal.

    A number that may be a fraction is a decimal of `DIGITS` places. It is rounded to them as a float first: how a cast
    alone rounds, DuckDB and Spark do not agree. One beyond what AMOUNT holds is an error of the engine, never a null.
    """
    kind = value.type()
    if kind.is_floating() or kind.is_decimal():
        return ((value.cast("float64") * 10**DIGITS).round() / 10**DIGITS).cast(AMOUNT)
    return value.cast("int64")


def union_counts(*parts: Table) -> Table:
    """Stack event rows that count different things, zero where a part does not count."""
    measures = [name for part in parts for name in part.columns if name not in parts[0].columns]
    columns = [*parts[0].columns, *dict.fromkeys(measures)]
    amounts = {name for part in parts for name in part.columns if part[name].type() == ibis.dtype(AMOUNT)}

    def padded(part: Table, name: str):
        kind = AMOUNT if name in amounts else "int64"
        if name not in part.columns:
            return ibis.literal(0, "int64").cast(kind)
        return part[name].cast(kind) if name in amounts else part[name]

    return ibis.union(*(part.select(**{name: padded(part, name) for name in columns}) for part in parts))


def windowed(
    counts: Table,
    keys: tuple[str, ...],
    grid: int,
    windows: dict[str, int],
    interval: Interval,
    *,
    heartbeat: bool,
    news: Table | None = None,
) -> Table:
    """Sum each measure over each window at each row due in `interval`; columns `<measure>_<window>`.

    `latest` is the newest cell of the longest window that holds an event, null when none does. Sums are of integers or
    of decimals: they do not depend on the order of rows, so every engine gives the same cells. A sum of decimals is
    rounded once, to a float64. `news` (keys, bucket, learnt, due) is not counted: it says when else something was
    learnt, and when else an on-change view has a row.
    """
    measures = [name for name in counts.columns if name not in (*keys, "bucket", "learnt")]
    totals = {name: TOTAL if counts[name].type().is_decimal() else "int64" for name in measures}
    cells = counts.group_by([*keys, "bucket"]).agg(
        learnt=_.learnt.max(),
        seen_at=_.bucket.max(),
        due=ibis.literal(0, "int64"),
        **{name: _[name].sum().cast(totals[name]) for name in measures},
    )
    if heartbeat:
        points = ibis.memtable({"bucket": interval.grid_points(grid)}, schema={"bucket": "int64"})
        due = counts.select(*keys).distinct().cross_join(points)
    else:
        edges = [0, *windows.values()]
        moved = [counts.select(*keys, bucket=counts.bucket + edge) for edge in edges]
        due = ibis.union(*moved, distinct=True)
    zero = {name: ibis.literal(0, "int64").cast(totals[name]) for name in measures}
    unseen = ibis.null("int64")
    due = due.select(*keys, "bucket", learnt=unseen, seen_at=unseen, due=ibis.literal(1, "int64"), **zero)
    parts = [cells.select(due.columns), due]
    if news is not None:
        parts.append(news.mutate(seen_at=unseen, **zero).select(due.columns))
    merged = (
        ibis.union(*parts)
        .group_by([*keys, "bucket"])
        .agg(
            learnt=_.learnt.max(),
            seen_at=_.seen_at.max(),
            due=_.due.max(),
            **{name: _[name].sum().cast(totals[name]) for name in measures},
        )
    )

    def over(length: int):
        return ibis.range_window(group_by=list(keys), order_by="bucket", preceding=length - grid, following=0)

    cells_of = {TOTAL: "float64", "int64": "int64"}
    longest = max([*windows.values(), *([ROSTER] if heartbeat else [])])
    rows = merged.mutate(
        learnt=merged.learnt.max().over(over(longest)),
        latest=merged.seen_at.max().over(over(longest)),
        **{
            f"{measure}_{window}": merged[measure].sum().over(over(length)).cast(cells_of[totals[measure]])
            for measure in measures
            for window, length in windows.items()
        },
    )
    wanted = within(rows, interval).filter(_.due == 1)
    return wanted.filter(_.latest.notnull()) if heartbeat else wanted


def within(rows: Table, interval: Interval) -> Table:
    """The rows that end in the interval: cells around it, seen in part only, are another interval's."""
    start, end = int(interval.start.timestamp()), int(interval.end.timestamp())
    return rows.filter((rows.bucket > start) & (rows.bucket <= end))


def stamped(rows: Table, keys: tuple[str, ...], **features) -> Table:
    """Name the features and add both timestamps: the window's end, and when the last of its events was learnt.

    Of a row that was published before, `restamped` has the last word: an event may have left its window.
    """
    utc = "timestamp('UTC', 6)"
    learnt = ibis.greatest(rows.bucket, rows.learnt.fill_null(rows.bucket))
    return rows.select(
        *keys,
        **features,
        event_timestamp=rows.bucket.as_timestamp("s").cast(utc),
        created_timestamp=learnt.as_timestamp("s").cast(utc),
    )


def ratio(part, whole):
    """part / whole, null where there is nothing to divide by."""
    return part.cast("float64") / whole.nullif(0).cast("float64")


def passed_on(source: str, **columns: str) -> Callable[[Tables, Interval], Table]:
    """Events as they are, under other names: each is known from its own timestamp on."""

    def compute(tables: Tables, interval: Interval) -> Table:
        events = tables[source]
        return events.select(
            **{name: events[column] for name, column in columns.items()},
            event_timestamp=events.event_timestamp,
            created_timestamp=events.created_timestamp,
        )

    return compute
