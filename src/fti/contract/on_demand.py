"""Run the code of an on-demand view on columns of a request, and try at `plan` what it does with them.

Training runs the same code through Feast's offline store: on an Arrow table in pandas mode, on lists in Python mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fti.stores.on_demand_code import exact

if TYPE_CHECKING:
    from feast.on_demand_feature_view import OnDemandFeatureView

Columns = dict[str, list[Any]]
# A column's type in the table that Feast's offline store hands to pandas code.
ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "double": pa.float64(),
    "float": pa.float32(),
    "bool": pa.bool_(),
    "unix_timestamp": pa.timestamp("us", tz="UTC"),
}
# Values in no order of theirs: code that sorts its rows, or looks at the ones beside, gives itself away.
SAMPLES: dict[str, list[Any]] = {
    "string": ["b", "c", "a"],
    "int64": [2, 3, 1],
    "int32": [2, 3, 1],
    "double": [2.5, 3.25, 1.5],
    "float": [2.5, 3.25, 1.5],
    "bool": [True, False, True],
    "unix_timestamp": [datetime(2024, 5, day, 11, 30, tzinfo=UTC) for day in (2, 3, 1)],
}


class CodeFailed(RuntimeError):
    """On-demand code did not give one value a row for each of its features."""


def computed(view: OnDemandFeatureView, inputs: Columns, features: Sequence[str]) -> Columns:
    """Return `features` of a view for rows of `inputs`, one list each. Raises CodeFailed, and what the code raises."""
    rows = len(next(iter(inputs.values()), []))
    outputs: Any = _from_pandas_code(view, inputs) if view.mode == "pandas" else view.transform_dict(inputs)
    found = {name: _listed(outputs[name]) for name in features if name in outputs}
    for name in features:
        if name not in found:
            raise CodeFailed(f"On-demand view {view.name!r} returned no {name!r}, which its schema declares.")
        if len(found[name]) != rows:
            raise CodeFailed(
                f"On-demand view {view.name!r} returned {len(found[name])} value(s) of {name!r} for {rows} row(s); "
                "expected a list with one value a row."
            )
    return found


def _from_pandas_code(view: OnDemandFeatureView, inputs: Columns) -> Columns:
    types = input_types(view)
    table = pa.table({name: pa.array(values, ARROW[types[name]]) for name, values in inputs.items()})
    outputs: Columns = exact(view).transform_arrow(table).to_pydict()
    return outputs


def _listed(values: Any) -> list[Any]:
    """A column as a plain list; what is neither a list nor an array is no column."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [_plain(value) for value in values] if isinstance(values, list) else []


def _plain(value: Any) -> Any:
    """A value as Python has it, which JSON can say: code may hand out numpy's, one by one."""
    if isinstance(value, np.generic):
        return value.item()
    return None if value is pd.NA or value is pd.NaT else value


def stored_types(view: OnDemandFeatureView) -> dict[str, str]:
    """By stored feature that the code reads, the name of its type."""
    fields = [field for source in view.source_feature_view_projections.values() for field in source.features]
    return {field.name: field.dtype.to_value_type().name.lower() for field in fields}


def request_types(view: OnDemandFeatureView) -> dict[str, str]:
    """By request field that the code reads, the name of its type."""
    fields = [field for source in view.source_request_sources.values() for field in source.schema]
    return {field.name: field.dtype.to_value_type().name.lower() for field in fields}


def input_types(view: OnDemandFeatureView) -> dict[str, str]:
    return stored_types(view) | request_types(view)


# ---- what it does, tried --------------------------------------------------------------------------------------------


def trial(view: OnDemandFeatureView) -> str:
    """Say in a line why a view's code cannot mean the same in training and serving, as far as samples show; or ''.

    Tried are one value a row, missing stored features, and rows alone against the same rows together.
    """
    features, types = [field.name for field in view.features], input_types(view)
    known = {name: value for name, value in view._construct_random_input().items() if name in types}
    whole = {name: [*values, *values] for name, values in known.items()}
    without = {name: [*values, None if name in stored_types(view) else values[0]] for name, values in known.items()}

    def run(inputs: Columns) -> Columns:
        return computed(view, inputs, features)

    try:
        run(whole)
    except Exception as error:  # noqa: BLE001 - whatever a team's code raises
        return _why(view, error, "two rows")
    try:
        run(without)
    except Exception as error:  # noqa: BLE001 - whatever a team's code raises
        nulls = ", ".join(sorted(stored_types(view)))
        return _why(view, error, f"a row without {nulls}, as of a key that has no row (None, or NaN in pandas mode)")
    try:
        apart = _depends_on_others(run, {name: SAMPLES[kind] for name, kind in types.items()}) or (
            _depends_on_others(run, without)
        )
    except Exception:  # noqa: BLE001 - these values may be none that its code is for
        return ""
    return apart and (
        f"On-demand view {view.name!r} computes {apart!r} of a row from other rows, too (it differs when rows are "
        "computed alone and together), so training and serving would differ. Compute each row from its own inputs; "
        "what needs other rows is a stored feature."
    )


def _why(view: OnDemandFeatureView, error: Exception, what: str) -> str:
    said = str(error) if isinstance(error, CodeFailed) else f"its code failed ({type(error).__name__}: {error})"
    return (
        f"On-demand view {view.name!r}, run on {what}: {said.removesuffix('.')}. Let its code return, for each feature "
        "of its schema, one value a row, None where it has none."
    )


def _depends_on_others(run: Callable[[Columns], Columns], inputs: Columns) -> str:
    """The first feature of which rows computed together are not what each is alone; or ''."""
    together = run(inputs)
    rows = len(next(iter(together.values()), []))
    alone = [run({name: [values[row]] for name, values in inputs.items()}) for row in range(rows)]
    for name, values in together.items():
        if not all(_same(value, one[name][0]) for value, one in zip(values, alone, strict=True)):
            return name
    return ""


def _same(one: Any, other: Any) -> bool:
    if _missing(one) or _missing(other):
        return _missing(one) and _missing(other)
    return bool(math.isclose(one, other, rel_tol=1e-12) if isinstance(one, float) else one == other)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def failing(views: Sequence[OnDemandFeatureView]) -> Mapping[str, Exception]:
    """Run Feast's own sample of each view's code; what it raises, by view."""
    raised: dict[str, Exception] = {}
    for view in views:
        try:
            view.infer_features()
        except Exception as error:  # noqa: BLE001 - whatever a team's code raises
            raised[view.name] = error
    return raised
