"""The labelled rows of a feature service: Feast and a moment in; one row a prediction, with its outcome, out.

Features are joined as of the prediction time by event timestamp; rows and labels are those learnt by `as_of`. What came
late has changed features from before it came: tables keep no row as it was, only their own earlier versions. Versions
are pinned before anything is read, table by table: while features are published, some are of before that and some of
after it, and the contract says which.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import TableNotFoundError
from feast import FeatureStore
from feast.infra.offline_stores.file_source import FileSource
from upath import UPath

from fti.contract.interface import FeatureInterface
from fti.contract.request_limits import unanswerable
from fti.contract.spine import (
    KNOWN_AT,
    PREDICTION_TIME,
    due,
    row_key_of,
    source_of,
    spine_rows,
    view_rows,
    with_features,
)
from fti.contract.task import LABEL_DTYPE
from fti.errors import Refusal
from fti.stores.frames import as_frame
from fti.stores.tables import CONTENT, TRAINING_SETS, address, tables_of
from fti.stores.upkeep import KEEP_LOG

logger = logging.getLogger("training")
LABEL_KNOWN_AT = "label_known_at"
END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)


class DataMissing(Refusal):
    """The feature store has no rows, or no table, to train on."""


@dataclass(frozen=True)
class LabelledRows:
    """`frame` has the row key, `event_timestamp` (the prediction time), `label_known_at`, the request fields, the join
    keys, the model inputs and the label, in order of prediction time and row key. Times are UTC."""

    frame: pd.DataFrame
    interface: FeatureInterface
    row_key: str

    def between(self, start: datetime, end: datetime, known_by: datetime | None = None) -> LabelledRows:
        """The rows predicted in `[start, end)` whose label was known by `known_by`, when that is given."""
        chosen = self.frame[PREDICTION_TIME].between(start, end, inclusive="left")
        if known_by is not None:
            chosen &= self.frame[LABEL_KNOWN_AT] <= known_by
        return LabelledRows(self.frame[chosen].reset_index(drop=True), self.interface, self.row_key)

    @cached_property
    def inputs(self) -> pd.DataFrame:
        return self.interface.model_inputs(self.frame)

    @property
    def labels(self) -> pd.Series:
        return self.frame[self.interface.label].astype(LABEL_DTYPE[self.interface.task])

    @cached_property
    def sha256(self) -> str:
        """A hash over every cell of key, prediction time, inputs and label. MLflow's own dataset digest skips rows."""
        content = self.inputs.assign(
            __key=self.frame[self.row_key], __at=self.frame[PREDICTION_TIME].astype("int64"), __label=self.labels
        )
        digest = hashlib.sha256(",".join(content.columns).encode())
        digest.update(pd.util.hash_pandas_object(content, index=False).to_numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.frame)


def training_sets(store: FeatureStore, feature_service: str) -> UPath:
    """The Delta table that keeps the training sets of a feature service, a version each."""
    return tables_of(Path(str(store.repo_path))) / TRAINING_SETS / feature_service


def store_rows(rows: LabelledRows, table: UPath) -> int:
    """Keep the rows as a version of a Delta table; returns its number: an earlier one's, if that has the same rows."""
    kept = _version_of(table, rows.sha256)
    if kept is not None:
        return kept
    write_deltalake(
        str(table),
        pa.Table.from_pandas(rows.frame, preserve_index=False),
        mode="overwrite",
        schema_mode="overwrite",
        configuration=KEEP_LOG,
        commit_properties=CommitProperties(custom_metadata={CONTENT: rows.sha256}),
    )
    written = _version_of(table, rows.sha256)  # the newest may be of a training that ran meanwhile
    assert written is not None, f"{table} has lost what was just written"
    return written


def stored_rows(interface: FeatureInterface, row_key: str, table: UPath, sha256: str) -> LabelledRows | None:
    """The rows with that hash, if the table has kept them."""
    version = _version_of(table, sha256)
    if version is None:
        return None
    frame = as_frame(DeltaTable(str(table), version=version).to_pyarrow_table())
    return LabelledRows(frame.sort_values([PREDICTION_TIME, row_key], ignore_index=True), interface, row_key)


def _version_of(table: UPath, sha256: str) -> int | None:
    """The version that holds the rows with that hash."""
    if not DeltaTable.is_deltatable(str(table)):
        return None
    commits = DeltaTable(str(table)).history()
    return next((int(commit["version"]) for commit in commits if commit.get(CONTENT) == sha256), None)


def pin_versions(store: FeatureStore, *interfaces: FeatureInterface) -> dict[str, int]:
    """Fix every table that the feature services read at its newest version, for this store object; returns them by
    source.

    Raises DataMissing when a table does not exist yet.
    """
    names = [
        name
        for interface in interfaces
        for name in (*(view.source for view in interface.stored_views), interface.spine_view, interface.label_view)
    ]
    versions: dict[str, int] = {}
    for name in dict.fromkeys(names):
        source = source_of(store, name)
        path = FileSource.get_uri_for_file_path(repo_path=store.repo_path, uri=source.path)
        try:
            versions[source.name] = DeltaTable(address(path)).version()
        except TableNotFoundError as error:
            raise DataMissing(
                f"Feature view {name!r} has no table at {path}. Run `make features` to build it."
            ) from error
    store.config.offline_store.delta_versions.update(versions)
    return versions


def labelled_rows(store: FeatureStore, interface: FeatureInterface, start: datetime, as_of: datetime) -> LabelledRows:
    """Rows predicted from `start` on whose label was known by `as_of`. Raises DataMissing when there are none."""
    spine, row_key = spine_rows(store, interface, as_of), row_key_of(store, interface)
    labels = view_rows(store, interface.label_view, as_of).rename(columns={KNOWN_AT: LABEL_KNOWN_AT})
    labels = labels.sort_values([row_key, LABEL_KNOWN_AT]).drop_duplicates(row_key, keep="last")
    rows = spine[spine[PREDICTION_TIME] >= start].merge(
        labels[[row_key, interface.label, LABEL_KNOWN_AT]], on=row_key, validate="one_to_one"
    )
    rows = _answerable(interface, rows)
    if rows.empty:
        raise DataMissing(
            f"No row of {interface.spine_view!r} predicted from {start:%Y-%m-%dT%H:%MZ} on has an outcome by "
            f"{as_of:%Y-%m-%dT%H:%MZ}. Choose a later as_of or an earlier start, or run `make features` for that time."
        )
    return LabelledRows(with_features(store, interface, rows, row_key), interface, row_key)


def _answerable(interface: FeatureInterface, rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out, and log, the rows that the service would refuse as requests, as batch scoring does."""
    reasons = unanswerable(interface, rows)
    for reason, count in reasons.value_counts().items():
        logger.warning("%s row(s) left out of the training set, for the service would refuse them: %s", count, reason)
    return rows[reasons.isna()]


def upcoming_request(store: FeatureStore, rows: LabelledRows, as_of: datetime) -> dict[str, Any]:
    """A request that a model of these rows can answer as of `as_of`, as JSON values: the next prediction due.

    Every field of it is known, and its categories are among those of `rows`. Raises DataMissing.
    """
    interface = rows.interface
    spine = view_rows(store, interface.spine_view, as_of)
    spine = spine[due(interface, spine) >= as_of].sort_values([interface.prediction_anchor, rows.row_key])
    fields = [field.name for field in interface.request_fields]
    usable = spine[fields].notna().all(axis=1) & unanswerable(interface, spine).isna()
    for key in interface.join_keys:
        if key.name in interface.categories:
            usable &= key.of_column(spine[key.request_field]).isin(rows.frame[key.name].dropna().unique()).astype(bool)
    whole = spine[usable]
    if whole.empty:
        raise DataMissing(
            f"{interface.spine_view!r} has no complete row to predict from {as_of:%Y-%m-%dT%H:%MZ} on. "
            "The example request of a model is taken from there: run `make features` for a later interval."
        )
    # Cell by cell: a row of whole numbers and others would be floats.
    cells = {name: whole[name].iloc[0] for name in fields}
    request = {name: cell.item() if isinstance(cell, np.generic) else cell for name, cell in cells.items()}
    return {
        name: value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
        for name, value in (request | {"as_of": as_of}).items()
    }
