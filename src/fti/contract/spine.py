"""The rows to predict, when each is due, and their features as of then: Feast's offline store in; frames out.

Training fits to these rows and batch scoring predicts them, by this one code.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fti.contract.interface import FeatureInterface
from fti.contract.stored_code import require_checked
from fti.stores.frames import as_frame, as_whole

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.infra.offline_stores.file_source import FileSource

PREDICTION_TIME = "event_timestamp"
KNOWN_AT = "__known_at"


def row_key_of(store: FeatureStore, interface: FeatureInterface) -> str:
    """The column that tells the rows to predict apart."""
    columns = [column.name for column in store.get_feature_view(interface.spine_view).entity_columns]
    assert len(columns) == 1, f"the spine {interface.spine_view!r} needs one join key, it has {columns}"
    return columns[0]


def row_keys_of(rows: pd.DataFrame, row_key: str) -> pd.Series:
    """The row keys as text, which is how the log of predictions has them."""
    return rows[row_key].astype("string").astype(object)


def source_of(store: FeatureStore, view_name: str) -> FileSource:
    """The table of a view."""
    from feast.infra.offline_stores.file_source import FileSource

    source = store.get_feature_view(view_name).batch_source
    assert isinstance(source, FileSource), f"{view_name} is read from {type(source).__name__}; only files are versioned"
    return source


def view_rows(store: FeatureStore, view_name: str, until: datetime, since: datetime | None = None) -> pd.DataFrame:
    """Rows of a view stamped from `since` up to `until` and learnt by then: key, features and `__known_at`, their event
    timestamp."""
    return _frame(_pulled(store, view_name, until, since), source_of(store, view_name))


def view_moments(store: FeatureStore, view_name: str, since: datetime, until: datetime) -> pd.Series:
    """The event timestamps of a view's rows stamped from `since` up to `until` and learnt by then."""
    rows = _pulled(store, view_name, until, since, only_moments=True)
    return rows[source_of(store, view_name).timestamp_field].to_pandas()


def due(interface: FeatureInterface, spine: pd.DataFrame) -> pd.Series:
    """When the prediction of each row of the spine is due."""
    return spine[interface.prediction_anchor] - timedelta(minutes=interface.prediction_lead_minutes)


def spine_rows(store: FeatureStore, interface: FeatureInterface, until: datetime) -> pd.DataFrame:
    """The rows to predict that were known by `until`, one a row key: its request fields, `event_timestamp` (when the
    prediction is due) and `__known_at`. Of a restated entry, the one that was known when the prediction was due."""
    return _known_when_due(interface, view_rows(store, interface.spine_view, until), row_key_of(store, interface))


def rows_due(
    store: FeatureStore, interface: FeatureInterface, start: datetime, end: datetime, known_by: datetime | None = None
) -> pd.DataFrame:
    """Those of `spine_rows` whose prediction is due in `[start, end)`, without a frame of all the others.

    With `known_by`, as they were known then, if that is before they are due. What was learnt by then counts, even after
    `end`; without it, what was learnt by `end`.
    """
    row_key, lead = row_key_of(store, interface), timedelta(minutes=interface.prediction_lead_minutes)
    table = _pulled(store, interface.spine_view, min(end, known_by or end), learnt_by=known_by or end)
    anchors = table[interface.prediction_anchor]
    first, last = (pa.scalar(moment + lead, anchors.type) for moment in (start, end))
    asked = pc.and_(pc.greater_equal(anchors, first), pc.less(anchors, last))
    # All entries of these keys: one of them may have been restated to another time.
    table = table.filter(pc.is_in(table[row_key], pc.unique(table[row_key].filter(asked))))
    rows = _known_when_due(interface, _frame(table, source_of(store, interface.spine_view)), row_key)
    return rows[rows[PREDICTION_TIME].between(start, end, inclusive="left")]


def _pulled(
    store: FeatureStore, view_name: str, until: datetime, since: datetime | None = None, only_moments: bool = False,
    learnt_by: datetime | None = None,
) -> pa.Table:  # fmt: skip
    """Rows stamped up to `until`, without those that a late feed brought only after `learnt_by`, by default `until`.

    An event is stamped when it happened, so its stamp alone would let one that was delivered in September into what
    was known in July. Of a row that was restated late, the table does not have what it said before: it is left out.
    """
    from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

    view, source = store.get_feature_view(view_name), source_of(store, view_name)
    job = get_offline_store_from_config(store.config.offline_store).pull_all_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=[] if only_moments else [column.name for column in view.entity_columns],
        feature_name_columns=[] if only_moments else [feature.name for feature in view.features],
        timestamp_field=source.timestamp_field,
        created_timestamp_column=source.created_timestamp_column,
        start_date=since,
        end_date=until,
    )
    table = as_whole(job.to_arrow())
    learnt = table[source.created_timestamp_column]
    return table.filter(pc.less_equal(learnt, pa.scalar(learnt_by or until, learnt.type)))


def _frame(table: pa.Table, source: FileSource) -> pd.DataFrame:
    rows = as_frame(table).sort_values(source.created_timestamp_column)
    return rows.drop(columns=source.created_timestamp_column).rename(columns={source.timestamp_field: KNOWN_AT})


def _known_when_due(interface: FeatureInterface, spine: pd.DataFrame, row_key: str) -> pd.DataFrame:
    spine = spine.assign(**{PREDICTION_TIME: due(interface, spine)})
    spine = spine[spine[KNOWN_AT] <= spine[PREDICTION_TIME]]
    return spine.sort_values([row_key, KNOWN_AT]).drop_duplicates(row_key, keep="last")


def with_features(store: FeatureStore, interface: FeatureInterface, rows: pd.DataFrame, row_key: str) -> pd.DataFrame:
    """Join each row (key, request fields, `event_timestamp`) with its features as of that moment, in order of both.

    Rows that lack a view which is declared `when_missing: reject` are left out: no model is to answer for them.
    Raises ContractBroken when the registry's code is not that of the interface.
    """
    require_checked(store, interface.feature_service, interface)
    keys = {key.name: key.of_column(rows[key.request_field]) for key in interface.join_keys}
    # Not `to_df`, which is `to_pandas` of this: a null would make floats of whole numbers.
    joined = as_frame(
        store.get_historical_features(
            rows.assign(**keys).drop(columns=KNOWN_AT, errors="ignore"),
            store.get_feature_service(interface.feature_service),
            full_feature_names=interface.full_names,
        ).to_arrow()
    )
    if interface.full_names:
        joined = joined.rename(columns=_short_names(interface))
    # Stock Feast keeps no row order; the order of fitting must not depend on the store.
    return interface.settled(joined.sort_values([PREDICTION_TIME, row_key]))


def _short_names(interface: FeatureInterface) -> dict[str, str]:
    """What the model calls each feature, by the full name that Feast gives it."""
    return {
        f"{view.name}__{feature}": name for view in interface.stored_views for name, feature in view.stored.items()
    } | {f"{view.name}__{name}": name for view in interface.on_demand_views for name in view.features}
