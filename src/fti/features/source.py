"""What every source adapter is made of: files of an installed package, and events handed out by interval."""

from __future__ import annotations

import importlib.metadata
import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pyarrow as pa

from fti.errors import Refusal, few
from fti.project import project
from fti.stores.landed import Landed
from fti.times import utc

MOMENT = pa.timestamp("us", tz="UTC")
# The columns of every raw table beside its own: when its facts were knowable, and when they were learnt.
STAMPS = {"event_timestamp": MOMENT, "created_timestamp": MOMENT}


def raw_schemas(columns: Mapping[str, Mapping[str, pa.DataType]]) -> dict[str, pa.Schema]:
    """The schema of each raw table, from its own columns: declared, for a first batch may have none or only nulls."""
    return {table: pa.schema(list((dict(own) | STAMPS).items())) for table, own in columns.items()}


UNREADABLE = (
    OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, pd.errors.ParserWarning,
)  # fmt: skip


class SourceError(Refusal):
    """A raw file is missing, unreadable or lacks a column."""


@dataclass(frozen=True)
class PackageFiles:
    """Raw CSV files, found in `directory` or, by default, in the installed `package`; cells are read as `types` say.

    An empty cell is missing, and so is one of the texts in `missing`: what the files write where they know nothing.
    Any other text is a value, be it `null` or `None`.
    """

    directory: Path | None = None
    package: ClassVar[str]
    types: ClassVar[Mapping[str, str]]
    missing: ClassVar[Collection[str]] = ()

    def read(self, name: str, columns: list[str]) -> pd.DataFrame:
        """Read one file, all `columns` present and of their type. Raises SourceError."""
        path = self._locate(name)
        try:
            with warnings.catch_warnings():
                # Values beyond the header's last name: an error, but for the empty one of a comma at the end of lines.
                warnings.simplefilter("error", pd.errors.ParserWarning)
                frame = pd.read_csv(
                    path, dtype=dict(self.types), index_col=False, keep_default_na=False, na_values=["", *self.missing]
                )
        except UNREADABLE as error:
            raise SourceError(
                f"Raw file {path} cannot be read ({type(error).__name__}: {error}). {self._mend}"
            ) from error
        missing = [column for column in columns if column not in frame.columns]
        if missing:
            raise SourceError(
                f"Raw file {path} lacks the column(s) {few(missing)}; found {few(frame.columns)}. "
                f"Use the {self.package} that uv.lock names, or map the new names in feature_repo/source.py."
            )
        return frame[columns]

    @property
    def _mend(self) -> str:
        return f"Mend it or, if it is the package's own, reinstall that: `uv pip install --reinstall {self.package}`."

    def _locate(self, name: str) -> Path:
        if self.directory is not None:
            path = self.directory / name
        else:
            try:
                files = importlib.metadata.files(self.package) or []
            except importlib.metadata.PackageNotFoundError as error:
                raise SourceError(f"The package {self.package} is not installed. Run `make setup`.") from error
            path = next((Path(str(file.locate())) for file in files if file.name == name), Path(name))
        if not path.exists():
            raise SourceError(f"Raw file {path} is missing. {self._mend}")
        return path


class EventSource:
    """Every event of a source, read and stamped once, handed out by interval."""

    reads: ClassVar[type[PackageFiles]]

    def __init__(self, files: PackageFiles | None = None) -> None:
        self.files = files or self.reads()

    def read_all(self) -> dict[str, pd.DataFrame]:
        """The events of every raw table, in the order of their keys, with both timestamps. Raises SourceError."""
        raise NotImplementedError

    def between(self, table: str, start: datetime, end: datetime) -> pd.DataFrame:
        """The events of `table` with `start` <= event timestamp < `end`, in order of time and key.

        An event without a timestamp belongs to every interval: the gate holds it, and nobody overlooks it.
        """
        events = self._all[table]
        stamp = events.event_timestamp
        chosen = events[(stamp >= start) & (stamp < end) | stamp.isna()]
        return chosen.sort_values("event_timestamp", kind="stable", ignore_index=True)

    @cached_property
    def _all(self) -> dict[str, pd.DataFrame]:
        return self.read_all()


def reach() -> Landed:
    """Return from when to when the project's source may have events, by what it says of itself; never in the future."""
    source = project().source
    last = max(utc(source.END), *source.COMPLETE_UNTIL.values())
    return Landed(utc(source.START), min(last, datetime.now(UTC)))


def stamped(events: pd.DataFrame, event_timestamp: pd.Series) -> pd.DataFrame:
    """Add both timestamps, for a source that delivers an event the moment it is knowable."""
    stamp = event_timestamp.astype("datetime64[us, UTC]")
    return events.assign(event_timestamp=stamp, created_timestamp=stamp)


def learnt(event_timestamp: pd.Series, received_at: datetime) -> pd.Series:
    """When events were learnt that were received then: nobody learns of an event before it happened."""
    return event_timestamp.mask(event_timestamp < received_at, pd.Timestamp(received_at))
