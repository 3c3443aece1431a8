"""A Feast offline store over Delta Lake: entity rows in, point-in-time features out, by DuckDB's ASOF join.

Stock Feast joins every entity row with every earlier feature row of its key and then keeps the newest: quadratic in the
rows of a key. An ASOF join looks each one up once. The answers are the same; row order is that of the entity dataframe.

Written for Feast 0.67, whose stock duckdb store cannot read Delta Lake without fetching DuckDB's `delta` extension.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

import duckdb
import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import write_deltalake
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import FeatureView
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
from pydantic import Field

from feature_repo.stores.delta import connect, create_parquet_view, create_view, exists, literal, quote

ROW_ID = "__entity_row"


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
        return OnDemandFeatureView.transform_arrow(view, inputs, full_feature_names)

    narrow.transform_arrow = transform_arrow  # type: ignore[method-assign,assignment]
    return narrow


class AsofDuckDBOfflineStore(DuckDBOfflineStore):
    """Delta Lake and Parquet sources, joined by ASOF."""

    # It needs two inequalities, and an ASOF join has one. Feast refuses the option when this says so.
    supports_filter_by_created_timestamp = False

    @staticmethod
    def get_historical_features(  # type: ignore[override]  # without the option above, as other stores
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
    ) -> RetrievalJob:
        """Join each entity row with the newest feature row at or before its event timestamp, within the view's ttl.

        `entity_df`: join keys, one timestamp column (UTC), request fields; or an SQL SELECT that DuckDB can run.
        Of several rows with one key and event timestamp, the one created last counts. Raises JoinKeyMissing.
        """
        con = connect()
        entities = _entity_table(con, entity_df)
        timestamp_column = offline_utils.infer_event_timestamp_from_entity_df(
            entities.slice(0, 1).to_pandas().dtypes.to_dict()
        )
        moments = entities.column(timestamp_column)
        first, last = pc.min(moments).as_py(), pc.max(moments).as_py()
        views = [
            _ViewPlan(view, feature_refs, full_feature_names, set(entities.column_names)) for view in feature_views
        ]

        def query() -> pa.Table:
            entities_with_id = entities.append_column(ROW_ID, pa.array(range(entities.num_rows), pa.int64()))
            con.register("__entities", entities_with_id)
            for number, view in enumerate(views):
                _create_view(con, f"__source_{number}", view.source, config)
            columns = [f"e.{quote(name)}" for name in entities.column_names]
            ctes, joins = [], []
            for number, view in enumerate(views):
                ctes.append(f"v{number} AS ({view.rows(f'__source_{number}', first, last)})")
                joins.append(view.join(f"v{number}", timestamp_column))
                columns += view.selected(f"v{number}", timestamp_column)
            with_views = f"WITH {', '.join(ctes)} " if ctes else ""
            joined = f"FROM __entities e {' '.join(joins)} ORDER BY e.{quote(ROW_ID)}"
            return con.sql(f"{with_views}SELECT {', '.join(columns)} {joined}").to_arrow_table()

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
        newest = (
            f" QUALIFY row_number() OVER (PARTITION BY {', '.join(map(quote, join_key_columns))} "
            f"ORDER BY {', '.join(quote(column) + ' DESC' for column in order)}) = 1"
        )
        columns = join_key_columns + feature_name_columns + order
        return _pull(config, data_source, columns, timestamp_field, start_date, end_date, newest)

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
        columns = join_key_columns + feature_name_columns + [timestamp_field]
        columns += [created_timestamp_column] if created_timestamp_column else []
        return _pull(config, data_source, columns, timestamp_field, start_date, end_date, "")


class _ViewPlan:
    """How one feature view takes part in the join."""

    def __init__(
        self,
        view: FeatureView,
        feature_refs: list[str],
        full_feature_names: bool,
        entity_columns: set[str],
    ) -> None:
        source = view.batch_source
        if not isinstance(source, FileSource):
            raise TypeError(f"Feature view {view.name!r} needs a file source, found {type(source).__name__}.")
        self.source = source
        self.timestamp, self.created = source.timestamp_field, source.created_timestamp_column
        self.ttl: timedelta | None = view.ttl
        prefix = view.projection.name_to_use()
        self.features = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == prefix]
        self.names = [f"{prefix}__{name}" if full_feature_names else name for name in self.features]
        # `field_mapping` goes from the source's column to the feature's name.
        self.column_of = {feature: column for column, feature in source.field_mapping.items()}
        renamed = view.projection.join_key_map or {}
        self.keys = {column.name: renamed.get(column.name, column.name) for column in view.entity_columns}
        missing = [key for key in self.keys.values() if key not in entity_columns]
        if missing:
            raise JoinKeyMissing(
                f"Feature view {view.name!r} is keyed by {missing}, which the entity dataframe lacks; "
                f"it has {sorted(entity_columns)}. Add the column(s)."
            )

    def rows(self, source: str, first: datetime | None, last: datetime | None) -> str:
        """The view's rows, one a key and event timestamp, that moments from `first` to `last` can see.

        A day of entity rows then costs what a day of features costs, not what their whole history does.
        """

        def aliased(name: str) -> str:
            return f"{quote(self.column_of.get(name, name))} AS {quote(name)}"

        keys = [quote(self.column_of.get(key, key)) for key in self.keys]
        tie_break = f"ORDER BY {quote(self.created)} DESC" if self.created else ""
        columns = [aliased(name) for name in [*self.keys, *self.features]]
        oldest = first - self.ttl if first and self.ttl else None
        return (
            f"SELECT {', '.join(columns)}, {quote(self.timestamp)} AS __ts FROM {quote(source)}"
            f"{_between(self.timestamp, oldest, last)} "
            f"QUALIFY row_number() OVER (PARTITION BY {', '.join([*keys, quote(self.timestamp)])} {tie_break}) = 1"
        )

    def join(self, alias: str, entity_timestamp: str) -> str:
        on = [f"e.{quote(entity)} = {alias}.{quote(key)}" for key, entity in self.keys.items()]
        return f"ASOF LEFT JOIN {alias} ON {' AND '.join([*on, f'e.{quote(entity_timestamp)} >= {alias}.__ts'])}"

    def selected(self, alias: str, entity_timestamp: str) -> list[str]:
        """The features, null once the row is older than the ttl: of zero, it never is; the bound is inclusive."""
        fresh = ""
        if self.ttl:
            microseconds = self.ttl // timedelta(microseconds=1)
            fresh = f"e.{quote(entity_timestamp)} <= {alias}.__ts + to_microseconds({microseconds})"
        return [
            f"CASE WHEN {fresh} THEN {alias}.{quote(feature)} END AS {quote(name)}"
            if fresh
            else f"{alias}.{quote(feature)} AS {quote(name)}"
            for feature, name in zip(self.features, self.names, strict=True)
        ]


def _create_view(con: duckdb.DuckDBPyConnection, name: str, source: FileSource, config: RepoConfig) -> None:
    """Make a source's rows visible in `con` as view `name`. As in Feast, a source that names no format is Parquet."""
    path = _absolute(source, str(config.repo_path))
    if isinstance(source.file_format, DeltaFormat):
        create_view(con, name, path, config.offline_store.delta_versions.get(source.name))
    else:
        create_parquet_view(con, name, path)


def _between(timestamp_field: str, start: datetime | None, end: datetime | None) -> str:
    """A WHERE clause for `start` <= timestamp <= `end`; None leaves a side open."""
    bounds = [
        f"{quote(timestamp_field)} {operator} TIMESTAMPTZ {literal(moment.isoformat())}"
        for operator, moment in ((">=", start), ("<=", end))
        if moment is not None
    ]
    return f" WHERE {' AND '.join(bounds)}" if bounds else ""


def _absolute(source: FileSource, repo_path: str) -> str:
    return str(FileSource.get_uri_for_file_path(repo_path=repo_path, uri=source.file_options.uri))


def _entity_table(con: duckdb.DuckDBPyConnection, entity_df: pd.DataFrame | str) -> pa.Table:
    """The entity rows as Arrow, timestamps in UTC microseconds: nanoseconds break DuckDB's casts."""
    if isinstance(entity_df, str):
        table = con.sql(entity_df).to_arrow_table()
    else:
        table = pa.Table.from_pandas(entity_df, preserve_index=False)
    for position, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type):
            utc = pa.timestamp("us", tz="UTC")
            table = table.set_column(position, column.name, table.column(position).cast(utc, safe=False))
    return table


def _pull(
    config: RepoConfig,
    data_source: DataSource,
    columns: list[str],
    timestamp_field: str,
    start_date: datetime | None,
    end_date: datetime | None,
    qualify: str,
) -> AsofRetrievalJob:
    assert isinstance(data_source, FileSource)
    where = _between(timestamp_field, start_date, end_date)

    def query() -> pa.Table:
        con = connect()
        _create_view(con, "__source", data_source, config)
        return con.sql(f"SELECT {', '.join(map(quote, columns))} FROM __source{where}{qualify}").to_arrow_table()

    return AsofRetrievalJob(query, str(config.repo_path))
