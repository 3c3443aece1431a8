"""Read one snapshot of a Delta table with DuckDB: a path and a version come in, a DuckDB view comes out.

DuckDB's own `delta` extension is downloaded at run time; delta-rs is a wheel. So delta-rs names the snapshot's files and
DuckDB reads them as Parquet. Globbing the directory instead would also return rows that later versions replaced.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

MEND = "Run `make pipeline` (or `python -m feature_repo.pipeline.run all`) to build it."


class TableMissing(FileNotFoundError):
    """There is no Delta table where one is expected."""


class TableCorrupt(RuntimeError):
    """A Delta table names a data file that is not there."""


def connect(threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB whose session reads and writes timestamps in UTC, whatever the machine's zone."""
    con = duckdb.connect(":memory:")
    con.execute("SET TimeZone='UTC'")
    con.execute("SET enable_progress_bar=false")
    if threads:
        con.execute(f"SET threads={int(threads)}")
    return con


def open_table(path: str | Path, version: int | None = None) -> DeltaTable:
    """Open a Delta table at a version (default: the newest). Raises TableMissing."""
    try:
        return DeltaTable(str(path), version=version)
    except TableNotFoundError as error:
        raise TableMissing(f"No Delta table at {path}. {MEND}") from error


def exists(path: str | Path) -> bool:
    return DeltaTable.is_deltatable(str(path))


def version_of(path: str | Path) -> int:
    """The newest version number of the table at `path`. Raises TableMissing."""
    return open_table(path).version()


def quote(name: str) -> str:
    """An SQL identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string literal, quoted."""
    return "'" + text.replace("'", "''") + "'"


def create_view(
    con: duckdb.DuckDBPyConnection, name: str, path: str | Path, version: int | None = None
) -> tuple[list[str], int]:
    """Make the snapshot visible in `con` as view `name`; returns its columns and its version number.

    Raises TableMissing when there is no table, TableCorrupt when a file of the snapshot is gone.
    """
    table = open_table(path, version)
    schema = pa.schema(table.schema().to_arrow())
    files = table.file_uris()
    columns = ", ".join(quote(column) for column in schema.names)
    if not files:
        con.register(f"__empty_{name}", schema.empty_table())
        con.execute(f"CREATE OR REPLACE VIEW {quote(name)} AS SELECT {columns} FROM {quote('__empty_' + name)}")
        return schema.names, table.version()
    missing = [file for file in files if "://" not in file and not Path(file).exists()]
    if missing:
        raise TableCorrupt(
            f"Delta table {path} version {table.version()} names {len(missing)} data file(s) that are gone, first {missing[0]}. "
            "Restore the file from a backup, or delete the table's folder and rebuild it: the raw data rebuilds every table."
        )
    listing = ", ".join(literal(file) for file in files)
    con.execute(
        f"CREATE OR REPLACE VIEW {quote(name)} AS SELECT {columns} FROM "
        f"read_parquet([{listing}], hive_partitioning=true, union_by_name=true)"
    )
    return schema.names, table.version()
