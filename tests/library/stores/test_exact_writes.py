"""Rows that go online by each of Feast's ways hold the numbers of their table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import DeltaFormat
from feast.types import Bool, Float64, Int32, Int64, String

from tests.spark_conf import SPARK_CONF

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
ROUNDED = 2**53 + 1
SETTINGS = """
project: exact
provider: local
registry: registry.db
offline_store: {type: fti.stores.asof_duckdb.AsofDuckDBOfflineStore}
online_store: {type: fti.stores.wal_sqlite.WalSqliteOnlineStore, path: online.db}
entity_key_serialization_version: 3
materialization: {pull_latest_features: PULL, online_write_batch_size: 10000}
"""
TYPES = {"whole": Int64, "small": Int32, "open": Bool, "said": String, "single": Float64, "counted": Float64}
ROWS: dict[str, list[Any]] = {
    "key": [ROUNDED, ROUNDED - 1, None, 7],
    "whole": [ROUNDED, None, 1, -ROUNDED],
    "small": [None, 2**31 - 1, 1, -(2**31)],
    "open": [True, None, False, False],
    "said": ["", None, "x", "NA"],
    "single": [0.5, 0.0, 1.0, 2.0**-149],
    "counted": [0, 2, 3, -(2**31)],
}


def rows() -> pa.Table:
    kinds = {"small": pa.int32(), "single": pa.float32(), "counted": pa.int32(), "key": pa.int64()}
    columns = {name: pa.array(values, kinds.get(name)) for name, values in ROWS.items()}
    moments = pa.array([NOON] * 4, pa.timestamp("us", "UTC"))
    return pa.table(columns | {"event_timestamp": moments, "created_timestamp": moments})


def made(folder: Path, pull: str, on_spark: bool = False) -> FeatureStore:
    """A store with the table, which nothing is online of yet."""
    settings = SETTINGS.replace("PULL", pull)
    if on_spark:
        offline = {"type": "fti.stores.asof_spark.AsofSparkOfflineStore", "spark_conf": SPARK_CONF}
        engine = {"type": "fti.stores.spark_engine.SparkEngine"}
        settings = yaml.safe_dump(yaml.safe_load(settings) | {"offline_store": offline, "batch_engine": engine})
    (folder / "feature_store.yaml").write_text(settings)
    source = FileSource(
        name="numbers_source", path=str(folder / "numbers"), file_format=DeltaFormat(),
        timestamp_field="event_timestamp", created_timestamp_column="created_timestamp",
    )  # fmt: skip
    thing = Entity(name="thing", join_keys=["key"], value_type=ValueType.INT64)
    schema = [Field(name=name, dtype=dtype) for name, dtype in TYPES.items()]
    write_deltalake(str(folder / "numbers"), rows())
    store = FeatureStore(repo_path=str(folder))
    store.apply([thing, FeatureView(name="numbers", entities=[thing], schema=schema, source=source)])
    return store


def materialize(store: FeatureStore) -> None:
    store.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))


def write(store: FeatureStore) -> None:
    from fti.stores.frames import as_frame

    store.write_to_online_store("numbers", as_frame(rows()))


def convert(store: FeatureStore) -> None:
    """As Spark's workers do with each batch of rows."""
    from feast.utils import _convert_arrow_to_proto

    view, provider = store.get_feature_view("numbers"), store._get_provider()
    batch = _convert_arrow_to_proto(rows().to_batches()[0], view, {"key": ValueType.INT64})
    provider.online_store.online_write_batch(store.config, view, batch, None)


@pytest.mark.parametrize(("pull", "way"), [
    ("true", materialize), ("false", materialize), ("true", write), ("true", convert),
])  # fmt: skip
def test_numbers_beside_a_null_are_those_of_the_table(tmp_path, pull, way):
    """2**53 + 1 is no float, as a feature and as a key; a wider type holds numbers of 32 bits; a null key is no row."""
    store = made(tmp_path, pull)
    way(store)
    require_exact(store)


@pytest.mark.spark
@pytest.mark.parametrize("pull", ["true", "false"])
def test_spark_writes_the_numbers_of_the_table(tmp_path, pull):
    """Its workers convert the rows, each in a process of its own."""
    store = made(tmp_path, pull, on_spark=True)
    materialize(store)
    require_exact(store)


def require_exact(store: FeatureStore) -> None:
    """What is online is what the table has."""
    keys = [ROUNDED, ROUNDED - 1, 7]
    found = store.get_online_features(
        features=[f"numbers:{name}" for name in TYPES], entity_rows=[{"key": key} for key in keys]
    ).to_dict()
    expected = {name: [values[0], values[1], values[3]] for name, values in ROWS.items()}
    assert {name: [None if pd.isna(one) else one for one in values] for name, values in found.items()} == expected
