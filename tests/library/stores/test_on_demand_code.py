"""On-demand code on the rows of an offline store: what it is handed, and what is said when it fails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import OnDemandFeatureView, on_demand_feature_view
from feast.types import Float64, Int64

from fti.contract.on_demand import computed
from fti.stores.on_demand_code import OnDemandFailed

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SETTINGS = """
project: code
provider: local
registry: registry.db
offline_store: {type: fti.stores.asof_duckdb.AsofDuckDBOfflineStore}
online_store: {type: fti.stores.wal_sqlite.WalSqliteOnlineStore, path: online.db}
entity_key_serialization_version: 3
"""
PUMPS = [f"P{number}" for number in range(50)]


def in_python(wear: FeatureView, asked: RequestSource) -> OnDemandFeatureView:
    @on_demand_feature_view(sources=[wear, asked], schema=[Field(name="ratio", dtype=Float64)], mode="python")
    def ratio(inputs):
        rows = zip(inputs["turns"], inputs["litres"], strict=True)
        return {"ratio": [None if turns is None else turns / litres for turns, litres in rows]}

    return ratio


def in_pandas(wear: FeatureView, asked: RequestSource) -> OnDemandFeatureView:
    @on_demand_feature_view(sources=[wear, asked], schema=[Field(name="ratio", dtype=Float64)], mode="pandas")
    def ratio(inputs):
        import pandas as pd

        if (inputs["litres"] == 0).any():
            raise ZeroDivisionError("division by zero")
        return pd.DataFrame({"ratio": inputs["turns"].astype("float64") / inputs["litres"]})

    return ratio


def last_digits(wear: FeatureView, asked: RequestSource) -> OnDemandFeatureView:
    @on_demand_feature_view(sources=[wear, asked], schema=[Field(name="ratio", dtype=Float64)], mode="pandas")
    def ratio(inputs):
        import pandas as pd

        return pd.DataFrame({"ratio": [None if pd.isna(one) else float(int(one) % 1000) for one in inputs["turns"]]})

    return ratio


def store_of(folder: Path, make: Any, turns: list[int | None]) -> FeatureStore:
    (folder / "feature_store.yaml").write_text(SETTINGS)
    moments = pa.array([NOON] * len(turns), pa.timestamp("us", "UTC"))
    rows = {"pump": pa.array(PUMPS[: len(turns)]), "turns": pa.array(turns, pa.int64()), "event_timestamp": moments}
    write_deltalake(str(folder / "wear"), pa.table(rows))
    source = FileSource(path=str(folder / "wear"), file_format=DeltaFormat(), timestamp_field="event_timestamp")
    pump = Entity(name="pump", join_keys=["pump"], value_type=ValueType.STRING)
    wear = FeatureView(name="wear", entities=[pump], schema=[Field(name="turns", dtype=Int64)], source=source)
    asked = RequestSource(name="asked", schema=[Field(name="litres", dtype=Float64)])
    store = FeatureStore(repo_path=str(folder))
    store.apply([pump, wear, make(wear, asked)])
    return store


def ratios(store: FeatureStore, litres: list[float]) -> list[Any]:
    pumps = PUMPS[: len(litres)]
    rows = pd.DataFrame({"pump": pumps, "litres": litres, "event_timestamp": [NOON + timedelta(hours=1)] * len(litres)})
    return store.get_historical_features(rows, ["wear:turns", "ratio:ratio"]).to_df().ratio.tolist()


@pytest.mark.parametrize("make", [in_python, in_pandas])
def test_code_that_fails_names_its_function_and_the_first_row(tmp_path, make):
    """In one line, with the keys of the row, what the code reads of it, what it raised and what to do."""
    store = store_of(tmp_path, make, [*range(50)])
    assert ratios(store, [2.0] * 50) == [number / 2 for number in range(50)]
    litres = [0.0 if number in (37, 41) else 2.0 for number in range(50)]
    with pytest.raises(OnDemandFailed) as failed:
        ratios(store, litres)
    said = str(failed.value)
    assert "\n" not in said
    assert said.startswith("On-demand view 'ratio' (function 'ratio', ")
    assert "fails on the row pump='P37', event_timestamp=2024-05-01 13:00:00+00:00, of which it reads " in said
    assert "litres=0.0" in said
    assert "turns=37" in said
    assert "ZeroDivisionError" in said
    assert said.endswith("Let it return None for a row that has no value, `apply`, and run the same command again.")


def test_code_that_fails_on_no_row_alone_says_so(tmp_path):
    """A column of two types: each row would make one."""

    def mixed(wear: FeatureView, asked: RequestSource) -> OnDemandFeatureView:
        @on_demand_feature_view(sources=[wear, asked], schema=[Field(name="ratio", dtype=Float64)], mode="python")
        def ratio(inputs):
            return {"ratio": [1.5 if litres > 0.7 else "low" for litres in inputs["litres"]]}

        return ratio

    with pytest.raises(OnDemandFailed, match=r"fails on 2 rows together, though on none alone: ArrowInvalid"):
        ratios(store_of(tmp_path, mixed, [1, 2]), [2.0, 0.5])


def test_pandas_code_is_handed_whole_numbers_as_they_are(tmp_path):
    """Beside a null as alone, offline as online: a float has no place for 2**53 + 1."""
    turns = [2**53 + 1, None, 7]
    store = store_of(tmp_path, last_digits, turns)
    wanted = [float((2**53 + 1) % 1000), None, 7.0]
    assert [None if pd.isna(one) else one for one in ratios(store, [1.0] * 3)] == wanted
    view = store.get_on_demand_feature_view("ratio")
    together = computed(view, {"turns": turns, "litres": [1.0] * 3}, ["ratio"])["ratio"]
    alone = [computed(view, {"turns": [one], "litres": [1.0]}, ["ratio"])["ratio"][0] for one in turns]
    for found in (together, alone):
        assert [None if one is None or pd.isna(one) else one for one in found] == wanted
