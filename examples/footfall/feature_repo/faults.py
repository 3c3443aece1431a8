"""What can go wrong, on purpose, in a replay, so as to see which monitor notices, and when. [yours]"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pandas as pd

from fti.loop.faulty import Fault, Faults


@dataclass(frozen=True)
class CameraDown(Fault):
    """A camera counts nobody, and says so: a zero is sent for each hour."""

    sensor: str = "45 Queen Street"

    def spoil(self, table: str, events: pd.DataFrame) -> pd.DataFrame:
        if table != "counts":
            return events
        wrong = self._during(events.event_timestamp) & (events.sensor == self.sensor)
        return events.assign(people=events.people.mask(wrong, 0.0))


FAULTS: Faults = {"camera-down": (CameraDown, timedelta(days=7))}
