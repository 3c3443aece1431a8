"""What is online of what should be: Feast in; of each view, how many keys the online store lacks, out.

A server that was restarted empty, or from an old copy, is seen here before anybody asks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pandas as pd

from fti.contract.spine import KNOWN_AT, view_rows

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

SAMPLE_KEYS = 100  # a view, the same ones each time


@dataclass(frozen=True)
class Presence:
    """Of so many sampled `keys` of a view, those that have no row online, and those whose row is an older one."""

    view: str
    keys: int
    absent: int
    older: int

    @property
    def lost_share(self) -> float | None:
        """None, where no row is to be online."""
        return (self.absent + self.older) / self.keys if self.keys else None


def presence(store: FeatureStore, as_of: datetime) -> list[Presence]:
    """Compare the newest offline rows as of a moment, or of what each view was materialized to, with those online.

    Rows beyond their view's ttl are of no use, and not looked for. Raises what the online store raises.
    """
    return [
        _presence(store, view, min(as_of, view.most_recent_end_time))
        for view in sorted(store.list_feature_views(), key=lambda view: str(view.name))
        if view.online and view.most_recent_end_time is not None
    ]


def _presence(store: FeatureStore, view: FeatureView, until: datetime) -> Presence:
    keys = list(view.join_keys)
    rows = view_rows(store, view.name, until, until - view.ttl if view.ttl else None)
    rows = rows.sort_values(KNOWN_AT).drop_duplicates(keys, keep="last")
    rows = rows.loc[pd.util.hash_pandas_object(rows[keys], index=False).nsmallest(SAMPLE_KEYS).index]
    if rows.empty:
        return Presence(view.name, 0, 0, 0)
    feature = view.features[0].name
    asked = {key: rows[key].astype(object).where(rows[key].notna(), None).tolist() for key in keys}
    found = store.get_online_features([f"{view.name}:{feature}"], asked).proto
    (column,) = (
        one for name, one in zip(found.metadata.feature_names.val, found.results, strict=True) if name == feature
    )
    # Feast says 1970 for a row that is not there.
    online = pd.to_datetime([one.ToNanoseconds() for one in column.event_timestamps], utc=True)
    absent = online.year == 1970
    older = ~absent & (online < rows[KNOWN_AT].dt.floor("us").to_numpy())
    return Presence(view.name, len(rows), int(absent.sum()), int(older.sum()))
