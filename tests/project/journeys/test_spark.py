"""The whole year on Spark: feature rows, training rows and the online store are those of DuckDB, cell for cell.

`make test-spark` runs it; `make test` does not: Spark is as large as all that it needs.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from deltalake import DeltaTable

from feature_repo.source import END, START
from feature_repo.transforms import FEATURE_TABLES, Interval
from fti.contract.feature_service import read_interface
from fti.features.publish import MONTH
from fti.times import utc
from tests.spark_conf import SPARK_CONF

pytestmark = pytest.mark.spark
AS_OF = datetime(2013, 10, 1, tzinfo=UTC)
SERVICE = "arrival_delay_v2"
RESTATING = "fti.stores.restating_redis.RestatingRedisOnlineStore"


@pytest.fixture(scope="module")
def spark(workspace) -> Any:
    from fti.stores.spark_session import open_session

    return open_session(SPARK_CONF)


@pytest.fixture(scope="module")
def on_spark(workspace, spark, valkey, tmp_path_factory) -> Any:
    """The workspace's definitions and tables, with Spark and Valkey in feature_store.yaml."""
    from feast import FeatureStore

    from fti.features.definitions import copy_definitions
    from fti.features.feast_steps import apply

    root = tmp_path_factory.mktemp("spark")
    (root / "data").mkdir()
    (root / "data" / "features").symlink_to(workspace.root / "data" / "features")
    copy_definitions(root / "feature_repo")
    path = root / "feature_repo" / "feature_store.yaml"
    settings = yaml.safe_load(path.read_text()) | {
        "offline_store": {"type": "fti.stores.asof_spark.AsofSparkOfflineStore", "spark_conf": SPARK_CONF},
        "batch_engine": {"type": "fti.stores.spark_engine.SparkEngine"},
        "online_store": {"type": RESTATING, "connection_string": valkey},
    }
    path.write_text(yaml.safe_dump(settings))
    apply(root / "feature_repo")
    return FeatureStore(repo_path=str(root / "feature_repo"))


@pytest.mark.parametrize("name", FEATURE_TABLES)
def test_each_transform_gives_the_same_cells(workspace, spark, name):
    """Every feature of every row of the year: those that DuckDB computed and the pipeline published."""
    import ibis

    from fti.stores.spark_tables import read_delta

    backend, interval, table = ibis.pyspark.connect(spark), Interval(utc(START), utc(END)), FEATURE_TABLES[name]
    sources = {}
    for source in table.reads:
        read_delta(spark, str(workspace.root / "data" / "raw" / source)).createOrReplaceTempView(source)
        sources[source] = backend.table(source).filter(lambda events: events.event_timestamp < interval.end)
    computed = backend.to_pyarrow(table.compute(sources, interval))
    published = DeltaTable(str(workspace.root / "data" / "features" / name)).to_pyarrow_table().drop_columns(MONTH)
    assert computed.num_rows > 0
    assert set(computed.column_names) == set(published.column_names)
    ours, theirs = (_ordered(rows, published.schema, table.keys) for rows in (computed, published))
    assert ours.equals(theirs)


def test_sums_of_fractions_are_the_same(spark):
    """Cents and millionths in a shuffled order: DuckDB's sums, to the last bit."""
    import ibis

    from tests.library.features.test_windows import CENTS, ONE_HOUR, ORDERS, PARTS, orders, publish

    backend = ibis.pyspark.connect(spark)
    for amounts in (CENTS, PARTS):
        rows = orders(amounts[::-1]).to_pandas().sample(frac=1, random_state=1)
        spark.createDataFrame(rows).createOrReplaceTempView("orders")
        ours = backend.to_pyarrow(ORDERS.compute({"orders": backend.table("orders")}, ONE_HOUR))
        wanted = publish(amounts)
        assert ours.select(wanted.column_names).cast(wanted.schema).equals(wanted)


def _ordered(rows: pa.Table, schema: pa.Schema, keys: tuple[str, ...]) -> pa.Table:
    rows = rows.select(schema.names).cast(schema)
    return rows.sort_by([(name, "ascending") for name in ("event_timestamp", *keys)]).combine_chunks()


def test_a_training_set_is_the_same(workspace, on_spark):
    """What a training run reads of two weeks, to the hash: flights and outcomes pulled, features joined, all pinned."""
    from feast import FeatureStore

    from fti.training.dataset import labelled_rows, pin_versions

    sets = []
    for store in (on_spark, FeatureStore(repo_path=str(workspace.repo))):
        interface = read_interface(store, SERVICE)
        pin_versions(store, interface)
        sets.append(labelled_rows(store, interface, AS_OF - timedelta(days=14), AS_OF))
    ours, theirs = sets
    assert len(ours) > 10_000
    pd.testing.assert_frame_equal(ours.frame, theirs.frame)
    assert ours.sha256 == theirs.sha256


def test_batch_scoring_is_handed_the_same_rows(workspace, on_spark):
    """The flights of a day that are due, and their features, as DuckDB finds them."""
    from feast import FeatureStore

    from fti.contract.spine import row_key_of, rows_due, with_features

    found = []
    for store in (on_spark, FeatureStore(repo_path=str(workspace.repo))):
        interface = read_interface(store, SERVICE)
        rows = rows_due(store, interface, AS_OF, AS_OF + timedelta(days=1))
        found.append(with_features(store, interface, rows, row_key_of(store, interface)).reset_index(drop=True))
    assert len(found[0]) > 500
    pd.testing.assert_frame_equal(*found)


def test_spark_fills_the_online_store(workspace, on_spark):
    """For each key the newest row, as pandas finds it in the table; a value and its age, for those without one, too."""
    on_spark.materialize(utc(START), AS_OF)
    for view in on_spark.list_feature_views():
        if not view.online:
            continue
        table = Path(workspace.root / "data" / "features" / view.name)
        rows = DeltaTable(str(table)).to_pandas().query("event_timestamp <= @AS_OF")
        keys = [column.name for column in view.entity_columns]
        newest = rows.dropna(subset=keys).sort_values("event_timestamp").groupby(keys, as_index=False).last()
        newest = rows.merge(newest[[*keys, "event_timestamp"]], on=[*keys, "event_timestamp"]).head(2000)
        assert len(newest) > 0, view.name
        names = [feature.name for feature in view.features]
        online = on_spark.get_online_features(
            [f"{view.name}:{name}" for name in names], newest[keys].to_dict("records")
        ).to_dict(include_event_timestamps=True)
        seconds = [int(moment.timestamp()) for moment in newest.event_timestamp]
        for name in names:
            assert _cells(online[name]) == _cells(newest[name]), (view.name, name)
            assert online[f"{name}__ts"] == seconds, (view.name, name)
        unknown = {key: "nobody" if isinstance(newest[key].iloc[0], str) else -1 for key in keys}
        answer = on_spark.get_online_features([f"{view.name}:{names[0]}"], [unknown]).to_dict()
        assert answer[names[0]] == [None]


def test_online_and_offline_agree(workspace, on_spark):
    """What is online is what a training set would have got at that moment, as far as it may be used then.

    Flights without an aircraft are left out: online, Feast takes no key that is null.
    """
    flights = _flights(workspace, AS_OF, AS_OF + timedelta(hours=12)).dropna().assign(event_timestamp=AS_OF)
    service = on_spark.get_feature_service(SERVICE)
    offline = on_spark.get_historical_features(flights, service).to_df()
    asked = flights.drop(columns="event_timestamp")
    online = on_spark.get_online_features(service, asked.to_dict("records")).to_dict(include_event_timestamps=True)
    for view in on_spark.list_feature_views():
        projection = next((found for found in service.feature_view_projections if found.name == view.name), None)
        for name in [feature.name for feature in projection.features] if projection else []:
            ages = [AS_OF.timestamp() - seconds for seconds in online[f"{name}__ts"]]
            fresh = [not view.ttl or age <= view.ttl.total_seconds() for age in ages]
            found = [value if good else None for value, good in zip(online[name], fresh, strict=True)]
            assert _cells(found) == _cells(offline[name]), name


def _flights(workspace, start: datetime, end: datetime) -> pd.DataFrame:
    """Entity rows: every flight that leaves in [start, end), at its prediction time."""
    schedule = DeltaTable(str(workspace.root / "data" / "features" / "flight_schedule")).to_pandas()
    leaves = schedule.scheduled_departure
    chosen = schedule[(leaves >= start) & (leaves < end)].sort_values("flight_id", ignore_index=True)
    hours = chosen.scheduled_departure.astype("datetime64[us, UTC]").astype("int64") // 3_600_000_000
    return chosen[
        "flight_id origin dest carrier flight_number tailnum scheduled_departure scheduled_arrival".split()
    ].assign(departure_hour=hours, event_timestamp=chosen.scheduled_departure - timedelta(hours=2))


def _cells(values: Any) -> list[Any]:
    return [None if pd.isna(value) else value for value in values]
