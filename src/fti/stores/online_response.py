"""Feast's online response as a frame of exact types: the same column offline and online."""

from __future__ import annotations

import pandas as pd
from feast.online_response import OnlineResponse

from fti.stores.frames import COLUMN_TYPES


class ExactResponse(OnlineResponse):
    """An online response of which `to_df` has the types of the offline store's frames, and rounds no whole number."""

    def to_df(self, include_event_timestamps: bool = False) -> pd.DataFrame:
        """Return a column a feature and key, of its declared type, or of that of its values where none is declared."""
        columns = self.to_dict(include_event_timestamps)
        kinds = {name: kind.name.lower() for name, kind in self._feature_types.items() if name in columns}
        for name, vector in zip(self.proto.metadata.feature_names.val, self.proto.results, strict=True):
            found = {value.WhichOneof("val") for value in vector.values} - {None}
            if name not in kinds and len(found) == 1:
                kinds[name] = found.pop().removesuffix("_val")
        return pd.DataFrame(
            {
                name: pd.Series(values, dtype=COLUMN_TYPES[kinds[name]]) if kinds.get(name) in COLUMN_TYPES else values
                for name, values in columns.items()
            }
        )
