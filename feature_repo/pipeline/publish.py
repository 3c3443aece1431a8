"""Write rows to Delta tables so that a rerun changes nothing: raw events by MERGE, feature rows by interval.

Both writes are one Delta transaction: a kill leaves the old version or the new one. Both leave the version number alone
when the table already says the same, so a new version means that data changed, or what they were computed from.

A feature table's commits also say what its rows reflect: the version of each raw table they were computed from, and the
intervals that were published. With the change data feed of the raw tables that tells which rows late events touch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, write_deltalake
from deltalake.exceptions import DeltaError
from upath import UPath

from feature_repo.stores.delta import create_view, exists, literal, open_table, quote, version_of
from validation.errors import Refusal
from validation.times import union

MONTH = "event_month"
REFLECTS = "reflects"
CHANGE_FEED = {"delta.enableChangeDataFeed": "true"}


class RowsOutside(Refusal):
    """Rows to publish lie outside the interval they are published for."""


class ColumnsChanged(Refusal):
    """Rows to publish have other columns than the table that is there."""


@dataclass(frozen=True)
class Written:
    """What a write did: rows handed in, rows the table gained or changed, and its version afterwards."""

    rows: int
    changed: int
    version: int


@dataclass(frozen=True)
class Reflects:
    """What a feature table's rows were made of: `raw` tables in these states, over these half-open `intervals`."""

    raw: Mapping[str, str]
    intervals: Sequence[tuple[datetime, datetime]] = ()

    @classmethod
    def of(cls, path: UPath) -> Reflects:
        """What the table's newest commit that says so says; nothing, when there is none."""
        if not exists(path):
            return cls({})
        for limit in (1, None):  # nearly always the newest commit says so, and the history may be long
            for commit in open_table(path).history(limit):
                if text := commit.get(REFLECTS):
                    said = json.loads(text)
                    moments = [tuple(datetime.fromisoformat(moment) for moment in pair) for pair in said["intervals"]]
                    return cls(said["raw"], [(start, end) for start, end in moments])
        return cls({})

    def and_also(self, raw: Mapping[str, str], start: datetime, end: datetime) -> Reflects:
        """This, computed anew from these states, and [start, end) too; intervals that meet become one."""
        return Reflects(raw, union([*self.intervals, (start, end)]))

    def as_commit(self) -> CommitProperties:
        intervals = [(start.isoformat(), end.isoformat()) for start, end in self.intervals]
        return CommitProperties(
            custom_metadata={REFLECTS: json.dumps({"raw": dict(sorted(self.raw.items())), "intervals": intervals})}
        )


def merge_events(path: UPath, events: pa.Table, keys: list[str], month_of: str | None = None) -> Written:
    """Insert new events and update restated ones, matched by natural key. `created_timestamp` alone is no change.

    An event on record as learnt late stays as it is when what comes now was learnt before it: an old delivery does not
    undo a newer one, unless that only confirmed what was there: confirmations leave no trace. `month_of` is a timestamp
    column that the key determines: the table is then partitioned by its month, and only the months of `events` are
    looked at, however long the history. Raises ColumnsChanged.
    """
    events = with_month(events, month_of or "event_timestamp")
    if not exists(path):
        write_deltalake(str(path), events, partition_by=[MONTH], configuration=CHANGE_FEED)
        return Written(events.num_rows, events.num_rows, 0)
    table = open_table(path)
    _require_same_columns(path, pa.schema(table.schema().to_arrow()).names, events)
    if events.num_rows == 0:
        return Written(0, 0, table.version())
    payload = [name for name in events.column_names if name not in (*keys, "created_timestamp", MONTH)]
    differs = " OR ".join(f"(target.{quote(name)} IS DISTINCT FROM source.{quote(name)})" for name in payload)
    newer = "target.created_timestamp <= target.event_timestamp OR source.created_timestamp >= target.created_timestamp"
    matched = [f"target.{quote(key)} = source.{quote(key)}" for key in keys]
    if month_of:
        months = sorted(set(events.column(MONTH).to_pylist()))
        matched.append(f"target.{MONTH} IN ({', '.join(map(literal, months))})")
    outcome = (
        table.merge(events, predicate=" AND ".join(matched), source_alias="source", target_alias="target")
        .when_matched_update_all(predicate=f"({differs}) AND ({newer})")
        .when_not_matched_insert_all()
        .execute()
    )
    changed = outcome["num_target_rows_inserted"] + outcome["num_target_rows_updated"]
    return Written(events.num_rows, changed, version_of(path))


def landed(con: duckdb.DuckDBPyConnection, path: UPath, start: datetime, end: datetime) -> pd.DataFrame:
    """The rows of a raw table with `start` <= event timestamp < `end`; none when there is no table yet."""
    if not exists(path):
        return pd.DataFrame()
    create_view(con, "__landed", path)
    moments = f"event_timestamp >= {literal(start.isoformat())} AND event_timestamp < {literal(end.isoformat())}"
    return con.sql(f"SELECT * FROM __landed WHERE {moments}").to_arrow_table().to_pandas()


def state_of(path: UPath) -> str:
    """Which table this is, and at which version: one that was deleted and rebuilt counts from 0 again."""
    table = open_table(path)
    return f"{table.metadata().id}@{table.version()}"


def changes(path: UPath, after: str, columns: Sequence[str]) -> pa.Table | None:
    """The distinct `columns` of rows that came, went or changed after a state, before and after the change.

    None when that cannot be told: it is another table now, or VACUUM has removed what it keeps of changes for a week.
    """
    table = open_table(path)
    known, _, version = after.rpartition("@")
    if known != str(table.metadata().id):
        return None
    schema = pa.schema([pa.schema(table.schema().to_arrow()).field(name) for name in columns])
    first, last = int(version) + 1, table.version()
    if first > last:
        return schema.empty_table()
    try:
        feed = pa.table(table.load_cdf(starting_version=first, ending_version=last, columns=[*columns]))
    except (DeltaError, OSError, pa.ArrowInvalid):
        return None
    return feed.select(columns).cast(schema).group_by(columns).aggregate([])


def replace_interval(
    con: duckdb.DuckDBPyConnection, path: UPath, rows: pa.Table, holds: str, reflects: Reflects | None = None
) -> Written:
    """Make `rows` the table's content where `holds` (SQL over its columns) is true, and nowhere else.

    New rows are appended; where rows change or go, the months that hold them are written anew. Raises RowsOutside when
    `holds` is not true of a row, ColumnsChanged when the table has other columns, and then writes nothing.
    """
    rows = with_month(rows)
    con.register("__new", rows)
    if outside := _row_count(con, f"SELECT * FROM __new WHERE ({holds}) IS NOT TRUE"):
        raise RowsOutside(
            f"{outside} of {rows.num_rows} row(s) for {path} are not of the interval they are published for ({holds}). "
            "Filter them out in feature_repo/pipeline/transforms.py."
        )
    commit = reflects.as_commit() if reflects else None
    if not exists(path):
        write_deltalake(str(path), rows, partition_by=[MONTH], commit_properties=commit)
        return Written(rows.num_rows, rows.num_rows, 0)
    columns, version = create_view(con, "__published", path)
    _require_same_columns(path, columns, rows)
    names = ", ".join(map(quote, columns))
    published = f"SELECT {names} FROM __published WHERE {holds}"
    con.execute(f"CREATE OR REPLACE TEMP TABLE __come AS SELECT {names} FROM __new EXCEPT ALL {published}")
    come = _row_count(con, "SELECT * FROM __come")
    gone = _row_count(con, published) - (rows.num_rows - come)
    if gone:
        leaving = f"SELECT {MONTH} FROM ({published} EXCEPT ALL SELECT {names} FROM __new)"
        found = con.execute(f"SELECT DISTINCT {MONTH} FROM ({leaving} UNION ALL SELECT {MONTH} FROM __come)").fetchall()
        months = f"{MONTH} IN ({', '.join(literal(month) for (month,) in found)})"
        kept = f"SELECT {names} FROM __published WHERE ({holds}) IS NOT TRUE AND {months}"
        content = con.sql(f"{kept} UNION ALL SELECT {names} FROM __new WHERE {months}").to_arrow_table()
        write_deltalake(
            str(path), content.cast(rows.schema), mode="overwrite", predicate=months, commit_properties=commit
        )
    elif come or (reflects and reflects != Reflects.of(path)):
        new = con.sql(f"SELECT {names} FROM __come").to_arrow_table().select(rows.column_names)
        write_deltalake(str(path), new.cast(rows.schema), mode="append", commit_properties=commit)
    else:
        return Written(rows.num_rows, 0, version)
    return Written(rows.num_rows, come + gone, version_of(path))


def with_month(rows: pa.Table, month_of: str = "event_timestamp") -> pa.Table:
    """Add the partition column, a timestamp column's month in UTC, as text: 2013-10, or `unknown` for a null."""
    months = pc.strftime(rows.column(month_of), format="%Y-%m").cast(pa.string())
    return rows.append_column(MONTH, pc.fill_null(months, "unknown"))


def _require_same_columns(path: UPath, columns: Sequence[str], rows: pa.Table) -> None:
    if set(columns) != set(rows.column_names):
        raise ColumnsChanged(
            f"The rows for {path} have the columns {sorted(rows.column_names)}, the table has {sorted(columns)}. "
            "Delete the table's folder and publish every interval again: the raw events rebuild it."
        )


def _row_count(con: duckdb.DuckDBPyConnection, query: str) -> int:
    # All of it: DuckDB 2.0 refuses other work on a connection while a result is not read to its end.
    ((count,),) = con.execute(f"SELECT count(*) FROM ({query})").fetchall()
    return int(count)
