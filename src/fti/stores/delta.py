"""Read one snapshot of a Delta table, or Parquet files, with DuckDB: a path comes in, a DuckDB view comes out.

DuckDB's own `delta` extension is downloaded at run time; delta-rs is a wheel. So delta-rs names the snapshot's files
and DuckDB reads them as Parquet. Globbing the directory instead would also return rows that later versions replaced.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from upath import UPath

from fti.errors import Refusal

MEND = "Run `make pipeline` (or `python -m fti.features.run all`) to build it."
# A correction that was released is in no raw file, nor is when an event was learnt that came late.
REBUILT = (
    "the raw files rebuild every table, but a raw one loses released corrections (those rows are held again) and when "
    "late events were learnt"
)
REBUILD = f"restore it from a backup, or delete the table's folder and rebuild it: {REBUILT}"


class TableMissing(Refusal):
    """There is no table where one is expected."""


class TableCorrupt(Refusal):
    """A Delta table's log cannot be read, or names a data file that is not there."""


def connect(threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB whose session reads and writes timestamps in UTC, whatever the machine's zone."""
    con = duckdb.connect(":memory:")
    con.execute("SET TimeZone='UTC'")
    con.execute("SET enable_progress_bar=false")
    if threads:
        con.execute(f"SET threads={int(threads)}")
    return con


def open_table(path: str | UPath, version: int | None = None) -> DeltaTable:
    """Open a Delta table at a version (default: the newest). Raises TableMissing, TableCorrupt."""
    try:
        return DeltaTable(str(path), version=version)
    except TableNotFoundError as error:
        raise TableMissing(f"No Delta table at {path}. {MEND}") from error
    except DeltaError as error:
        reason = str(error).partition("\n")[0]  # the rest is a backtrace
        raise TableCorrupt(f"The log of Delta table {path} cannot be read ({reason}): {REBUILD}.") from error


def exists(path: str | UPath) -> bool:
    return DeltaTable.is_deltatable(str(path))


def version_of(path: str | UPath) -> int:
    """The newest version number of the table at `path`. Raises TableMissing."""
    return open_table(path).version()


def quote(name: str) -> str:
    """An SQL identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string literal, quoted."""
    return "'" + text.replace("'", "''") + "'"


def snapshot(path: str | UPath, version: int | None = None) -> tuple[DeltaTable, list[str]]:
    """A Delta table at a version (default: the newest), and the files that its rows are in.

    Raises TableMissing when there is no table, TableCorrupt when its log is no log or a file of the snapshot is gone.
    """
    table = open_table(path, version)
    # delta-rs quotes the table's own path as in an address, also of files here: a folder may have a space in its name.
    # What comes after it is as on the disk, where partitions' names have escapes of their own.
    quoted = table.table_uri.removeprefix("file://")
    files = [uri if "://" in uri else folder_of(table) + uri.removeprefix(quoted) for uri in table.file_uris()]
    missing = [file for file in files if "://" not in file and not Path(file).exists()]
    if missing:
        raise TableCorrupt(
            f"Delta table {path} version {table.version()} names {len(missing)} data file(s) that are gone, "
            f"first {missing[0]}: {REBUILD}."
        )
    return table, files


def folder_of(table: DeltaTable) -> str:
    """Where a table lies, links followed: a path of this machine as it is on the disk, or an object store's address."""
    address = table.table_uri
    return unquote(address.removeprefix("file://")) if address.startswith("file://") else address


def create_view(
    con: duckdb.DuckDBPyConnection, name: str, path: str | UPath, version: int | None = None
) -> tuple[list[str], int]:
    """Make a `snapshot` visible in `con` as view `name`; returns its columns and its version number."""
    table, files = snapshot(path, version)
    schema = pa.schema(table.schema().to_arrow())
    columns = ", ".join(quote(column) for column in schema.names)
    if not files or "://" in files[0]:  # of an object store delta-rs reads: DuckDB's `httpfs` is downloaded, too
        con.register(f"__rows_of_{name}", table.to_pyarrow_dataset() if files else schema.empty_table())
        con.execute(f"CREATE OR REPLACE VIEW {quote(name)} AS SELECT {columns} FROM {quote('__rows_of_' + name)}")
        return schema.names, table.version()
    con.execute(f"CREATE OR REPLACE VIEW {quote(name)} AS SELECT {columns} FROM {_scan(files)}")
    return schema.names, table.version()


def parquet_files(path: str | Path) -> list[str]:
    """A Parquet file, or all of a folder. Raises TableMissing."""
    files = sorted(Path(path).rglob("*.parquet")) if Path(path).is_dir() else [Path(path)]
    if not files or not files[0].exists():
        raise TableMissing(f"No Parquet file at {path}. {MEND}")
    return [str(file) for file in files]


def create_parquet_view(con: duckdb.DuckDBPyConnection, name: str, path: str | Path) -> None:
    """Make a Parquet file, or all of a folder, visible in `con` as view `name`. Raises TableMissing.

    Timestamps become UTC microseconds: DuckDB does not compare those with nanoseconds, which pandas writes.
    """
    scan = _scan(parquet_files(path))
    columns = [
        f"{quote(column)}::TIMESTAMPTZ AS {quote(column)}" if kind.startswith("TIMESTAMP") else quote(column)
        for column, kind, *_ in con.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()
    ]
    con.execute(f"CREATE OR REPLACE VIEW {quote(name)} AS SELECT {', '.join(columns)} FROM {scan}")


def _scan(files: list[str]) -> str:
    """SQL that reads these Parquet files as one table."""
    return f"read_parquet([{', '.join(map(literal, files))}], hive_partitioning=true, union_by_name=true)"
