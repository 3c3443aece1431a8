"""A Feast offline store over Delta Lake on Spark: the answers of `asof_duckdb`, for more rows than one machine holds.

Stock Feast's Spark store joins every entity row with every earlier feature row of its key; `spark_join` says how this
one does without. The data sources are the files that the DuckDB store reads.

Written for Feast 0.67 and Spark 4.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from fti.stores.guarded import GuardingConfig
from fti.stores.spark_session import open_session  # first, to say how to mend it when there is no Spark

# isort: split
import numpy as np
import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.spark_offline_store.spark import SparkRetrievalJob
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.type_map import spark_schema_to_np_dtypes
from pydantic import Field
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812

from fti.stores.asof import AsofRetrievalJob, ViewPlan, in_microseconds, naming, with_whole_keys
from fti.stores.spark_join import Extent, entity_keys, join_views, known_rows
from fti.stores.spark_tables import between, named, read_source

ROW_ID = "__entity_row"


class AsofSparkOfflineStoreConfig(GuardingConfig):
    """`spark_conf` are Spark's settings, `spark.master` among them; `delta_versions` is as in `asof_duckdb`."""

    type: Literal["fti.stores.asof_spark.AsofSparkOfflineStore"] = "fti.stores.asof_spark.AsofSparkOfflineStore"
    spark_conf: dict[str, str] = Field(default_factory=dict)
    delta_versions: dict[str, int] = Field(default_factory=dict)


class AsofSparkRetrievalJob(AsofRetrievalJob):
    """A Spark query that has not run yet. `frame` has all columns and leaves the rows where they are."""

    def __init__(
        self, frame: Callable[[], DataFrame], query: Callable[[], pa.Table], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(query, *args, **kwargs)
        self._frame = frame

    def to_spark_df(self) -> DataFrame:
        """The answer as a Spark dataframe, in no order of rows, without on-demand features: as in Feast's own store."""
        return self._frame()


# Feast's Spark engine takes a dataframe from jobs of this class, and from others all rows through the driver.
SparkRetrievalJob.register(AsofSparkRetrievalJob)


class AsofSparkOfflineStore(OfflineStore):
    """Delta Lake and Parquet sources, joined by Spark."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(  # no retrieval without entity rows, as in `asof_duckdb`
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | DataFrame,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Join each entity row with the newest feature row at or before its event timestamp, within the view's ttl.

        As `AsofDuckDBOfflineStore.get_historical_features`, but `entity_df` may be a Spark dataframe too, and SQL is
        Spark's. Either is read several times, so it has to say the same each time, and its rows come back in no order.
        Raises JoinKeyMissing.
        """
        spark = open_session(config.offline_store.spark_conf)
        if isinstance(entity_df, str):
            entity_df = spark.sql(entity_df)
        entities = (
            in_microseconds(pa.Table.from_pandas(entity_df, preserve_index=False))
            if isinstance(entity_df, pd.DataFrame)
            else entity_df
        )
        names = list(entities.schema.names)
        plans = [
            ViewPlan(view, feature_refs, full_feature_names, filter_by_created_timestamp, set(names))
            for view in feature_views
        ]
        if isinstance(entities, pa.Table):
            entities = with_whole_keys(entities, plans)
        timestamp = _timestamp_column(entities)
        extent = Extent.of(entities, timestamp, sorted({entity_keys(plan) for plan in plans}))

        def join(rows: DataFrame) -> DataFrame:
            known = [known_rows(plan, read_source(spark, plan.source, config), extent) for plan in plans]
            return join_views(rows, plans, known, timestamp, extent)

        def frame() -> DataFrame:
            return join(spark.createDataFrame(_plain(entities)) if isinstance(entities, pa.Table) else entities)

        def query() -> pa.Table:
            if not isinstance(entities, pa.Table):
                return frame().toArrow()
            # What Spark does not need stays here, whatever its type, and comes back in its order.
            needed = dict.fromkeys([timestamp, *(key for plan in plans for key in plan.keys.values())])
            row_ids = pa.array(np.arange(entities.num_rows))
            found = join(spark.createDataFrame(_plain(entities.select([*needed]).append_column(ROW_ID, row_ids))))
            features = found.toArrow().sort_by(ROW_ID).combine_chunks()
            answer = entities
            for position in range(len(needed) + 1, features.num_columns):
                answer = answer.append_column(features.schema.names[position], features.column(position))
            return answer

        return AsofSparkRetrievalJob(
            frame,
            query,
            str(config.repo_path),
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            full_feature_names,
            RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in names if name != timestamp],
                min_event_timestamp=extent.first,
                max_event_timestamp=extent.last,
            ),
            naming(plans, timestamp),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row of each key with `start_date` <= event timestamp <= `end_date` (Feast's own bounds)."""
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]

        def newest(rows: DataFrame) -> DataFrame:
            by_key = Window.partitionBy(*map(named, join_key_columns)).orderBy(*(named(name).desc() for name in order))
            return rows.withColumn("__place", F.row_number().over(by_key)).where("__place = 1").drop("__place")

        columns = feature_name_columns + order
        return _pull(config, data_source, join_key_columns, columns, timestamp_field, start_date, end_date, newest)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row with `start_date` <= event timestamp <= `end_date`; None leaves a side open."""
        columns = [*feature_name_columns, timestamp_field]
        columns += [created_timestamp_column] if created_timestamp_column else []
        return _pull(
            config, data_source, join_key_columns, columns, timestamp_field, start_date, end_date, lambda rows: rows
        )


def _pull(
    config: RepoConfig,
    data_source: DataSource,
    keys: list[str],
    columns: list[str],
    timestamp_field: str,
    start_date: datetime | None,
    end_date: datetime | None,
    choose: Callable[[DataFrame], DataFrame],
) -> AsofSparkRetrievalJob:
    assert isinstance(data_source, FileSource)
    mapping = data_source.field_mapping  # Feast's Spark engine expects it to be applied

    def frame() -> DataFrame:
        rows = read_source(open_session(config.offline_store.spark_conf), data_source, config)
        rows = choose(rows.where(between(named(timestamp_field), start_date, end_date)))
        selected = [named(column).alias(mapping.get(column, column)) for column in keys + columns]
        if not keys:  # of a view without entities, Feast writes the rows online under this key
            selected.append(F.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))
        return rows.select(*selected)

    return AsofSparkRetrievalJob(frame, lambda: frame().toArrow(), str(config.repo_path))


def _timestamp_column(entities: pa.Table | DataFrame) -> str:
    if isinstance(entities, pa.Table):
        kinds = entities.slice(0, 1).to_pandas().dtypes.to_dict()
    else:
        names_and_types = zip(entities.columns, spark_schema_to_np_dtypes(entities.dtypes), strict=True)
        kinds = dict(names_and_types)
    return offline_utils.infer_event_timestamp_from_entity_df(kinds)


def _plain(table: pa.Table) -> pa.Table:
    """The table in types that Spark knows: not as dictionaries, which pandas' categories are, nor without a sign."""
    for position, column in enumerate(table.schema):
        kind = column.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_unsigned_integer(kind):
            kind = pa.int64()
        if kind != column.type:
            table = table.set_column(position, column.name, table.column(position).cast(kind))
    return table
