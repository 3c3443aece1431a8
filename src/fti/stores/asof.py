"""What the offline stores with a point-in-time join share: which rows a view wants joined, and what becomes of them.

Feature views and feature references come in, a plan a view; a query that has not run yet, a retrieval job.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import write_deltalake
from feast.data_format import DeltaFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.field import Field
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.duckdb import _write_data_source
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage, ValidationReference
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Int32, Int64, UnixTimestamp
from feast.value_type import ValueType

from fti.errors import few
from fti.stores.delta import exists
from fti.stores.frames import as_frame, beyond_float
from fti.stores.online_request import typed
from fti.stores.tables import address

UTC = pa.timestamp("us", tz="UTC")


class JoinKeyMissing(ValueError):
    """The entity dataframe lacks a column that a requested feature view is keyed by."""


class JoinKeyRounded(ValueError):
    """The entity dataframe has whole numbers as floats that cannot be told from their neighbours."""


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
        return as_frame(self._query())

    def to_df(
        self, validation_reference: ValidationReference | None = None, timeout: int | None = None
    ) -> pd.DataFrame:
        """As Feast's, with whole numbers and booleans that stay so beside a null."""
        return as_frame(self.to_arrow(validation_reference=validation_reference, timeout=timeout)).reset_index(
            drop=True
        )

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
        path = absolute(source, self._repo_path)
        result = self.to_arrow(timeout=timeout)
        if isinstance(source.file_format, DeltaFormat):
            if exists(path) and not allow_overwrite:
                raise SavedDatasetLocationAlreadyExists(location=path)
            write_deltalake(address(path), result, mode="overwrite", schema_mode="overwrite")
            return
        _write_data_source(ibis.memtable(result), source, self._repo_path, "overwrite", allow_overwrite)


def _narrow(view: OnDemandFeatureView) -> OnDemandFeatureView:
    """A copy of the view whose code is handed the columns it declares and no others.

    Feast 0.67 turns every column of the whole result into Python objects, once a view: most of the time of a retrieval.
    """
    narrow = copy.copy(view)
    asked = [field for source in view.source_request_sources.values() for field in source.schema]
    declared, times = [field.name for field in asked], [field.name for field in asked if field.dtype == UnixTimestamp]
    for projection in view.source_feature_view_projections.values():
        for feature in projection.features:
            declared += [feature.name, f"{projection.name_to_use()}__{feature.name}"]

    def transform_arrow(table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        inputs = table.select([name for name in dict.fromkeys(declared) if name in table.column_names])
        for name in times:
            inputs = _with_times(inputs, name)
        return OnDemandFeatureView.transform_arrow(narrow, inputs, full_feature_names)

    narrow.transform_arrow = transform_arrow  # type: ignore[method-assign,assignment]
    if isinstance(view.feature_transformation, PythonTransformation):
        narrow.feature_transformation = _by_column(view.feature_transformation)
    return narrow


def _with_times(table: pa.Table, name: str) -> pa.Table:
    """The table with times in a request field that is declared as such: as online, it may be text or seconds.

    Raises RequestUnusable.
    """
    position = table.schema.get_field_index(name)
    if position < 0 or pa.types.is_timestamp(table.schema.field(position).type):
        return table
    values = [
        None if value is None else typed(name, ValueType.UNIX_TIMESTAMP, row, value)
        for row, value in enumerate(table.column(position).to_pylist())
    ]
    return table.set_column(position, name, pa.array(values, UTC))


def _by_column(code: PythonTransformation) -> PythonTransformation:
    """A copy that hands its code the same lists, made faster: pyarrow's `to_pydict` converts timestamps one by one.

    And None for NaN, as online: an online store holds no NaN.
    """
    fast = copy.copy(code)

    def transform_arrow(pa_table: pa.Table, features: list[Any]) -> pa.Table:
        inputs = {
            name: column.to_pandas(timestamp_as_object=True).tolist()
            if column.type == UTC
            else _without_nan(column).to_pylist()
            for name, column in zip(pa_table.column_names, pa_table.columns, strict=True)
        }
        return pa.Table.from_pydict(code.udf(inputs))

    fast.transform_arrow = transform_arrow  # type: ignore[method-assign]
    return fast


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(column.type) or not pc.any(pc.is_nan(column)).as_py():
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


class ViewPlan:
    """What one feature view's features are, and by which columns of its source they are found.

    `keys` goes from the view's join keys to the entity dataframe's columns, `features` are the view's names and `names`
    those of the answer. `timestamp`, `created` and `cutoff`, the column that must not lie after the moment either, are
    columns of the source; the last two may be None. Raises JoinKeyMissing.
    """

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
        self._column_of = {feature: column for column, feature in source.field_mapping.items()}
        self.timestamp = self.column(source.timestamp_field)
        self.created = self.column(source.created_timestamp_column) if source.created_timestamp_column else None
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
        self.whole_keys = [renamed.get(column.name, column.name) for column in view.entity_columns if _whole(column)]
        missing = [key for key in self.keys.values() if key not in entity_columns]
        if missing:
            raise JoinKeyMissing(
                f"Feature view {view.name!r} is keyed by {few(missing)}, which the entity dataframe lacks; "
                f"it has {few(sorted(entity_columns))}. Add the column(s)."
            )

    def column(self, name: str) -> str:
        """The source's column of a feature, a key or a timestamp."""
        return self._column_of.get(name, name)


def _whole(column: Field) -> bool:
    return column.dtype in (Int32, Int64)


def with_whole_keys(entities: pa.Table, plans: Sequence[ViewPlan]) -> pa.Table:
    """Entity rows with whole numbers for keys that are such: beside a null, pandas makes floats of them.

    Raises JoinKeyRounded for a float from 2**53 on: it would find the features of another key.
    """
    for name in dict.fromkeys(key for plan in plans for key in plan.whole_keys):
        values = entities.column(name)
        if not pa.types.is_floating(values.type):
            continue
        if beyond_float(values):
            raise JoinKeyRounded(
                f"The entity dataframe has floats of 2**53 and more in the column {name!r}, a key of whole numbers: "
                'pandas has rounded them. Make the column of the type "Int64" where it is read.'
            )
        if pc.all(pc.equal(values, pc.floor(values))).as_py() is not False:
            position = entities.schema.get_field_index(name)
            entities = entities.set_column(position, name, values.cast(pa.int64()))
    return entities


def absolute(source: FileSource, repo_path: str) -> str:
    """Where the source's rows are: relative paths are relative to the repository."""
    return str(FileSource.get_uri_for_file_path(repo_path=repo_path, uri=source.file_options.uri))


def pinned(source: FileSource, config: RepoConfig) -> int | None:
    """The version that `delta_versions` names for the source; None is the newest."""
    return config.offline_store.delta_versions.get(source.name)


def in_microseconds(table: pa.Table) -> pa.Table:
    """Entity rows with their timestamps in UTC microseconds: no engine compares those with nanoseconds as it should.

    As in Feast's other stores, the event timestamp may be text.
    """
    for position, column in enumerate(table.schema):
        values = table.column(position)
        if column.name == offline_utils.DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL and pa.types.is_string(column.type):
            values = pa.Array.from_pandas(pd.to_datetime(values.to_pandas(), utc=True))
        if pa.types.is_timestamp(values.type):
            table = table.set_column(position, column.name, values.cast(UTC, safe=False))
    return table
