"""A Feast offline store over Delta Lake on Spark: the answers of `asof_duckdb`, for more rows than one machine holds.

Stock Feast's Spark store joins every entity row with every earlier feature row of its key. Here the two are stacked,
sorted by key and moment, and each entity row takes the last feature row above it: one shuffle and one sort for all
views with the same keys, however many rows a key has. The data sources are the files that the DuckDB store reads.

Written for Feast 0.67 and Spark 4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.spark_offline_store.spark import SparkRetrievalJob
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.type_map import spark_schema_to_np_dtypes
from pydantic import Field
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.types import StructType, TimestampNTZType

from feature_repo.stores.asof import AsofRetrievalJob, ViewPlan, absolute, in_microseconds, pinned
from feature_repo.stores.delta import parquet_files, snapshot
from feature_repo.stores.spark_session import open_session

ROW_ID = "__entity_row"
MICROSECOND = timedelta(microseconds=1)
EPOCH, FIRST_YEAR = datetime(1970, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)
# Rows of one moment in the order in which they count: what was known before, feature rows, entity rows.
BEFORE, KNOWN, ASKED = 0, 1, 2


class AsofSparkOfflineStoreConfig(FeastConfigBaseModel):
    """`spark_conf` are Spark's settings, `spark.master` among them; `delta_versions` is as in `asof_duckdb`."""

    type: Literal["feature_repo.stores.asof_spark.AsofSparkOfflineStore"] = (
        "feature_repo.stores.asof_spark.AsofSparkOfflineStore"
    )
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
    def get_historical_features(  # type: ignore[override]  # no retrieval without entity rows, as in `asof_duckdb`
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
        timestamp = _timestamp_column(entities)
        extent = _Extent.of(entities, timestamp, sorted({_entity_keys(plan) for plan in plans}))

        def join(rows: DataFrame) -> DataFrame:
            known = [_known_rows(plan, _read(spark, plan.source, config), extent) for plan in plans]
            return _join(rows, plans, known, timestamp, extent)

        def frame() -> DataFrame:
            return join(spark.createDataFrame(entities) if isinstance(entities, pa.Table) else entities)

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
            by_key = Window.partitionBy(*map(_column, join_key_columns)).orderBy(
                *(_column(name).desc() for name in order)
            )
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


@dataclass(frozen=True)
class _Extent:
    """From when to when entity rows ask, None when there are none, and of how many keys, by columns."""

    first: datetime | None
    last: datetime | None
    distinct: dict[tuple[str, ...], int]

    @classmethod
    def of(cls, entities: pa.Table | DataFrame, timestamp: str, keys: Sequence[tuple[str, ...]]) -> _Extent:
        if isinstance(entities, pa.Table):
            moments = entities.column(timestamp)
            distinct = {names: entities.group_by([*names]).aggregate([]).num_rows for names in keys}
            return cls(pc.min(moments).as_py(), pc.max(moments).as_py(), distinct)
        moment = _micros(_column(timestamp))
        counts = [F.approx_count_distinct(F.xxhash64(F.lit(0), *map(_column, names))) for names in keys]
        (found,) = entities.agg(F.min(moment), F.max(moment), *counts).collect()
        first, last = (None if moment is None else EPOCH + moment * MICROSECOND for moment in found[:2])
        return cls(first, last, dict(zip(keys, found[2:], strict=True)))

    def slice_length(self, keys: tuple[str, ...], wanted: int) -> int | None:
        """Microseconds of each slice of time, if there are fewer keys than parts `wanted`; None to leave time whole."""
        distinct = max(1, self.distinct[keys])
        if self.first is None or self.last is None or distinct >= wanted:
            return None
        return (self.last - self.first) // MICROSECOND // math.ceil(wanted / distinct) + 1


def _join(
    entities: DataFrame, plans: Sequence[ViewPlan], known: Sequence[DataFrame], timestamp: str, extent: _Extent
) -> DataFrame:
    """The entity rows with every view's features behind their own columns.

    Columns have numbers until the end: c0, c1... are those of the entity rows, v0_0, v0_1... the first view's features.
    So no name has to be quoted, and none can clash.
    """
    names = [*entities.columns, *(name for plan in plans for name in plan.names)]
    numbers = {name: f"c{number}" for number, name in enumerate(entities.columns)}
    base = joined = entities.toDF(*numbers.values())
    parts = 2 * int(entities.sparkSession.conf.get("spark.sql.shuffle.partitions") or 1)
    for keys in dict.fromkeys(map(_entity_keys, plans)):
        views = {f"v{number}": plan for number, plan in enumerate(plans) if _entity_keys(plan) == keys}
        rows = [known[number].withColumnRenamed("row", f"v{number}") for number, plan in enumerate(plans)
                if _entity_keys(plan) == keys]  # fmt: skip
        asked = [F.col(numbers[name]).alias(f"k{number}") for number, name in enumerate(keys)]
        moment = _micros(F.col(numbers[timestamp])).alias("at")
        stacked = _Stack(
            len(keys),
            views,
            joined.select(*asked, moment, F.struct("*").alias("entity")),
            base.select(*asked, moment),
            reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), rows),
        )
        joined = stacked.joined(extent.first, extent.slice_length(keys, parts))
    order = [f"v{number}_{place}" for number, plan in enumerate(plans) for place in range(len(plan.names))]
    return joined.select(*numbers.values(), *order).toDF(*names)


@dataclass(frozen=True)
class _Stack:
    """Entity rows and the rows of the views that share their keys, to be sorted into each other.

    `asked` has the columns k0, k1..., at (microseconds) and entity, a struct; `moments` the first two of them, straight
    from their source; `known` k0, k1..., at, created and for each view a struct, null in the rows of other views.
    """

    keys: int
    views: dict[str, ViewPlan]
    asked: DataFrame
    moments: DataFrame
    known: DataFrame

    def joined(self, first: datetime | None, slice_length: int | None) -> DataFrame:
        """The entity rows' own columns and the features, v0_0, v0_1...; null once older than the view's ttl."""
        known, asked = self.known, self.asked
        by = [f"k{number}" for number in range(self.keys)]
        if slice_length and first:
            start = _microseconds(first)
            known, asked = (_sliced(rows, start, slice_length) for rows in (known, asked))
            before = self._before(known, _sliced(self.moments, start, slice_length), start, slice_length, by)
            known = known.where(F.col("at") >= start).withColumn("rank", F.lit(KNOWN)).unionByName(before)
            by_slice = [*by, "slice"]
        else:
            known, by_slice = known.withColumn("rank", F.lit(KNOWN)), by
        rows = known.unionByName(asked.withColumn("rank", F.lit(ASKED)), allowMissingColumns=True)
        # An entity row without a key finds nothing; all of them in one partition would be a heap.
        alone = [F.when(reduce(Column.__or__, [F.col(key).isNull() for key in by]), F.col("at"))] if by else []
        upwards = (
            Window.partitionBy(*by_slice, *alone)
            .orderBy("at", "rank", F.col("created").asc_nulls_first())
            .rowsBetween(Window.unboundedPreceding, Window.currentRow)
        )
        found = rows.select(
            "rank", "at", "entity", *(self._newest(view).over(upwards).alias(view) for view in self.views)
        )
        features = [
            F.when(_fresh(plan, view), F.col(f"{view}.f{place}")).alias(f"{view}_{place}")
            for view, plan in self.views.items()
            for place in range(len(plan.names))
        ]
        return found.where(F.col("rank") == ASKED).select("entity.*", *features)

    def _newest(self, view: str) -> Column:
        """Of a view's rows so far the one that counts: the last, or where rows come as they are created, the newest."""
        if self.views[view].cutoff:
            return F.max_by(view, _age(view))
        return F.last(view, ignorenulls=True)

    def _before(self, known: DataFrame, moments: DataFrame, start: int, slice_length: int, by: list[str]) -> DataFrame:
        """For each key and slice that is asked for: each view's newest row of the slices before, as if at its start."""
        newest = [F.max_by(view, _age(view)).alias(view) for view in self.views]
        heads = known.groupBy(*by, "slice").agg(*newest).withColumn("rank", F.lit(KNOWN))
        asked = moments.select(*by, "slice").distinct().withColumn("rank", F.lit(BEFORE))
        upwards = (
            Window.partitionBy(*by).orderBy("slice", "rank").rowsBetween(Window.unboundedPreceding, Window.currentRow)
        )
        carried = heads.unionByName(asked, allowMissingColumns=True).select(
            *by,
            "slice",
            "rank",
            (F.lit(start) + F.col("slice") * slice_length).alias("at"),
            F.lit(None).cast("long").alias("created"),
            *(self._newest(view).over(upwards).alias(view) for view in self.views),
        )
        return carried.where(F.col("rank") == BEFORE)


def _known_rows(plan: ViewPlan, rows: DataFrame, extent: _Extent) -> DataFrame:
    """What a view may answer with: k0, k1..., at, created and row, a struct of ts, created and the features f0, f1...

    `at` is the moment from which a row counts: its event timestamp, or with a cutoff the time it was created if later.
    """
    stamp = _column(plan.timestamp)
    ts = _micros(stamp)
    created = _micros(_column(plan.created)) if plan.created else F.lit(None).cast("long")
    keys = [_column(plan.column(key)) for key in _by_entity_key(plan)]
    rows = rows.where(stamp.isNotNull() & _between(stamp, None, extent.last))
    if extent.first and plan.ttl:
        rows = rows.where(stamp >= _moment(_microseconds(extent.first) - plan.ttl // MICROSECOND))
    if plan.cutoff:
        rows = rows.where(_column(plan.cutoff).isNotNull() & _between(_column(plan.cutoff), None, extent.last))
    features = [_column(plan.column(name)).alias(f"f{place}") for place, name in enumerate(plan.features)]
    return rows.where(reduce(Column.__and__, [key.isNotNull() for key in keys], F.lit(True))).select(
        *(key.alias(f"k{number}") for number, key in enumerate(keys)),
        (F.greatest(ts, created) if plan.cutoff else ts).alias("at"),
        created.alias("created"),
        F.struct(ts.alias("ts"), created.alias("created"), *features).alias("row"),
    )


def _by_entity_key(plan: ViewPlan) -> list[str]:
    """The view's keys, ordered by the entity dataframe's columns: so views with the same ones share a shuffle."""
    return sorted(plan.keys, key=lambda key: plan.keys[key])


def _entity_keys(plan: ViewPlan) -> tuple[str, ...]:
    return tuple(plan.keys[key] for key in _by_entity_key(plan))


def _age(view: str) -> Column:
    """What decides between a view's rows; null in the rows of other views. A null created timestamp is the oldest."""
    return F.when(F.col(view).isNotNull(), F.struct(f"{view}.ts", f"{view}.created"))


def _fresh(plan: ViewPlan, view: str) -> Column:
    """Whether the row may be used; a ttl of zero never ends, the bound is inclusive."""
    return F.col("at") - F.col(f"{view}.ts") <= plan.ttl // MICROSECOND if plan.ttl else F.lit(True)


def _sliced(rows: DataFrame, start: int, length: int) -> DataFrame:
    """Add the number of the slice of time; all before the first entity row is one, -1."""
    number = F.expr(f"(at - {start}) div {length}")
    return rows.withColumn("slice", F.when(F.col("at") < start, F.lit(-1)).otherwise(number))


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
        rows = _read(open_session(config.offline_store.spark_conf), data_source, config)
        rows = choose(rows.where(_between(_column(timestamp_field), start_date, end_date)))
        selected = [_column(column).alias(mapping.get(column, column)) for column in keys + columns]
        if not keys:  # of a view without entities, Feast writes the rows online under this key
            selected.append(F.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))
        return rows.select(*selected)

    return AsofSparkRetrievalJob(frame, lambda: frame().toArrow(), str(config.repo_path))


def _read(spark: SparkSession, source: FileSource, config: RepoConfig) -> DataFrame:
    """A source's rows, moments as UTC. As in Feast, a source that names no format is Parquet.

    Raises TableMissing, TableCorrupt.
    """
    path = absolute(source, str(config.repo_path))
    if isinstance(source.file_format, DeltaFormat):
        return read_delta(spark, path, pinned(source, config))
    files = parquet_files(path)
    rows = spark.read.option("basePath", path).option("mergeSchema", "true").parquet(*map(_not_a_pattern, files))
    nanoseconds = {column.name for column in pq.read_schema(files[0]) if column.type in _NANOSECONDS}
    return rows.select(*(_as_moment(field.name, field.dataType, nanoseconds) for field in rows.schema))


def read_delta(spark: SparkSession, path: str, version: int | None = None) -> DataFrame:
    """The rows of a Delta table at a version (default: the newest); Spark reads its files as Parquet.

    Spark's own reader of Delta Lake is a jar that no wheel has. Raises TableMissing, TableCorrupt.
    """
    table, files = snapshot(path, version)
    # Delta Lake writes its schema as Spark does. With it, a column that older files lack is null there.
    schema = StructType.fromJson(json.loads(table.schema().to_json()))
    if not files:
        return spark.createDataFrame([], schema)
    return spark.read.option("basePath", path).schema(schema).parquet(*map(_not_a_pattern, files))


_NANOSECONDS = (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC"))


def _as_moment(name: str, kind: Any, nanoseconds: set[str]) -> Column:
    column = _column(name)
    if name in nanoseconds:
        count = _quoted(name)  # of nanoseconds: more than a float has digits for
        return F.expr(f"timestamp_micros(({count} - pmod({count}, 1000)) div 1000)").alias(name)
    return column.cast("timestamp").alias(name) if isinstance(kind, TimestampNTZType) else column


def _not_a_pattern(file: str) -> str:
    r"""The path, for Spark, which takes `*?[]{}\` in paths for patterns."""
    return "".join(f"\\{letter}" if letter in r"*?[]{}\\" else letter for letter in file)


def _timestamp_column(entities: pa.Table | DataFrame) -> str:
    if isinstance(entities, pa.Table):
        kinds = entities.slice(0, 1).to_pandas().dtypes.to_dict()
    else:
        names_and_types = zip(entities.columns, spark_schema_to_np_dtypes(entities.dtypes), strict=True)
        kinds = dict(names_and_types)
    return offline_utils.infer_event_timestamp_from_entity_df(kinds)


def _plain(table: pa.Table) -> pa.Table:
    """The table with dictionaries, which pandas' categories are and Spark does not know, as what they stand for."""
    for position, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(position, column.name, table.column(position).cast(column.type.value_type))
    return table


def _column(name: str) -> Column:
    """The column of this name, whatever letters are in it."""
    return F.col(_quoted(name))


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _micros(moment: Column) -> Column:
    return F.unix_micros(moment.cast("timestamp"))


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def _moment(microseconds: int) -> Column:
    """A timestamp, of the year 1 when it is earlier: what Parquet files can be asked for."""
    return F.timestamp_micros(F.lit(max(microseconds, _microseconds(FIRST_YEAR))))


def _between(column: Column, start: datetime | None, end: datetime | None) -> Column:
    """`start` <= column <= `end`; None leaves a side open."""
    since = column >= _moment(_microseconds(start)) if start else F.lit(True)
    return since & (column <= _moment(_microseconds(end))) if end else since
