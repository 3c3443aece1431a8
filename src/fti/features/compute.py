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

from fti.errors import Refusal
from fti.features.publish import LEARNT, Reflects, changes, state_of
from fti.features.restatements import FOR_EVER, Restatements
from fti.features.source import MOMENT
from fti.features.windows import FeatureTable, Interval
from fti.project import project
from fti.stores.delta import create_view, literal, quote

TOUCHED = "__touched"
NO_EVENTS = pa.schema({"event_timestamp": MOMENT, LEARNT: MOMENT}).empty_table()


class OutOfRange(Refusal):
    """A measure, or a sum of one, is beyond what its type holds."""


@dataclass(frozen=True)
class Late:
    """Which published rows to compute again: those of the intervals `spans`, and of these keys; of all when None.

    `events` are the changes that touch them: columns of the tables' keys, `event_timestamp` and `learnt`, both UTC.
    None when those are no longer known.
    """

    spans: list[Interval] = field(default_factory=list)
    keys: pa.Table | None = None
    events: pa.Table | None = field(default_factory=lambda: NO_EVENTS)


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
    restatements: Restatements

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
        restatements=_restatements(con, table, known, late),
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
        identity = project().source.RAW_KEYS[source]
        feed = changes(tables / "raw" / source, known.raw[source], columns, identity) if source in known.raw else None
        if feed is None:  # what changed cannot be told any more
            return Late([Interval(*interval) for interval in known.intervals], events=None)
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
        return Late(spans, events=events)
    return Late(spans, pa.concat_tables(reaching).group_by(keys).aggregate([]).drop_null(), events)


def _restatements(con: duckdb.DuckDBPyConnection, table: FeatureTable, known: Reflects, late: Late) -> Restatements:
    """When the changes of raw events were learnt that alter rows of the table, of those that were published before.

    Where the changes cannot be told any more, each row may be altered by what was learnt last.
    """
    published = [table.holds("event_timestamp", *bounds(Interval(*interval))) for interval in known.intervals]
    reach, events = table.lookback_seconds * 10**6, late.events
    if events is None:
        newest = " UNION ALL ".join(
            f"SELECT max(created_timestamp) AS moment FROM raw_{name} WHERE created_timestamp > event_timestamp"
            for name in table.reads
        )
        events = con.sql(f"SELECT to_timestamp(0) AS event_timestamp, max(moment) AS {LEARNT} FROM ({newest})")
        events, reach = events.to_arrow_table().cast(NO_EVENTS.schema), FOR_EVER
    # An event that was learnt when it happened is in no row that is stamped before that.
    late_learnt = events.filter(pc.greater(events.column(LEARNT), events.column("event_timestamp")))
    since, learnt = (late_learnt.column(name).cast(pa.int64()) for name in ("event_timestamp", LEARNT))
    if table.closed == "right":  # it counts from the next moment on
        since = pc.add(since, 1)
    keys = tuple(name for name in events.column_names if name not in NO_EVENTS.column_names)
    columns = {key: late_learnt.column(key) for key in keys} | {"since": since, LEARNT: learnt}
    return Restatements(table.keys, keys, pa.table(columns), reach, " OR ".join(published) or "false")


def _rows(
    con: duckdb.DuckDBPyConnection, table: FeatureTable, interval: Interval, keys: pa.Table | None = None
) -> pa.Table:
    """Run the transform over the raw events of the interval and of its windows; of these keys only, if given."""
    backend = ibis.duckdb.from_connection(con)
    tables = {}
    earliest = interval.start - timedelta(seconds=table.lookback_seconds)
    for name in table.reads:
        source = f"raw_{name}"
        if keys is not None:
            # A view, not ibis' semi_join: what that gives cannot be joined with itself, as a transform may want to.
            source, names = f"__touched_{name}", ", ".join(map(quote, keys.column_names))
            con.execute(
                f"CREATE OR REPLACE TEMP VIEW {quote(source)} AS "
                f"SELECT * FROM {quote(f'raw_{name}')} SEMI JOIN {TOUCHED} USING ({names})"
            )
        events = backend.table(source)
        tables[name] = events.filter(events.event_timestamp >= earliest, events.event_timestamp < interval.end)
    try:
        return backend.to_pyarrow(table.compute(tables, interval))
    except (duckdb.ConversionException, duckdb.OutOfRangeException, pa.ArrowInvalid) as error:
        raise OutOfRange(
            f"The rows of {', '.join(table.keys)} from {', '.join(table.reads)} hold a number that is too large to add "
            f"up ({str(error).partition(chr(10))[0]}). An amount may be up to 10^12, a sum of integers up to 2^63. Let "
            "a rule in validation/ hold such a raw row, or measure it in another unit in feature_repo/transforms.py."
        ) from error
