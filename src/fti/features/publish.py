"""Write rows to Delta tables so that a rerun changes nothing: raw events by MERGE, feature rows by interval.

Both writes are one Delta transaction: a kill leaves the old version or the new one. Both leave the version number alone
when the table already says the same, so a new version means that data changed, or what they were computed from.

A feature table's commits also say what its rows reflect: the version of each raw table they were computed from, and the
intervals that were published. With the change data feed of the raw tables that tells which rows late events touch.
And they say since when their rows differ from those before, so that the online store can be filled from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from upath import UPath

from fti.errors import Refusal
from fti.features import columns, removals
from fti.features.restatements import CREATED, Restatements, restamped
from fti.stores.delta import REBUILT, create_view, exists, literal, open_table, quote, version_of
from fti.stores.frames import as_frame
from fti.stores.upkeep import KEEP_LOG
from fti.times import union

MONTH = "event_month"
REFLECTS = "reflects"
CHANGED_FROM = "changed_from"
LEARNT, COMMIT = "learnt", "_commit_version"
CHANGE_FEED = {"delta.enableChangeDataFeed": "true"} | KEEP_LOG


class RowsOutside(Refusal):
    """Rows to publish lie outside the interval they are published for."""


class OtherWriter(Refusal):
    """Another process, maybe on another machine, wrote to a table while rows for it were made ready."""


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
        for commit in newest_commits(path):
            if text := commit.get(REFLECTS):
                said = json.loads(text)
                moments = [tuple(datetime.fromisoformat(moment) for moment in pair) for pair in said["intervals"]]
                return cls(said["raw"], [(start, end) for start, end in moments])
        return cls({})

    def and_also(self, raw: Mapping[str, str], start: datetime, end: datetime) -> Reflects:
        """This, computed anew from these states, and [start, end) too; intervals that meet become one."""
        return Reflects(raw, union([*self.intervals, (start, end)]))

    def as_metadata(self) -> dict[str, str]:
        intervals = [(start.isoformat(), end.isoformat()) for start, end in self.intervals]
        return {REFLECTS: json.dumps({"raw": dict(sorted(self.raw.items())), "intervals": intervals})}


def merge_events(path: UPath, events: pa.Table, keys: list[str], month_of: str | None = None) -> Written:
    """Insert new events and update restated ones, matched by natural key. `created_timestamp` alone is no change.

    An event on record as learnt late stays as it is when what comes now was learnt before it: an old delivery does not
    undo a newer one, unless that only confirmed what was there: confirmations leave no trace. `month_of` is a timestamp
    column that the key determines: the table is then partitioned by its month, and only the months of `events` are
    looked at, however long the history. A column that only `events` have is added to the table, null in the events that
    are there. Raises ColumnsChanged, OtherWriter.
    """
    events = with_month(events, month_of or "event_timestamp")
    if not exists(path):
        with alone(path):
            write_deltalake(str(path), events, partition_by=[MONTH], configuration=CHANGE_FEED)
        return Written(events.num_rows, events.num_rows, 0)
    table = open_table(path)
    fix = (
        "Give the source that column again, null where it says nothing; what a column means anew belongs into one of "
        f"another name. Or delete the table's folder and ingest every interval again: {REBUILT}."
    )
    with alone(path):
        columns.add_new(path, table, events, fix)
    if events.num_rows == 0:
        return Written(0, 0, table.version())
    payload = [name for name in events.column_names if name not in (*keys, "created_timestamp", MONTH)]
    differs = " OR ".join(f"(target.{quote(name)} IS DISTINCT FROM source.{quote(name)})" for name in payload)
    newer = "target.created_timestamp <= target.event_timestamp OR source.created_timestamp >= target.created_timestamp"
    matched = [f"target.{quote(key)} = source.{quote(key)}" for key in keys]
    if month_of:
        months = sorted(set(events.column(MONTH).to_pylist()))
        matched.append(f"target.{MONTH} IN ({', '.join(map(literal, months))})")
    merge = (
        table.merge(
            events,
            predicate=" AND ".join(matched),
            source_alias="source",
            target_alias="target",
            commit_properties=CommitProperties(max_commit_retries=0),
        )
        .when_matched_update_all(predicate=f"({differs}) AND ({newer})")
        .when_not_matched_insert_all()
    )
    with alone(path):
        outcome = merge.execute()
    changed = outcome["num_target_rows_inserted"] + outcome["num_target_rows_updated"]
    return Written(events.num_rows, changed, version_of(path))


def landed(con: duckdb.DuckDBPyConnection, path: UPath, start: datetime, end: datetime) -> pd.DataFrame:
    """The rows of a raw table with `start` <= event timestamp < `end`; none when there is no table yet."""
    if not exists(path):
        return pd.DataFrame()
    create_view(con, "__landed", path)
    moments = f"event_timestamp >= {literal(start.isoformat())} AND event_timestamp < {literal(end.isoformat())}"
    return as_frame(con.sql(f"SELECT * FROM __landed WHERE {moments}").to_arrow_table())


def id_of(path: UPath) -> str:
    """Which table this is: one that was deleted and rebuilt is another."""
    return str(open_table(path).metadata().id)


def state_of(path: UPath) -> str:
    """Which table this is, and at which version: one that was deleted and rebuilt counts from 0 again."""
    table = open_table(path)
    return f"{table.metadata().id}@{table.version()}"


def changes(path: UPath, after: str, names: Sequence[str], keys: Sequence[str]) -> pa.Table | None:
    """Return the distinct columns `names` of rows that came, went or changed after a state, of before and after it.

    `learnt` says when the change was learnt, also of what the row said before it. `keys` tell the rows apart. None when
    that cannot be told: it is another table now, or VACUUM has removed what it keeps of changes for a week.
    """
    table = open_table(path)
    known, _, version = after.rpartition("@")
    if known != str(table.metadata().id):
        return None
    change = [*keys, COMMIT]
    of_table = pa.schema(table.schema().to_arrow()).append(pa.field(COMMIT, pa.int64()))
    schema = pa.schema([of_table.field(name) for name in dict.fromkeys([*names, CREATED, *change])])
    first, last = int(version) + 1, table.version()
    if first > last:
        return schema.empty_table().select([*names, CREATED]).rename_columns([*names, LEARNT])
    try:
        feed = pa.table(table.load_cdf(starting_version=first, ending_version=last, columns=schema.names))
    except (DeltaError, OSError, pa.ArrowInvalid):
        return None
    feed = feed.select(schema.names).cast(schema)
    newest = feed.group_by(change).aggregate([(CREATED, "max")])
    feed = feed.join(newest, change).select([*names, f"{CREATED}_max"]).rename_columns([*names, LEARNT])
    return feed.group_by(feed.column_names).aggregate([])


def replace_interval(
    con: duckdb.DuckDBPyConnection,
    path: UPath,
    rows: pa.Table,
    holds: str,
    reflects: Reflects | None = None,
    restatements: Restatements | None = None,
) -> Written:
    """Make `rows` the table's content where `holds` (SQL over its columns) is true, and nowhere else.

    With `restatements`, rows that were published before are stamped as `restamped` says, and rows that go are listed
    for the online store (see removals). New rows are appended; where rows change or go, the months that hold them are
    written anew. Raises RowsOutside when `holds` is not true of a row,
    ColumnsChanged when the table has other columns, OtherWriter when somebody else writes at the same time, and then
    writes nothing.
    """
    rows = with_month(rows)
    con.register("__new", rows)
    if outside := _row_count(con, f"SELECT * FROM __new WHERE ({holds}) IS NOT TRUE"):
        raise RowsOutside(
            f"{outside} of {rows.num_rows} row(s) for {path} are not of the interval they are published for ({holds}). "
            "Filter them out in feature_repo/transforms.py."
        )
    said = reflects.as_metadata() if reflects else {}
    if not exists(path):
        _commit(path, None, rows, said, con.execute("SELECT min(event_timestamp) FROM __new").fetchall())
        return Written(rows.num_rows, rows.num_rows, 0)
    _, version = create_view(con, "__published", path)
    fix = "Delete the table's folder and publish every interval again: the raw events rebuild it."
    columns.require_same(path, open_table(path, version), rows, fix)
    names = ", ".join(map(quote, rows.column_names))
    published = f"SELECT {names} FROM __published WHERE {holds}"
    come = _come(con, rows, published)
    if come and restatements:
        rows = restamped(con, rows, published, restatements)
        come = _come(con, rows, published)
    gone = _row_count(con, published) - (rows.num_rows - come)
    if gone:
        if restatements:
            removals.record(con, path, restatements.row_keys, published, "SELECT * FROM __new")
        differ = f"({published} EXCEPT ALL SELECT {names} FROM __new) UNION ALL SELECT {names} FROM __come"
        found = con.execute(f"SELECT min(event_timestamp), {MONTH} FROM ({differ}) GROUP BY {MONTH}").fetchall()
        months = f"{MONTH} IN ({', '.join(literal(month) for _, month in found)})"
        kept = f"SELECT {names} FROM __published WHERE ({holds}) IS NOT TRUE AND {months}"
        content = con.sql(f"{kept} UNION ALL SELECT {names} FROM __new WHERE {months}").to_arrow_table()
        _commit(path, version, content.cast(rows.schema), said, found, mode="overwrite", predicate=months)
    elif come or (reflects and reflects != Reflects.of(path)):
        new = con.sql(f"SELECT {names} FROM __come").to_arrow_table().select(rows.column_names)
        found = con.execute("SELECT min(event_timestamp) FROM __come").fetchall()
        _commit(path, version, new.cast(rows.schema), said, found, mode="append")
    else:
        return Written(rows.num_rows, 0, version)
    return Written(rows.num_rows, come + gone, version_of(path))


def _come(con: duckdb.DuckDBPyConnection, rows: pa.Table, published: str) -> int:
    """Keep those of the rows as `__new` and, of them, those that are not published as `__come`; return how many."""
    names = ", ".join(map(quote, rows.column_names))
    con.register("__new", rows)
    con.execute(f"CREATE OR REPLACE TEMP TABLE __come AS SELECT {names} FROM __new EXCEPT ALL {published}")
    return _row_count(con, "SELECT * FROM __come")


def change_columns(con: duckdb.DuckDBPyConnection, path: UPath, schema: pa.Schema) -> None:
    """Give the table the columns of `schema`, in one transaction: its rows stay, null where they said nothing."""
    known, version = create_view(con, "__published", path)
    if set(known) == {*schema.names, MONTH}:
        return
    rows = con.sql("SELECT * FROM __published").to_arrow_table()
    cells = [
        rows.column(field.name).cast(field.type) if field.name in known else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    changed = with_month(pa.table(cells, schema=schema))
    _commit(path, version, changed, {}, [], mode="overwrite", schema_mode="overwrite")


def changed_since(path: UPath, moment: datetime) -> datetime | None:
    """The event timestamp of the earliest row that came, went or changed by commits at or after a moment of the clock.

    None when there is none; the earliest moment there is, when the log does not go back that far.
    """
    first, version = None, 0
    for commit in newest_commits(path):
        if datetime.fromtimestamp(commit["timestamp"] / 1000, UTC) < moment:
            return first
        version = commit["version"]
        if text := commit.get(CHANGED_FROM):
            changed = datetime.fromisoformat(text)
            first = min(first or changed, changed)
    return datetime.min.replace(tzinfo=UTC) if version else first


def newest_commits(path: UPath) -> Iterator[dict[str, Any]]:
    """What the commits of a table say, the newest first. Nearly always a few are asked for, of a history of many."""
    table, told, limit = open_table(path), 0, 1
    while True:
        commits = table.history(limit)
        yield from commits[told:]
        if len(commits) < limit:
            return
        told, limit = limit, limit * 8


def _commit(
    path: UPath,
    version: int | None,
    rows: pa.Table,
    said: dict[str, str],
    changed: Sequence[tuple[Any, ...]],
    **how: Any,
) -> None:
    """Write on top of this very version, or not at all: what came since was not compared with the rows.

    `changed` holds first of all event timestamps of what is different afterwards.
    """
    if moments := [found[0] for found in changed if found[0] is not None]:
        said = said | {CHANGED_FROM: min(moments).isoformat()}
    properties = CommitProperties(custom_metadata=said, max_commit_retries=0)
    table = str(path) if version is None else open_table(path, version)
    how |= {"configuration": KEEP_LOG} if version is None else {}
    with alone(path):
        write_deltalake(table, rows, partition_by=[MONTH], commit_properties=properties, **how)


@contextmanager
def alone(path: UPath) -> Iterator[None]:
    """Say whose fault it is when a version is taken. It fails at once: with retries delta-rs appends to the newest."""
    try:
        yield
    except CommitFailedError as error:
        raise OtherWriter(
            f"Another process wrote to {path} at the same time, so nothing was written ({error}). Processes of one "
            "machine wait for each other: let only one machine write, and run the same command again."
        ) from error


def with_month(rows: pa.Table, month_of: str = "event_timestamp") -> pa.Table:
    """Add the partition column, a timestamp column's month in UTC, as text: 2013-10, or `unknown` for a null."""
    months = pc.strftime(rows.column(month_of), format="%Y-%m").cast(pa.string())
    return rows.append_column(MONTH, pc.fill_null(months, "unknown"))


def _row_count(con: duckdb.DuckDBPyConnection, query: str) -> int:
    # All of it: DuckDB 2.0 refuses other work on a connection while a result is not read to its end.
    ((count,),) = con.execute(f"SELECT count(*) FROM ({query})").fetchall()
    return int(count)
