"""On-demand code of both modes, run on a request as Feast's offline store runs it on a training set."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import OnDemandFeatureView, on_demand_feature_view
from feast.types import Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

from fti.contract.on_demand import ARROW, CodeFailed, computed, input_types, trial
from fti.stores.on_demand_code import offline

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
TYPES = {"whole": Int64, "small": Int32, "exact": Float64, "rough": Float32, "said": String, "open": Bool}
ASKED = {"at": UnixTimestamp, "kilos": Int64}
ROWS: dict[str, list[Any]] = {
    "whole": [7, None, 9, None], "small": [1, 2, None, None], "exact": [0.1, None, 2.5, None],
    "rough": [0.5, 0.25, None, None], "said": ["a", None, "b", None], "open": [True, False, None, None],
    "at": [NOON, NOON, NOON.replace(hour=3), NOON], "kilos": [1, 2, 3, 4],
}  # fmt: skip
OUTPUTS = [Field(name="sum", dtype=Float64), Field(name="longer", dtype=Bool), Field(name="hours", dtype=Float64)]


def sources() -> list[Any]:
    pump = Entity(name="pump", join_keys=["pump"], value_type=ValueType.STRING)
    schema = [Field(name=name, dtype=dtype) for name, dtype in TYPES.items()]
    wear = FeatureView(name="wear", entities=[pump], schema=schema, source=FileSource(path="wear.parquet"))
    return [wear, RequestSource(name="asked", schema=[Field(name=name, dtype=dtype) for name, dtype in ASKED.items()])]


def in_pandas() -> OnDemandFeatureView:
    @on_demand_feature_view(sources=sources(), schema=OUTPUTS, mode="pandas")
    def code(inputs):
        import pandas as pd

        numbers = inputs[["whole", "small", "exact", "rough"]].fillna(0.0).sum(axis=1)
        return pd.DataFrame({
            "sum": numbers * inputs["exact"] / inputs["kilos"],
            "longer": inputs["said"].fillna("").str.len() > inputs["open"].eq(True).astype(int),
            "hours": inputs["at"].dt.hour + inputs["small"],
        })  # fmt: skip

    return code


def in_python() -> OnDemandFeatureView:
    @on_demand_feature_view(sources=sources(), schema=OUTPUTS, mode="python")
    def code(inputs):
        def rows():
            names = ["whole", "small", "exact", "rough", "said", "open", "at", "kilos"]
            return zip(*(inputs[name] for name in names), strict=True)

        def over(number, kilos):
            return None if number is None else number / kilos

        return {
            "sum": [over(exact, kilos) for _, _, exact, _, _, _, _, kilos in rows()],
            "longer": [len(said or "") > int(is_open or 0) for _, _, _, _, said, is_open, _, _ in rows()],
            "hours": [None if small is None else float(at.hour + small) for _, small, _, _, _, _, at, _ in rows()],
        }

    return code


def broken(change: Any) -> OnDemandFeatureView:
    """Python code whose outputs are changed before it returns them, when there are several rows."""
    view = in_python()
    whole = view.feature_transformation.udf  # type: ignore[union-attr]
    view.feature_transformation.udf = lambda inputs: change(whole(inputs))  # type: ignore[union-attr]
    return view


@pytest.mark.parametrize("make", [in_pandas, in_python])
def test_code_gives_a_request_what_it_gives_a_training_set(make):
    """Every type, with and without nulls, in whatever company: pandas holds a null among whole numbers otherwise."""
    view, names = make(), [field.name for field in OUTPUTS]
    types = input_types(view)
    table = pa.table({name: pa.array(values, ARROW[types[name]]) for name, values in ROWS.items()})
    trained = offline(view, []).transform_arrow(table).select(names).to_pandas().astype("float64")
    together = computed(view, ROWS, names)
    alone = [computed(view, {name: [values[row]] for name, values in ROWS.items()}, names) for row in range(4)]
    pd.testing.assert_frame_equal(pd.DataFrame(together).astype("float64"), trained, check_exact=True)
    rows = pd.DataFrame([{name: column[0] for name, column in one.items()} for one in alone]).astype("float64")
    pd.testing.assert_frame_equal(rows, trained, check_exact=True)
    assert trained.isna().any().any()
    assert trial(view) == ""


@pytest.mark.parametrize(("change", "said"), [
    (lambda outputs: {"sum": outputs["sum"], "hours": outputs["hours"]}, "returned no 'longer'"),
    (lambda outputs: outputs | {"hours": outputs["hours"][:1]}, "returned 1 value.s. of 'hours' for 4 row.s."),
    (lambda outputs: outputs | {"hours": 3.5}, "returned 0 value.s. of 'hours' for 4 row.s.; expected a list"),
])  # fmt: skip
def test_outputs_that_are_missing_or_of_another_length_are_named(change, said):
    """Which view, which feature, and what it should be; not an error of a library, nor another row's value."""
    with pytest.raises(CodeFailed, match=rf"On-demand view 'code' {said}"):
        computed(broken(change), ROWS, [field.name for field in OUTPUTS])
