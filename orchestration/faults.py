"""What can go wrong, on purpose: faults to live through in a replay, so as to see which monitor notices, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pandas as pd

from feature_repo.pipeline.ingest import FlightEvents, RawFiles
from validation.errors import Refusal
from validation.spine import KNOWN_AT, source_of, view_rows
from validation.times import utc

if TYPE_CHECKING:
    from feast import FeatureStore


class FaultUnknown(Refusal):
    """There is no such fault."""


@dataclass(frozen=True)
class Fault:
    """A fault of `[start, end)`. The source is put right at `end`; what was landed before stays as it landed."""

    start: datetime
    end: datetime

    def spoil(self, table: str, events: pd.DataFrame) -> pd.DataFrame:  # noqa: ARG002 - others look at it
        """The events of a raw table as the source delivers them during the fault."""
        return events

    def spoil_online(self, store: FeatureStore, at: datetime) -> None:
        """What happens to the online store behind everybody's back, once it was filled as of a moment."""

    def _during(self, moments: pd.Series) -> pd.Series:
        return (moments >= self.start) & (moments < self.end)


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


# By the names that the command line takes, with how long each lasts.
FAULTS: dict[str, tuple[type[Fault], timedelta]] = {
    "delays-in-hours": (DelaysInHours, timedelta(days=7)),
    "frozen-weather": (FrozenWeather, timedelta(days=1)),
    "celsius-online": (CelsiusOnline, timedelta(days=1)),
}


def fault_of(text: str) -> Fault:
    """`NAME@DATE` as a fault from that day on. Raises FaultUnknown, and ValueError for a date that is none."""
    name, _, day = text.partition("@")
    if name not in FAULTS or not day:
        raise FaultUnknown(f"{text!r} is no fault: give NAME@DATE, with one of {', '.join(FAULTS)}.")
    kind, length = FAULTS[name]
    return kind(utc(day), utc(day) + length)


class FaultySource(FlightEvents):
    """The source, with faults. `now` is how far the replay has come: at a fault's end its events are put right."""

    def __init__(self, files: RawFiles, faults: list[Fault]) -> None:
        super().__init__(files)
        self._faults = faults
        self.now: datetime | None = None

    def between(self, table: str, start: datetime, end: datetime) -> pd.DataFrame:
        events = super().between(table, start, end)
        for fault in self._faults:
            if self.now is None or self.now < fault.end:
                events = fault.spoil(table, events)
        return events.reset_index(drop=True)
