"""Write rows to Delta tables so that a rerun changes nothing: raw events by MERGE, feature rows by interval.

Both writes are one Delta transaction: a kill leaves the old version or the new one. Both leave the version number alone
when the table already says the same, so a version in a model's contract means a change of data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import write_deltalake

from feature_repo.stores.delta import create_view, exists, open_table, quote, version_of
from validation.errors import Refusal

MONTH = "event_month"


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


def merge_events(path: Path, events: pa.Table, keys: list[str]) -> Written:
    """Insert new events and update restated ones, matched by natural key. `created_timestamp` alone is no change."""
    events = with_month(events)
    if not exists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_deltalake(str(path), events, partition_by=[MONTH])
        return Written(events.num_rows, events.num_rows, 0)
    table = open_table(path)
    if events.num_rows == 0:
        return Written(0, 0, table.version())
    payload = [name for name in events.column_names if name not in (*keys, "created_timestamp", MONTH)]
    restated = " OR ".join(f"(target.{quote(name)} IS DISTINCT FROM source.{quote(name)})" for name in payload)
    matched = " AND ".join(f"target.{quote(key)} = source.{quote(key)}" for key in keys)
    outcome = (
        table.merge(events, predicate=matched, source_alias="source", target_alias="target")
        .when_matched_update_all(predicate=restated)
        .when_not_matched_insert_all()
        .execute()
    )
    changed = outcome["num_target_rows_inserted"] + outcome["num_target_rows_updated"]
    return Written(events.num_rows, changed, version_of(path))


def replace_interval(con: duckdb.DuckDBPyConnection, path: Path, rows: pa.Table, holds: str) -> Written:
    """Make `rows` the table's content where `holds` (SQL over event_timestamp) is true, and nowhere else.

    Raises RowsOutside when `holds` is not true of a row, ColumnsChanged when the table has other columns, and then
    writes nothing.
    """
    rows = with_month(rows)
    con.register("__new", rows)
    if outside := _row_count(con, f"SELECT * FROM __new WHERE ({holds}) IS NOT TRUE"):
        raise RowsOutside(
            f"{outside} of {rows.num_rows} row(s) for {path} are not of the interval they are published for ({holds}). "
            "Filter them out in feature_repo/pipeline/transforms.py."
        )
    if not exists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_deltalake(str(path), rows, partition_by=[MONTH])
        return Written(rows.num_rows, rows.num_rows, 0)
    columns, version = create_view(con, "__published", path)
    if set(columns) != set(rows.column_names):
        raise ColumnsChanged(
            f"The rows for {path} have the columns {sorted(rows.column_names)}, the table has {sorted(columns)}. "
            "Delete the table's folder and publish every interval again: the raw events rebuild it."
        )
    names = ", ".join(map(quote, columns))
    published = f"SELECT {names} FROM __published WHERE {holds}"
    new = _row_count(con, f"SELECT {names} FROM __new EXCEPT ALL {published}")
    kept = rows.num_rows - new
    gone = _row_count(con, published) - kept
    changed = new + gone
    if changed:
        write_deltalake(str(path), rows, mode="overwrite", predicate=holds)
        version = version_of(path)
    return Written(rows.num_rows, changed, version)


def with_month(rows: pa.Table) -> pa.Table:
    """Add the partition column, the month of the event timestamp, as text: 2013-10."""
    months = pc.strftime(rows.column("event_timestamp"), format="%Y-%m")
    return rows.append_column(MONTH, months.cast(pa.string()))


def _row_count(con: duckdb.DuckDBPyConnection, query: str) -> int:
    # All of it: DuckDB 2.0 refuses other work on a connection while a result is not read to its end.
    ((count,),) = con.execute(f"SELECT count(*) FROM ({query})").fetchall()
    return int(count)
