"""Read one snapshot of a Delta table, or Parquet files, with DuckDB: a path comes in, a DuckDB view comes out.

DuckDB's own `delta` extension is downloaded at run time; delta-rs is a wheel. So delta-rs names the snapshot's files
and DuckDB reads them as Parquet. Globbing the directory instead would also return rows that later versions replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from upath import UPath

from fti.errors import Refusal
from fti.stores.tables import address

if TYPE_CHECKING:
    import duckdb

MEND = "Run `make pipeline` (or `fti features`) to build it."
PARTITION, NO_VALUE = "partition.", "__HIVE_DEFAULT_PARTITION__"
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
    import duckdb  # not above: who only looks into a table's log does without it

    con = duckdb.connect(":memory:")
    con.execute("SET TimeZone='UTC'")
    con.execute("SET enable_progress_bar=false")
    if threads:
        con.execute(f"SET threads={int(threads)}")
    return con


def open_table(path: str | UPath, version: int | None = None) -> DeltaTable:
    """Open a Delta table at a version (default: the newest). Raises TableMissing, TableCorrupt, PathRefused."""
    try:
        return DeltaTable(address(path), version=version)
    except TableNotFoundError as error:
        raise TableMissing(f"No Delta table at {path}. {MEND}") from error
    except DeltaError as error:
        reason = str(error).partition("\n")[0]  # the rest is a backtrace
        raise TableCorrupt(f"The log of Delta table {path} cannot be read ({reason}): {REBUILD}.") from error


def exists(path: str | UPath) -> bool:
    return DeltaTable.is_deltatable(address(path))


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
    files = [file for file, _ in _files_of(table)]
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
    con.register("__schema", schema.empty_table())
    types = {column: kind for column, kind, *_ in con.execute("DESCRIBE SELECT * FROM __schema").fetchall()}
    con.unregister("__schema")
    con.execute(f"CREATE OR REPLACE VIEW {quote(name)} AS SELECT {columns} FROM ({_scan(_files_of(table), types)})")
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
    scan = f"({_scan(*_partitioned(con, Path(path), parquet_files(path)))})"
    columns = [
        f"{quote(column)}::TIMESTAMPTZ AS {quote(column)}" if kind.startswith("TIMESTAMP") else quote(column)
        for column, kind, *_ in con.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()
    ]
    con.execute(f"CREATE OR REPLACE VIEW {quote(name)} AS SELECT {', '.join(columns)} FROM {scan}")


def _files_of(table: DeltaTable) -> list[tuple[str, Mapping[str, Any]]]:
    """The files of a table at its version, and of each the values of its partition, as the table's log says."""
    actions = pa.table(table.get_add_actions(flatten=True))
    names = [name for name in actions.column_names if name.startswith(PARTITION)]
    values = actions.select(names).rename_columns([name.removeprefix(PARTITION) for name in names])
    folder = folder_of(table).rstrip("/")
    # Paths are quoted as in addresses, but an object store's own names are only shown: it is delta-rs that reads them.
    files = [f"{folder}/{unquote(path)}" for path in actions.column("path").to_pylist()]
    return list(zip(files, values.to_pylist() if names else [{}] * len(files), strict=True))


def _partitioned(
    con: duckdb.DuckDBPyConnection, path: Path, files: list[str]
) -> tuple[list[tuple[str, Mapping[str, Any]]], dict[str, str]]:
    """Parquet files and the values that the folders between `path` and each say, and the types of such columns."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for file in files:
        parts = [part.partition("=") for part in Path(file).relative_to(path).parts[:-1] if "=" in part]
        found.append((file, {name: None if value == NO_VALUE else unquote(value) for name, _, value in parts}))
    types = {}
    for name in dict.fromkeys(name for _, values in found for name in values):
        texts = [values[name] for _, values in found if values.get(name) is not None]
        types[name] = next((kind for kind in ("DATE", "TIMESTAMP", "BIGINT") if _all_cast(con, texts, kind)), "VARCHAR")
    return found, types


def _all_cast(con: duckdb.DuckDBPyConnection, texts: list[str], kind: str) -> bool:
    """Whether all texts say values of a type: DuckDB tells the types of partitions like this."""
    casts = "SELECT bool_and(TRY_CAST(text AS {}) IS NOT NULL) FROM (SELECT unnest(?) AS text)"
    return bool(texts) and bool(con.execute(casts.format(kind), [texts]).fetchall()[0][0])


def _scan(files: Sequence[tuple[str, Mapping[str, Any]]], types: Mapping[str, str]) -> str:
    """SQL that reads Parquet files as one table, with the values of their partitions; `types` has its columns' types.

    DuckDB's own reading of partitions is off: it takes any folder of a path that is named as `a=b` for one.
    """
    groups: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    for file, values in files:
        groups.setdefault(tuple(values.items()), []).append(file)
    # The first says the types: a column that was added later is in no older file, nor one of a partition in any.
    nothing = ", ".join(f"NULL::{kind} AS {quote(column)}" for column, kind in types.items())
    scans = [f"SELECT {nothing} WHERE false"] if types else []
    for partition, members in groups.items():
        paths = ", ".join(literal(re.sub(r"[*?\[]", r"[\g<0>]", member)) for member in members)
        rows = f"read_parquet([{paths}], hive_partitioning=false, union_by_name=true)"
        if not partition:
            scans.append(f"SELECT * FROM {rows}")
            continue
        names = ", ".join(literal(column) for column, _ in partition)
        cells = ", ".join(
            f"{'NULL' if value is None else literal(str(value))}::{types[column]} AS {quote(column)}"
            for column, value in partition
        )
        scans.append(f"SELECT COLUMNS(lambda c: c NOT IN ({names})), {cells} FROM {rows}")
    return " UNION ALL BY NAME ".join(scans)
