"""Arrow tables as pandas frames that keep what each cell says: whole numbers and booleans stay so beside a null.

pandas' own types hold no null among them: an int64 column with one becomes float64, in which 2**53 + 1 is 2**53.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

NULLABLE: dict[pa.DataType, Any] = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}
# The same by the names that contracts have for types; text and moments are not among them.
COLUMN_TYPES: dict[str, Any] = {
    "int32": pd.Int32Dtype(),
    "int64": pd.Int64Dtype(),
    "bool": pd.BooleanDtype(),
    "float": "float32",
    "double": "float64",
}
# Of what `for_numpy` makes whole numbers that numpy would round.
DECIMAL = pa.decimal128(20, 0)
# From here on float64 does not hold each whole number.
ROUNDED = 2**53


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Return the table as a frame: whole numbers and booleans in pandas' nullable types, all else as Arrow makes it.

    A column has the same type whether or not it has a null.
    """
    return table.to_pandas(types_mapper=NULLABLE.get)


def for_numpy(table: pa.Table) -> pa.Table:
    """Return the table with decimals for whole numbers that numpy, which makes floats of them beside a null, rounds.

    Feast 0.67 hands rows to its online stores by way of numpy, and takes decimals for whole numbers.
    """
    for position, column in enumerate(table.schema):
        values = table.column(position)
        if pa.types.is_integer(column.type) and values.null_count and beyond_float(values):
            table = table.set_column(position, column.name, values.cast(DECIMAL))
    return table


def as_whole(table: pa.Table) -> pa.Table:
    """Return the table with whole numbers for the decimals of `for_numpy`."""
    for position, column in enumerate(table.schema):
        if column.type == DECIMAL:
            table = table.set_column(position, column.name, table.column(position).cast(pa.int64()))
    return table


def numpy_frame(table: pa.Table) -> pd.DataFrame:
    """Return the table as pandas makes it by itself, but for whole numbers that it would round beside a null.

    Code that was written for numpy's types gets them: only where those say another number a column is nullable.
    """
    frame = table.to_pandas()
    for name, values in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_integer(values.type) and values.null_count and beyond_float(values):
            frame[name] = values.to_pandas(types_mapper=NULLABLE.get)
    return frame


def beyond_float(values: pa.ChunkedArray) -> bool:
    """Whether a number among these may have been rounded, or would be, as a float64."""
    extremes = pc.min_max(values).as_py().values()
    return any(abs(extreme) >= ROUNDED for extreme in extremes if extreme is not None)
