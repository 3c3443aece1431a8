"""What can go wrong, on purpose, in a replay, so as to see which monitor notices, and when. [yours]"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pandas as pd

from fti.contract.spine import KNOWN_AT, source_of, view_rows
from fti.loop.faulty import Fault, Faults

if TYPE_CHECKING:
    from feast import FeatureStore


@dataclass(frozen=True)
class DelaysInHours(Fault):
    """A carrier sends its delays in hours."""

    carrier: str = "EV"

    def spoil(self, table: str, events: pd.DataFrame) -> pd.DataFrame:
        column = {"departures": "dep_delay_minutes", "arrivals": "arr_delay_minutes"}.get(table)
        if column is None:
            return events
        wrong = self._during(events.event_timestamp) & (events.carrier == self.carrier)
        return events.assign(**{column: events[column].mask(wrong, events[column] / 60)})


@dataclass(frozen=True)
class FrozenWeather(Fault):
    """The weather feed sends the same last observation again and again, so nothing new is in it."""

    def spoil(self, table: str, events: pd.DataFrame) -> pd.DataFrame:
        return events[~self._during(events.event_timestamp)] if table == "weather" else events


@dataclass(frozen=True)
class CelsiusOnline(Fault):
    """A second job writes a feature to the online store by code of its own: temperatures, in Celsius."""

    view: str = "origin_weather"
    feature: str = "origin_temperature_f"

    def spoil_online(self, store: FeatureStore, at: datetime) -> None:
        if not self.start <= at < self.end:
            return
        source, rows = source_of(store, self.view), view_rows(store, self.view, at, since=at - timedelta(hours=3))
        if rows.empty:
            return
        celsius = (rows[self.feature] - 32) / 1.8
        created = {source.created_timestamp_column: rows[KNOWN_AT]}
        wrong = rows.assign(**{self.feature: celsius}, **created).rename(columns={KNOWN_AT: source.timestamp_field})
        store.write_to_online_store(self.view, wrong)


FAULTS: Faults = {
    "delays-in-hours": (DelaysInHours, timedelta(days=7)),
    "frozen-weather": (FrozenWeather, timedelta(days=1)),
    "celsius-online": (CelsiusOnline, timedelta(days=1)),
}
