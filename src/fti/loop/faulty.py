"""A source and an online store with faults: what `faults.py` says goes wrong, and until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pandas as pd

from fti.errors import Refusal
from fti.features.source import EventSource
from fti.times import utc

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


# By the names that the command line takes, with how long each lasts.
Faults = Mapping[str, tuple[type[Fault], timedelta]]


def fault_of(text: str, faults: Faults) -> Fault:
    """`NAME@DATE` as a fault from that day on. Raises FaultUnknown, and ValueError for a date that is none."""
    name, _, day = text.partition("@")
    if name not in faults or not day:
        raise FaultUnknown(f"{text!r} is no fault: give NAME@DATE, with one of {', '.join(faults) or 'none'}.")
    kind, length = faults[name]
    return kind(utc(day), utc(day) + length)


class FaultySource(EventSource):
    """The source, with faults. `now` is how far the replay has come: at a fault's end its events are put right."""

    def __init__(self, source: EventSource, faults: list[Fault]) -> None:
        super().__init__(source.files)
        self._source = source
        self._faults = faults
        self.now: datetime | None = None

    def read_all(self) -> dict[str, pd.DataFrame]:
        return self._source.read_all()

    def between(self, table: str, start: datetime, end: datetime) -> pd.DataFrame:
        events = self._source.between(table, start, end)
        for fault in self._faults:
            if self.now is None or self.now < fault.end:
                events = fault.spoil(table, events)
        return events.reset_index(drop=True)
