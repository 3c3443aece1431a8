"""When restated feature rows were learnt: a created timestamp never falls, and says no change is older than it is.

A transform stamps a row with the newest-learnt event of its window. That is right for a row that is published for the
first time. But a correction may take that very event out of the window: the row changes, and its stamp would fall. An
online store would then keep the row of before, and a join by created timestamp would see the change too early.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa

from fti.stores.delta import quote

CREATED = "created_timestamp"
FOR_EVER = 2**62  # microseconds
EVENTS, ROW = "__restated_events", "__row"


@dataclass(frozen=True)
class Restatements:
    """Changes of raw events since a table was published last, and which of its rows each may be part of.

    `events`: `keys`, `since` and `learnt`, both in microseconds since 1970, UTC. An event may be part of the rows of
    its keys with event timestamps from `since` on, for `reach` microseconds. `row_keys` and the event timestamp name a
    row. `published` is SQL that is true for event timestamps that were published before.
    """

    row_keys: tuple[str, ...]
    keys: tuple[str, ...]
    events: pa.Table
    reach: int
    published: str


def restamped(con: duckdb.DuckDBPyConnection, rows: pa.Table, before: str, restatements: Restatements) -> pa.Table:
    """Return `rows` with the created timestamps that are right beside the rows of `before`, an SQL query.

    A row that says what it said keeps its stamp. One that changed has the latest of three: its stamp before, its stamp
    now and the moment that a change of its events was learnt.
    """
    con.register("__rows", rows.append_column(ROW, pa.array(range(rows.num_rows), pa.int64())))
    con.register(EVENTS, restatements.events)
    payload = [quote(name) for name in rows.column_names if name != CREATED]
    identity = [quote(name) for name in (*restatements.row_keys, "event_timestamp")]
    columns = [f"{_stamp()} AS {CREATED}" if name == CREATED else f"r.{quote(name)}" for name in rows.column_names]
    return (
        con.sql(
            f"WITH same AS ({_newest(payload, before)}), earlier AS ({_newest(identity, before)}), "
            f"changed AS ({_learnt(restatements)}) SELECT {', '.join(columns)} FROM __rows r "
            f"LEFT JOIN same ON {_equal('same', payload)} LEFT JOIN earlier ON {_equal('earlier', identity)} "
            f"LEFT JOIN changed ON changed.{ROW} = r.{ROW} ORDER BY r.{ROW}"
        )
        .to_arrow_table()
        .cast(rows.schema)
    )


def _stamp() -> str:
    later = f"greatest(r.{CREATED}, earlier.created, make_timestamptz(changed.learnt))"
    return f"CASE WHEN same.known THEN same.created ELSE {later} END"


def _newest(columns: list[str], query: str) -> str:
    names = ", ".join(columns)
    return f"SELECT {names}, true AS known, max({CREATED}) AS created FROM ({query}) GROUP BY {names}"


def _equal(table: str, columns: list[str]) -> str:
    return " AND ".join(f"r.{column} IS NOT DISTINCT FROM {table}.{column}" for column in columns)


def _learnt(restatements: Restatements) -> str:
    """SQL for the newest change that each row published before may be part of: `__row` and `learnt`."""
    keys = "".join(f"{quote(key)}, " for key in restatements.keys)
    partition = f"PARTITION BY {keys.removesuffix(', ')} " if keys else ""
    window = f"{partition}ORDER BY since RANGE BETWEEN {restatements.reach} PRECEDING AND CURRENT ROW"
    moments = (
        f"SELECT {keys}epoch_us(event_timestamp) AS since, NULL::BIGINT AS learnt, {ROW} FROM __rows "
        f"WHERE {restatements.published} UNION ALL SELECT {keys}since, learnt, NULL FROM {EVENTS}"
    )
    newest = f"SELECT {ROW}, max(learnt) OVER ({window}) AS learnt FROM ({moments})"
    return f"SELECT * FROM ({newest}) WHERE {ROW} IS NOT NULL"
