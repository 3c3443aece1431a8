"""Compare what feature views declare with the columns of their tables.

The online store holds a value as its field's declared type, training reads the table's column: a `Float32` over float64
would be served rounded, an `Int64` cut off. Types that hold every value of the column alike pass; of others that are
numbers, the values in the table decide.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from feast import FileSource
from feast.data_format import DeltaFormat

from fti.errors import Refusal
from fti.stores.asof import absolute
from fti.stores.delta import TableMissing, connect, create_parquet_view, create_view, exists, quote

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

TABLE = "__declared"
SQL = {"int32": "INTEGER", "int64": "BIGINT", "float": "FLOAT", "double": "DOUBLE"}
ARROW: dict[str, tuple[pa.DataType, ...]] = {
    "string": (pa.string(), pa.large_string(), pa.string_view()),
    "bool": (pa.bool_(),),
    "int32": (pa.int32(), pa.int16(), pa.int8(), pa.uint16(), pa.uint8()),
    "int64": (pa.int64(), pa.int32(), pa.int16(), pa.int8(), pa.uint32(), pa.uint16(), pa.uint8()),
    "float": (pa.float32(), pa.float16()),
    "double": (pa.float64(), pa.float32(), pa.float16(), pa.int32(), pa.int16(), pa.int8()),
}


class FieldMistyped(Refusal):
    """A field's declared type would change values of its column, or its column is missing."""


def require_fitting(store: FeatureStore, views: Collection[FeatureView]) -> None:
    """Raise FieldMistyped, a line a field, if declared types do not hold what is in the views' tables."""
    if lines := [line for view in views for line in misfits(store, view)]:
        raise FieldMistyped("\n".join(lines))


def require_fitting_rows(store: FeatureStore, rows: Mapping[str, pa.Table]) -> None:
    """Raise FieldMistyped, a line a field, if declared types do not hold what is to be written to views' tables.

    `rows` are by the path or address of the table.
    """
    lines, coming = [], {_place(path): table for path, table in rows.items()}
    for view in sorted(store.list_feature_views(), key=lambda view: str(view.name)):
        source = view.batch_source
        path = absolute(source, str(store.repo_path)) if isinstance(source, FileSource) else ""
        if (table := coming.get(_place(path))) is not None:
            con = connect()
            con.register(TABLE, table)
            lines += _misfits(con, view, path)
    if lines:
        raise FieldMistyped("\n".join(lines))


def _place(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)


def misfits(store: FeatureStore, view: FeatureView) -> list[str]:
    """Say of each field and join key that does not fit its column what was found; nothing if there is no table yet."""
    source = view.batch_source
    if not isinstance(source, FileSource):
        return []
    con, path = connect(), absolute(source, str(store.repo_path))
    try:
        if not isinstance(source.file_format, DeltaFormat):
            create_parquet_view(con, TABLE, path)
        elif exists(path):
            create_view(con, TABLE, path)
        else:
            return []
    except TableMissing:
        return []
    return _misfits(con, view, path)


def _misfits(con: duckdb.DuckDBPyConnection, view: FeatureView, path: str) -> list[str]:
    """As `misfits`, of the rows in TABLE, which are those of `path`."""
    source = view.batch_source
    assert isinstance(source, FileSource)
    columns = con.sql(f"SELECT * FROM {TABLE} LIMIT 0").to_arrow_table().schema
    column_of = {feature: column for column, feature in source.field_mapping.items()}
    lines = []
    for field in [*view.entity_columns, *view.features]:
        column, declared = column_of.get(field.name, field.name), field.dtype.to_value_type().name.lower()
        if column not in columns.names:
            if not field.name.startswith("__dummy"):
                lines.append(
                    f"Feature view {view.name!r} declares the field {field.name!r}, but its table {path} has no column "
                    f"{column!r}; it has {columns.names}. Publish it, or take it out of the view."
                )
        elif changed := _changed(con, column, columns.field(column).type, declared):
            lines.append(
                f"Feature view {view.name!r} declares {field.name!r} as {field.dtype}, but the column {column!r} of "
                f"{path} is {columns.field(column).type}{changed}: training would read other values than are served. "
                "Declare the type of the column, or cast it in feature_repo/transforms.py and publish every interval "
                "again."
            )
    return lines


def _changed(con: duckdb.DuckDBPyConnection, column: str, kind: pa.DataType, declared: str) -> str:
    """What the declared type changes in a column, in words; '' if nothing."""
    if declared == "unix_timestamp":
        return "" if pa.types.is_timestamp(kind) else ", which is no time"
    if declared not in ARROW or kind in ARROW[declared] or (declared == "string" and pa.types.is_dictionary(kind)):
        return ""
    if declared not in SQL or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return ", which is no such value"
    name = quote(column)
    back = "DOUBLE" if pa.types.is_floating(kind) else "HUGEINT"
    known = f"{name} IS NOT NULL" + (f" AND NOT isnan({name})" if pa.types.is_floating(kind) else "")
    differ = f"TRY_CAST(TRY_CAST({name} AS {SQL[declared]}) AS {back}) IS DISTINCT FROM {name}"
    ((count, example),) = con.execute(
        f"SELECT count(*), any_value({name}) FROM {TABLE} WHERE {known} AND {differ}"
    ).fetchall()
    return f" and {count} value(s) would change, such as {example}" if count else ""
