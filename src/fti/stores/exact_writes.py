"""Rows on their way to an online store as their table has them: Arrow columns in, Feast's values out.

Feast 0.67 makes numpy arrays of columns first. Beside a null, whole numbers become floats there, in which 2**53 + 1 is
2**53; and of numbers of 32 bits it makes no `Float64`, though that holds each of them.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from feast import ValueType, utils
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values


def convert_exactly() -> None:
    """Let Feast convert rows by this module in this process: materialization, pushes and Spark's workers all do it by
    one function, and none has a hook of its own."""
    utils._columns_to_proto_values = _columns_to_proto_values


def _columns_to_proto_values(
    table: pa.RecordBatch, columns: list[tuple[str, ValueType]], allow_missing: bool = False
) -> dict[str, list[Value]]:
    """As Feast's function of that name."""
    if not allow_missing and (missing := [name for name, _ in columns if name not in table.column_names]):
        raise ValueError(f"Column {missing[0]} not found in table")
    return {
        name: python_values_to_proto_values(_values(table.column(name), kind), kind)
        for name, kind in columns
        if name in table.column_names
    }


def _values(column: pa.Array, kind: ValueType) -> Any:
    if pa.types.is_integer(column.type) and column.null_count:
        return column.to_pylist()
    narrow = pa.types.is_floating(column.type) or (pa.types.is_integer(column.type) and column.type.bit_width < 64)
    if kind == ValueType.DOUBLE and narrow and column.type != pa.float64():
        column = column.cast(pa.float64())
    return column.to_numpy(zero_copy_only=False)


def has_key(entity_key: EntityKey) -> bool:
    """Whether a row can be found: no request finds a null, and Feast's stores fail to write one."""
    return all(value.WhichOneof("val") for value in entity_key.entity_values)
