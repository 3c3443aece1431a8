"""A Feast offline store over Delta Lake: entity rows in, point-in-time features out, by DuckDB's ASOF join.

Stock Feast joins every entity row with every earlier feature row of its key and then keeps the newest: quadratic in the
rows of a key. An ASOF join looks each one up once. The answers are the same; row order is that of the entity dataframe.

Written for Feast 0.67, whose stock duckdb store cannot read Delta Lake without fetching DuckDB's `delta` extension.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal

import duckdb
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import write_deltalake
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _write_data_source,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.transformation.python_transformation import PythonTransformation
from pydantic import Field

from feature_repo.stores.delta import connect, create_parquet_view, create_view, exists, literal, quote

ROW_ID = "__entity_row"
UTC = pa.timestamp("us", tz="UTC")


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """`delta_versions` pins a data source, by name, to one version of its table; the rest are read at their newest."""

    type: Literal["feature_repo.stores.asof_duckdb.AsofDuckDBOfflineStore"] = (
        "feature_repo.stores.asof_duckdb.AsofDuckDBOfflineStore"
    )
    delta_versions: dict[str, int] = Field(default_factory=dict)


class JoinKeyMissing(ValueError):
    """The entity dataframe lacks a column that a requested feature view is keyed by."""


class AsofRetrievalJob(RetrievalJob):
    """A DuckDB query that has not run yet."""

    def __init__(
        self,
        query: Callable[[], pa.Table],
        repo_path: str,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        full_feature_names: bool = False,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        super().__init__()
        self._query = query
        self._repo_path = repo_path
        self._on_demand_feature_views = [_narrow(view) for view in on_demand_feature_views or []]
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._query()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._query().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result, on-demand features included, as one Delta table or Parquet file.

        Raises SavedDatasetLocationAlreadyExists when something is there and `allow_overwrite` is False.
        """
        source = storage.to_data_source()
        if not isinstance(source, FileSource):
            raise TypeError(f"Can only persist to a file source, got {type(source).__name__}.")
        path = _absolute(source, self._repo_path)
        result = self.to_arrow(timeout=timeout)
        if isinstance(source.file_format, DeltaFormat):
            if exists(path) and not allow_overwrite:
                raise SavedDatasetLocationAlreadyExists(location=path)
            write_deltalake(path, result, mode="overwrite", schema_mode="overwrite")
            return
        _write_data_source(ibis.memtable(result), source, self._repo_path, "overwrite", allow_overwrite)


def _narrow(view: OnDemandFeatureView) -> OnDemandFeatureView:
    """A copy of the view whose code is handed the columns it declares and no others.

    Feast 0.67 turns every column of the whole result into Python objects, once a view: most of the time of a retrieval.
    """
    narrow = copy.copy(view)
    declared = [field.name for source in view.source_request_sources.values() for field in source.schema]
    for projection in view.source_feature_view_projections.values():
        for feature in projection.features:
            declared += [feature.name, f"{projection.name_to_use()}__{feature.name}"]

    def transform_arrow(table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        inputs = table.select([name for name in dict.fromkeys(declared) if name in table.column_names])
        return OnDemandFeatureView.transform_arrow(narrow, inputs, full_feature_names)

    narrow.transform_arrow = transform_arrow  # type: ignore[method-assign,assignment]
    if isinstance(view.feature_transformation, PythonTransformation):
        narrow.feature_transformation = _by_column(view.feature_transformation)
    return narrow


def _by_column(code: PythonTransformation) -> PythonTransformation:
    """A copy that hands its code the same lists, made faster: pyarrow's `to_pydict` converts timestamps one by one."""
    fast = copy.copy(code)

    def transform_arrow(pa_table: pa.Table, features: list[Any]) -> pa.Table:
        inputs = {
            name: column.to_pandas(timestamp_as_object=True).tolist() if column.type == UTC else column.to_pylist()
            for name, column in zip(pa_table.column_names, pa_table.columns, strict=True)
        }
        return pa.Table.from_pydict(code.udf(inputs))

    fast.transform_arrow = transform_arrow  # type: ignore[method-assign]
    return fast


class AsofDuckDBOfflineStore(DuckDBOfflineStore):
    """Delta Lake and Parquet sources, joined by ASOF."""

    @staticmethod
    def get_historical_features(  # type: ignore[override]  # no retrieval without entity rows, as in the stock store
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Join each entity row with the newest feature row at or before its event timestamp, within the view's ttl.

        `entity_df`: join keys, one timestamp column (UTC), request fields; or an SQL SELECT that DuckDB can run.
        Of several rows with one key and event timestamp, the one created last counts, one that does not say when
        before none. With `filter_by_created_timestamp`, rows created after the entity row's event timestamp do not
        count, nor rows that do not say when they were; views without a created timestamp are joined as ever.
        Raises JoinKeyMissing.
        """
        con = connect()
        entities = _entity_table(con, entity_df)
        timestamp_column = offline_utils.infer_event_timestamp_from_entity_df(
            entities.slice(0, 1).to_pandas().dtypes.to_dict()
        )
        moments = entities.column(timestamp_column)
        first, last = pc.min(moments).as_py(), pc.max(moments).as_py()
        views = [
            _ViewPlan(view, feature_refs, full_feature_names, filter_by_created_timestamp, set(entities.column_names))
            for view in feature_views
        ]

        def query() -> pa.Table:
            # One view at a time, and only keys and moments through the join: all at once, each of ten joins would
            # hold the whole rows of those before it, and a training set would take more than twice the memory.
            con.register("__entities", entities.append_column(ROW_ID, pa.array(np.arange(entities.num_rows))))
            joined = entities
            for view in views:
                _create_view(con, "__source", view.source, config)
                features = con.sql(view.query("__entities", "__source", timestamp_column, first, last))
                for name, column in zip(view.names, features.to_arrow_table().columns, strict=True):
                    joined = joined.append_column(name, column)
            return joined

        return AsofRetrievalJob(
            query,
            str(config.repo_path),
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            full_feature_names,
            RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.column_names if name != timestamp_column],
                min_event_timestamp=first,
                max_event_timestamp=last,
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
        order = [timestamp_field] + ([created_timestamp_column] if created_timestamp_column else [])
        newest_first = ", ".join(f"{quote(column)} DESC" for column in order)
        partition = _partition(list(map(quote, join_key_columns)))
        newest = f" QUALIFY row_number() OVER ({partition}ORDER BY {newest_first}) = 1"
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
        return _pull(config, data_source, join_key_columns, columns, timestamp_field, start_date, end_date, "")


class _ViewPlan:
    """How one feature view is joined with the entity rows."""

    def __init__(
        self,
        view: FeatureView,
        feature_refs: list[str],
        full_feature_names: bool,
        filter_by_created_timestamp: bool,
        entity_columns: set[str],
    ) -> None:
        source = view.batch_source
        if not isinstance(source, FileSource):
            raise TypeError(f"Feature view {view.name!r} needs a file source, found {type(source).__name__}.")
        self.source = source
        # `field_mapping` goes from the source's column to the feature's name.
        self.column_of = {feature: column for column, feature in source.field_mapping.items()}
        self.timestamp = self._column(source.timestamp_field)
        self.created = self._column(source.created_timestamp_column) if source.created_timestamp_column else None
        # The column that must not lie after the moment either, if any.
        self.cutoff = self.created if filter_by_created_timestamp else None
        self.ttl: timedelta | None = view.ttl
        prefix = view.projection.name_to_use()
        self.features = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == prefix]
        base = view.projection.name_alias or view.name
        self.names = [f"{base}__{name}" if full_feature_names else name for name in self.features]
        renamed = view.projection.join_key_map or {}
        # A view without entities has one key in the registry all the same, which no table has.
        keys = [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
        self.keys = {key: renamed.get(key, key) for key in keys}
        missing = [key for key in self.keys.values() if key not in entity_columns]
        if missing:
            raise JoinKeyMissing(
                f"Feature view {view.name!r} is keyed by {missing}, which the entity dataframe lacks; "
                f"it has {sorted(entity_columns)}. Add the column(s)."
            )

    def _column(self, name: str) -> str:
        """The source's column, quoted, of a feature, a key or a timestamp."""
        return quote(self.column_of.get(name, name))

    def query(
        self, entities: str, source: str, entity_timestamp: str, first: datetime | None, last: datetime | None
    ) -> str:
        """SQL for the view's features, a row for each entity row, in their order.

        A feature is null once its row is older than the ttl: of zero, it never is; the bound is inclusive.
        """
        moment = f"e.{quote(entity_timestamp)}"
        on = [f"e.{quote(entity)} = v.{quote(key)}" for key, entity in self.keys.items()]
        on.append(f"{moment} >= v.__visible")
        features = [f"v.{quote(feature)}" for feature in self.features]
        if self.ttl:
            fresh = f"{moment} <= v.__ts + {_interval(self.ttl)}"
            features = [f"CASE WHEN {fresh} THEN {feature} END" for feature in features]
        return (
            f"SELECT {', '.join(features)} FROM {entities} e "
            f"ASOF LEFT JOIN ({self.rows(source, first, last)}) v ON {' AND '.join(on)} ORDER BY e.{quote(ROW_ID)}"
        )

    def rows(self, source: str, first: datetime | None, last: datetime | None) -> str:
        """SQL for the view's rows that moments from `first` to `last` can see, one a key and `__visible`.

        `__visible` is the moment from which a row counts: its event timestamp, or with a cutoff the time it was
        created if that is later. Left out are rows that never are the newest, being hidden from that moment on by a
        row of a later event timestamp: so the last visible row of a key is always its newest, and one ASOF finds it.
        A day of entity rows costs what a day of features costs, not what their whole history does.
        """
        visible = f"greatest({self.timestamp}, {self.cutoff})" if self.cutoff else self.timestamp
        keys = [self._column(key) for key in self.keys]
        columns = [f"{self._column(name)} AS {quote(name)}" for name in [*self.keys, *self.features]]
        conditions = _between(self.timestamp, None, last)
        if first and self.ttl:
            conditions.append(f"{self.timestamp} >= {_moment(first)} - {_interval(self.ttl)}")
        order = dict.fromkeys([visible, self.timestamp, *([f"{self.created} NULLS FIRST"] if self.created else [])])
        newest = f"{visible} IS DISTINCT FROM lead({visible}) OVER by_key"
        if self.cutoff:
            conditions += _between(self.cutoff, None, last)  # which null is not either
            newest += f" AND {self.timestamp} = max({self.timestamp}) OVER by_key"
        return (
            f"SELECT {', '.join(columns)}, {self.timestamp} AS __ts, {visible} AS __visible FROM {quote(source)}"
            f"{_where(conditions)} WINDOW by_key AS ({_partition(keys)}ORDER BY {', '.join(order)}) QUALIFY {newest}"
        )


def _create_view(con: duckdb.DuckDBPyConnection, name: str, source: FileSource, config: RepoConfig) -> None:
    """Make a source's rows visible in `con` as view `name`. As in Feast, a source that names no format is Parquet."""
    path = _absolute(source, str(config.repo_path))
    if isinstance(source.file_format, DeltaFormat):
        create_view(con, name, path, config.offline_store.delta_versions.get(source.name))
    else:
        create_parquet_view(con, name, path)


def _between(column: str, start: datetime | None, end: datetime | None) -> list[str]:
    """SQL conditions for `start` <= column <= `end`; None leaves a side open."""
    return [
        f"{column} {operator} {_moment(bound)}" for operator, bound in ((">=", start), ("<=", end)) if bound is not None
    ]


def _where(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _partition(keys: list[str]) -> str:
    return f"PARTITION BY {', '.join(keys)} " if keys else ""


def _moment(moment: datetime) -> str:
    return f"TIMESTAMPTZ {literal(moment.isoformat())}"


def _interval(length: timedelta) -> str:
    """An SQL interval; sums of it and a moment reach further than Python's years 1 to 9999."""
    return f"to_microseconds({length // timedelta(microseconds=1)})"


def _absolute(source: FileSource, repo_path: str) -> str:
    return str(FileSource.get_uri_for_file_path(repo_path=repo_path, uri=source.file_options.uri))


def _entity_table(con: duckdb.DuckDBPyConnection, entity_df: pd.DataFrame | str) -> pa.Table:
    """The entity rows as Arrow, timestamps in UTC microseconds: nanoseconds break DuckDB's casts.

    As in Feast's other stores, the event timestamp may be text.
    """
    if isinstance(entity_df, str):
        table = con.sql(entity_df).to_arrow_table()
    else:
        table = pa.Table.from_pandas(entity_df, preserve_index=False)
    for position, column in enumerate(table.schema):
        values = table.column(position)
        if column.name == offline_utils.DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL and pa.types.is_string(column.type):
            values = pa.Array.from_pandas(pd.to_datetime(values.to_pandas(), utc=True))
        if pa.types.is_timestamp(values.type):
            table = table.set_column(position, column.name, values.cast(UTC, safe=False))
    return table


def _pull(
    config: RepoConfig,
    data_source: DataSource,
    keys: list[str],
    columns: list[str],
    timestamp_field: str,
    start_date: datetime | None,
    end_date: datetime | None,
    qualify: str,
) -> AsofRetrievalJob:
    assert isinstance(data_source, FileSource)
    where = _where(_between(quote(timestamp_field), start_date, end_date))
    selected = [quote(column) for column in keys + columns]
    if not keys:  # of a view without entities, Feast writes the rows online under this key
        selected.append(f"{literal(DUMMY_ENTITY_VAL)} AS {quote(DUMMY_ENTITY_ID)}")

    def query() -> pa.Table:
        con = connect()
        _create_view(con, "__source", data_source, config)
        return con.sql(f"SELECT {', '.join(selected)} FROM __source{where}{qualify}").to_arrow_table()

    return AsofRetrievalJob(query, str(config.repo_path))
