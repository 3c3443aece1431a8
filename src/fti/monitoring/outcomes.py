"""What became of predictions: batches of them and a moment in; the label of each that is known by then, out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from fti.contract.interface import FeatureInterface
from fti.contract.on_demand import ARROW
from fti.contract.spine import KNOWN_AT, PREDICTION_TIME, row_key_of, row_keys_of, rows_due, view_rows
from fti.monitoring.logged import Logged
from fti.stores.delta import connect, quote
from fti.stores.frames import COLUMN_TYPES

if TYPE_CHECKING:
    from feast import FeatureStore

ROW, ROW_KEY, SPINE = "__row", "__row_key", "__spine"


class Outcomes:
    """The labels that are known by a moment.

    A batch has logged the row key. The request of an online prediction is looked for in the spine: by all of its
    fields, and where two rows of the spine have them, neither is taken.
    """

    def __init__(self, store: FeatureStore, batches: Sequence[Logged], known_by: datetime) -> None:
        """Read the labels and the part of the spine that `batches`, in order of their moments, need."""
        self._interface = interface = batches[0].contract.interface
        row_key = row_key_of(store, interface)
        self._spine = _spine(store, interface, batches, row_key, known_by)
        # What happened is not known before it was asked about.
        known = view_rows(store, interface.label_view, known_by, since=batches[0].requests[PREDICTION_TIME].min())
        known = known.sort_values(KNOWN_AT).drop_duplicates(row_key, keep="last")
        self._labels = known[interface.label].astype("float64").set_axis(row_keys_of(known, row_key))

    def of(self, served: Logged) -> pd.Series:
        """The label of each prediction, NaN where it is not known."""
        keys = served.row_keys.astype(object)
        if self._spine is not None and (unnamed := keys.isna()).any():
            keys = keys.mask(unnamed, self._spine.keys_of(served.requests[unnamed]))
        return keys.map(self._labels).astype("float64")


def _spine(
    store: FeatureStore, interface: FeatureInterface, batches: Sequence[Logged], row_key: str, known_by: datetime
) -> Spine | None:
    """The rows that predictions without a row key may be of; None where there are no such predictions."""
    unnamed = [one.requests.loc[one.row_keys.isna(), interface.prediction_anchor].dropna() for one in batches]
    anchors = [moments for moments in unnamed if len(moments)]
    if not anchors:
        return None
    lead = timedelta(minutes=interface.prediction_lead_minutes)
    first = min(moments.min() for moments in anchors).to_pydatetime() - lead
    last = max(moments.max() for moments in anchors).to_pydatetime() - lead
    spine = rows_due(store, interface, first, last + timedelta(microseconds=1), known_by)
    return Spine(interface, spine, row_keys_of(spine, row_key))


class Spine:
    """Rows of the spine by their request fields, each of which a request has to have in common with its row.

    A number is the same in whatever type a table has it, and a field without a value is one without a value.
    """

    def __init__(self, interface: FeatureInterface, rows: pd.DataFrame, keys: pd.Series) -> None:
        self._interface, self._con = interface, connect()
        self._names = [field.name for field in interface.request_fields]
        self._con.register("__rows", _typed(interface, rows).append_column(ROW_KEY, pa.array(keys, pa.string())))
        columns = ", ".join(map(quote, self._names))
        self._con.execute(
            f"CREATE TEMP TABLE {SPINE} AS SELECT {columns}, any_value({ROW_KEY}) AS {ROW_KEY} FROM __rows "
            f"GROUP BY {columns} HAVING count(*) = 1"
        )
        self._con.unregister("__rows")

    def keys_of(self, requests: pd.DataFrame) -> pd.Series:
        """The key of the one row that has all fields of a request; None where there is none, or are several."""
        asked = _typed(self._interface, requests).append_column(ROW, pa.array(np.arange(len(requests))))
        self._con.register("__asked", asked)
        same = " AND ".join(f"a.{quote(name)} IS NOT DISTINCT FROM s.{quote(name)}" for name in self._names)
        found = self._con.sql(
            f"SELECT s.{ROW_KEY} FROM __asked a LEFT JOIN {SPINE} s ON {same} ORDER BY a.{ROW}"
        ).to_arrow_table()
        return found.column(ROW_KEY).to_pandas().astype(object).set_axis(requests.index)


def _typed(interface: FeatureInterface, rows: pd.DataFrame) -> pa.Table:
    """The request fields of each row, in the types of the contract."""
    columns = {}
    for field in interface.request_fields:
        kind = COLUMN_TYPES.get(field.dtype)
        values = rows[field.name].astype(kind) if kind else rows[field.name]
        columns[field.name] = pa.array(values, ARROW[field.dtype], from_pandas=True)
    return pa.table(columns)
