"""Compute feature rows: all of an interval, and of those published before it the ones that late events touch.

An event is late for a feature table when it landed, or was restated, after rows were published whose windows hold it.
The change data feeds of the raw tables tell which events those are; the feature table's commits say what it has seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import duckdb
import ibis
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from fti.features.publish import Reflects, changes, state_of
from fti.features.windows import FeatureTable, Interval
from fti.project import project
from fti.stores.delta import create_view, literal, quote

TOUCHED = "__touched"


@dataclass(frozen=True)
class Late:
    """Which published rows to compute again: those of the intervals `spans`, and of these keys; of all when None."""

    spans: list[Interval] = field(default_factory=list)
    keys: pa.Table | None = None


@dataclass(frozen=True)
class Computed:
    """Rows to write, and the SQL condition that says which rows of the table they replace.

    `recomputed` counts those of other intervals than the one asked for.
    """

    rows: pa.Table
    recomputed: int
    holds: str
    late: Late
    reflects: Reflects

    def register(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make the keys that `holds` speaks of visible in `con`."""
        if self.late.keys is not None:
            con.register(TOUCHED, self.late.keys)


def open_raw(con: duckdb.DuckDBPyConnection, tables: UPath) -> dict[str, str]:
    """Make the raw tables visible in `con`, as `raw_` and their name; returns their states. Raises TableMissing."""
    states = {}
    for name in project().source.RAW_SCHEMAS:
        states[name] = state_of(tables / "raw" / name)
        create_view(con, f"raw_{name}", tables / "raw" / name)
    return states


def newest_event(con: duckdb.DuckDBPyConnection) -> datetime | None:
    """The newest event timestamp in any of the raw tables that `open_raw` has made visible."""
    newest = " UNION ALL ".join(
        f"SELECT max(event_timestamp) AS newest FROM raw_{name}" for name in project().source.RAW_SCHEMAS
    )
    ((found,),) = con.execute(f"SELECT max(newest) FROM ({newest})").fetchall()
    return found


def compute(
    con: duckdb.DuckDBPyConnection,
    tables: UPath,
    name: str,
    table: FeatureTable,
    interval: Interval,
    raw: dict[str, str],
) -> Computed:
    """The rows of feature table `name` to write for an interval: keys, features, event and created timestamp (UTC).

    `raw` is what `open_raw` said.
    """
    states = {source: raw[source] for source in table.reads}
    known = Reflects.of(tables / "features" / name)
    late = _late(tables, table, known, states)
    asked = table.holds("event_timestamp", *bounds(interval))
    parts, conditions = [_rows(con, table, interval)], [f"({asked})"]
    for span in late.spans:
        condition = f"{table.holds('event_timestamp', *bounds(span))} AND NOT ({asked})"
        if late.keys is not None:
            con.register(TOUCHED, late.keys)
            names = ", ".join(map(quote, late.keys.column_names))
            condition += f" AND ({names}) IN (SELECT ({names}) FROM {TOUCHED})"
        con.register("__late", _rows(con, table, span, late.keys))
        parts.append(con.sql(f"SELECT * FROM __late WHERE {condition}").to_arrow_table().cast(parts[0].schema))
        conditions.append(f"({condition})")
    rows = pa.concat_tables(parts).sort_by([(column, "ascending") for column in ("event_timestamp", *table.keys)])
    return Computed(
        rows,
        recomputed=rows.num_rows - parts[0].num_rows,
        holds=" OR ".join(conditions),
        late=late,
        reflects=known.and_also(states, interval.start, interval.end),
    )


def bounds(interval: Interval) -> tuple[str, str]:
    """Start and end as SQL literals."""
    return literal(interval.start.isoformat()), literal(interval.end.isoformat())


def _late(tables: UPath, table: FeatureTable, known: Reflects, states: dict[str, str]) -> Late:
    """What the raw events that the table has not seen yet touch of what was published."""
    # An event touches no rows of other keys, as far as keys are columns of all the raw tables that are read.
    keys = [
        key for key in table.keys if all(key in project().source.RAW_SCHEMAS[source].names for source in table.reads)
    ]
    columns = [*keys, "event_timestamp"]
    feeds = []
    for source in table.reads if known.intervals else ():
        if known.raw.get(source) == states[source]:
            continue
        feed = changes(tables / "raw" / source, known.raw[source], columns) if source in known.raw else None
        if feed is None:  # what changed cannot be told any more
            return Late([Interval(*interval) for interval in known.intervals])
        feeds.append(feed)
    if not any(feed.num_rows for feed in feeds):
        return Late()
    events = pa.concat_tables(feeds, promote_options="permissive")
    moments = events.column("event_timestamp")
    spans, reaching = [], []
    for start, end in known.intervals:
        windows_from = start - timedelta(seconds=table.lookback_seconds)
        mine = events.filter(pc.and_(pc.greater_equal(moments, windows_from), pc.less(moments, end)))
        if mine.num_rows:
            reach = table.touched_by(*pc.min_max(mine.column("event_timestamp")).as_py().values())
            spans.append(Interval(max(start, reach.start), min(end, reach.end)))
            reaching.append(mine.select(keys))
    if not spans or not keys:
        return Late(spans)
    return Late(spans, pa.concat_tables(reaching).group_by(keys).aggregate([]).drop_null())


def _rows(
    con: duckdb.DuckDBPyConnection, table: FeatureTable, interval: Interval, keys: pa.Table | None = None
) -> pa.Table:
    """Run the transform over the raw events of the interval and of its windows; of these keys only, if given."""
    backend = ibis.duckdb.from_connection(con)
    tables = {}
    earliest = interval.start - timedelta(seconds=table.lookback_seconds)
    for name in table.reads:
        events = backend.table(f"raw_{name}")
        events = events.filter(events.event_timestamp >= earliest, events.event_timestamp < interval.end)
        if keys is not None:
            events = events.semi_join(backend.table(TOUCHED), keys.column_names)
        tables[name] = events
    return backend.to_pyarrow(table.compute(tables, interval))
