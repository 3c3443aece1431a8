"""What the offline stores with a point-in-time join share: which rows a view wants joined, and what becomes of them.

Feature views and feature references come in, a plan a view; a query that has not run yet, a retrieval job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

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
from feast.types import Int32, Int64

from fti.errors import few
from fti.stores.delta import exists
from fti.stores.frames import as_frame, beyond_float
from fti.stores.on_demand_code import offline
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
        named_by: Sequence[str] = (),
    ) -> None:
        """`named_by` are the columns that tell the rows of the answer apart."""
        super().__init__()
        self._query = query
        self._repo_path = repo_path
        self._on_demand_feature_views = [offline(view, named_by) for view in on_demand_feature_views or []]
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


def naming(plans: Sequence[ViewPlan], timestamp: str) -> list[str]:
    """The columns of the entity dataframe that tell its rows apart, as far as views know them."""
    return [*dict.fromkeys(key for plan in plans for key in plan.keys.values()), timestamp]


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
