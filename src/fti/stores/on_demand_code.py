"""On-demand code as an offline store runs it on many rows: a view of the registry in; a copy with other manners out.

Each column that it reads comes as an online request's would: it is neither rounded nor NaN where the other is null. And
a row on which it fails is named.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from feast.types import UnixTimestamp
from feast.value_type import ValueType

from fti.errors import Refusal, short
from fti.stores.frames import numpy_frame
from fti.stores.online_request import typed

if TYPE_CHECKING:
    from feast.on_demand_feature_view import OnDemandFeatureView

UTC = pa.timestamp("us", tz="UTC")


class OnDemandFailed(Refusal):
    """The code of an on-demand view fails on a row of the offline store."""


def offline(view: OnDemandFeatureView, named_by: Sequence[str]) -> OnDemandFeatureView:
    """A copy of the view whose code is handed the columns it declares and no others, and says on which row it fails.

    Feast 0.67 turns every column of the whole result into Python objects, once a view: most of the time of a retrieval.
    `named_by` are the columns that tell rows apart. Running it raises OnDemandFailed.
    """
    narrow = exact(view)
    asked = [field for source in view.source_request_sources.values() for field in source.schema]
    declared, times = [field.name for field in asked], [field.name for field in asked if field.dtype == UnixTimestamp]
    for projection in view.source_feature_view_projections.values():
        for feature in projection.features:
            declared += [feature.name, f"{projection.name_to_use()}__{feature.name}"]

    def transform_arrow(table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        def run(rows: pa.Table) -> pa.Table:
            found = type(view).transform_arrow(narrow, rows, full_feature_names)
            if found.num_rows != rows.num_rows:
                raise ValueError(f"it returns {found.num_rows} value(s) for {rows.num_rows} row(s)")
            return found

        inputs = table.select([name for name in dict.fromkeys(declared) if name in table.column_names])
        for name in times:
            inputs = _with_times(inputs, name)
        try:
            return run(inputs)
        except Exception as error:  # noqa: BLE001 - whatever a team's code raises
            place, first = _first_failing(run, inputs) or (None, error)
            named = table.select([name for name in named_by if name in table.column_names])
            raise OnDemandFailed(_why(view, first, place, named, inputs)) from first

    narrow.transform_arrow = transform_arrow  # type: ignore[method-assign,assignment]
    if view.mode == "python":
        narrow.feature_transformation = _by_column(view.feature_transformation)
    return narrow


def _with_times(table: pa.Table, name: str) -> pa.Table:
    """The table with times in a request field that is declared as such: as online, it may be text or seconds.

    Raises RequestUnusable.
    """
    position = table.schema.get_field_index(name)
    if position < 0 or pa.types.is_timestamp(table.schema.field(position).type):
        return table
    values = [
        None if value is None else typed(name, ValueType.UNIX_TIMESTAMP, row, value)
        for row, value in enumerate(table.column(position).to_pylist())
    ]
    return table.set_column(position, name, pa.array(values, UTC))


def exact(view: OnDemandFeatureView) -> OnDemandFeatureView:
    """A copy of the view whose pandas code is handed whole numbers that a float64 does not hold as such."""
    same = copy.copy(view)
    if view.mode == "pandas":
        code: Any = copy.copy(view.feature_transformation)
        code.transform_arrow = lambda table, features: pa.Table.from_pandas(code.udf(numpy_frame(table)))
        same.feature_transformation = code
    return same


def _by_column(code: Any) -> Any:
    """A copy that hands its code the same lists, made faster: pyarrow's `to_pydict` converts timestamps one by one.

    And None for NaN, as online: an online store holds no NaN.
    """
    fast = copy.copy(code)

    def transform_arrow(pa_table: pa.Table, features: list[Any]) -> pa.Table:
        inputs = {
            name: column.to_pandas(timestamp_as_object=True).tolist()
            if column.type == UTC
            else _without_nan(column).to_pylist()
            for name, column in zip(pa_table.column_names, pa_table.columns, strict=True)
        }
        return pa.Table.from_pydict(code.udf(inputs))

    fast.transform_arrow = transform_arrow
    return fast


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(column.type) or not pc.any(pc.is_nan(column)).as_py():
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


# ---- where it fails -------------------------------------------------------------------------------------------------


def _first_failing(run: Callable[[pa.Table], Any], rows: pa.Table) -> tuple[int, Exception] | None:
    """The place of the first row on which the code fails, and how; None if it fails on several rows together only."""
    start, length = 0, rows.num_rows
    while length:
        half = max(1, length // 2)
        failed = _failure(run, rows.slice(start, half))
        if failed is None:
            start, length = start + half, length - half
        elif half == 1:
            return start, failed
        else:
            length = half
    return None


def _failure(run: Callable[[pa.Table], Any], rows: pa.Table) -> Exception | None:
    try:
        run(rows)
    except Exception as error:  # noqa: BLE001 - whatever a team's code raises
        return error
    return None


def _why(view: OnDemandFeatureView, error: Exception, place: int | None, named: pa.Table, inputs: pa.Table) -> str:
    code: Any = view.feature_transformation
    function = code.udf.__code__
    where = f"function {code.udf.__name__!r}, {function.co_filename}, line {function.co_firstlineno}"
    if place is None:
        on = f"on {inputs.num_rows:,} rows together, though on none alone"
    else:
        on = f"on the row {_cells(named, place)}, of which it reads {_cells(inputs, place)}"
    return (
        f"On-demand view {view.name!r} ({where}) fails {on}: {type(error).__name__}: {short(error, 200)}. "
        "Let it return None for a row that has no value, `apply`, and run the same command again."
    )


def _cells(rows: pa.Table, place: int) -> str:
    (row,) = rows.slice(place, 1).to_pylist()
    texts = {name: str(value) if isinstance(value, datetime) else repr(value) for name, value in row.items()}
    return ", ".join(f"{name}={short(text)}" for name, text in texts.items())
