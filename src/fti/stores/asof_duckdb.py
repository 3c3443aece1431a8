"""A Feast offline store over Delta Lake: entity rows in, point-in-time features out, by DuckDB's ASOF join.

Stock Feast joins every entity row with every earlier feature row of its key and then keeps the newest: quadratic in the
rows of a key. An ASOF join looks each one up once. The answers are the same; row order is that of the entity dataframe.

Written for Feast 0.67, whose stock duckdb store cannot read Delta Lake without fetching DuckDB's `delta` extension.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from pydantic import Field

from fti.stores.asof import AsofRetrievalJob, ViewPlan, absolute, in_microseconds, naming, pinned, with_whole_keys
from fti.stores.delta import connect, create_parquet_view, create_view, literal, quote
from fti.stores.frames import for_numpy
from fti.stores.guarded import GuardingConfig

ROW_ID = "__entity_row"


class AsofDuckDBOfflineStoreConfig(GuardingConfig, DuckDBOfflineStoreConfig):
    """`delta_versions` pins a data source, by name, to one version of its table; the rest are read at their newest."""

    type: Literal["fti.stores.asof_duckdb.AsofDuckDBOfflineStore"] = "fti.stores.asof_duckdb.AsofDuckDBOfflineStore"
    delta_versions: dict[str, int] = Field(default_factory=dict)


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
        Raises JoinKeyMissing, JoinKeyRounded.
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
        entities = with_whole_keys(entities, views)

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
            naming(views, timestamp_column),
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
        """The newest row of each key with `start_date` <= event timestamp <= `end_date` (Feast's own bounds).

        These go online: whole numbers that numpy would round are decimals.
        """
        order = [timestamp_field] + ([created_timestamp_column] if created_timestamp_column else [])
        newest_first = ", ".join(f"{quote(column)} DESC" for column in order)
        partition = _partition(list(map(quote, join_key_columns)))
        newest = f" QUALIFY row_number() OVER ({partition}ORDER BY {newest_first}) = 1"
        columns = feature_name_columns + order
        job = _pull(config, data_source, join_key_columns, columns, timestamp_field, start_date, end_date, newest)
        return AsofRetrievalJob(lambda: for_numpy(job.to_arrow()), str(config.repo_path))

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
        """Every row with `start_date` <= event timestamp <= `end_date`; None leaves a side open.

        Feast hands these to online stores, too: see `pull_latest_from_table_or_query`.
        """
        columns = [*feature_name_columns, timestamp_field]
        columns += [created_timestamp_column] if created_timestamp_column else []
        job = _pull(config, data_source, join_key_columns, columns, timestamp_field, start_date, end_date, "")
        return AsofRetrievalJob(lambda: for_numpy(job.to_arrow()), str(config.repo_path))


class _ViewPlan(ViewPlan):
    """How one feature view is joined with the entity rows."""

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
        timestamp = quote(self.timestamp)
        created, cutoff = (name and quote(name) for name in (self.created, self.cutoff))
        visible = f"greatest({timestamp}, {cutoff})" if cutoff else timestamp
        keys = [quote(self.column(key)) for key in self.keys]
        columns = [f"{quote(self.column(name))} AS {quote(name)}" for name in [*self.keys, *self.features]]
        conditions = _between(timestamp, None, last)
        if first and self.ttl:
            conditions.append(f"{timestamp} >= {_moment(first)} - {_interval(self.ttl)}")
        order = dict.fromkeys([visible, timestamp, *([f"{created} NULLS FIRST"] if created else [])])
        newest = f"{visible} IS DISTINCT FROM lead({visible}) OVER by_key"
        if cutoff:
            conditions += _between(cutoff, None, last)  # which null is not either
            newest += f" AND {timestamp} = max({timestamp}) OVER by_key"
        return (
            f"SELECT {', '.join(columns)}, {timestamp} AS __ts, {visible} AS __visible FROM {quote(source)}"
            f"{_where(conditions)} WINDOW by_key AS ({_partition(keys)}ORDER BY {', '.join(order)}) QUALIFY {newest}"
        )


def _create_view(con: duckdb.DuckDBPyConnection, name: str, source: FileSource, config: RepoConfig) -> None:
    """Make a source's rows visible in `con` as view `name`. As in Feast, a source that names no format is Parquet."""
    path = absolute(source, str(config.repo_path))
    if isinstance(source.file_format, DeltaFormat):
        create_view(con, name, path, pinned(source, config))
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


def _entity_table(con: duckdb.DuckDBPyConnection, entity_df: pd.DataFrame | str) -> pa.Table:
    """The entity rows as Arrow, timestamps in UTC microseconds."""
    if isinstance(entity_df, str):
        return in_microseconds(con.sql(entity_df).to_arrow_table())
    return in_microseconds(pa.Table.from_pandas(entity_df, preserve_index=False))


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
