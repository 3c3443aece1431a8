"""From when to when raw events have landed: the moments that a command may be asked to look at.

The log of a Delta table says of each file its first and last event, so that no row is read to know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from deltalake.exceptions import DeltaError
from upath import UPath

from fti.errors import Refusal, one_line
from fti.stores.delta import connect, create_view, open_table
from fti.stores.tables import tables_in, tables_of

# A weekend without events: a moment so long after the newest one is still taken for one that was meant.
SILENCE = timedelta(days=3)
FIRST, LAST = "min.event_timestamp", "max.event_timestamp"


class NotLanded(Refusal):
    """A moment is outside of the time of which anything has landed."""


class TablesUnreadable(Refusal):
    """The place of the tables does not answer, or may not be read."""


class Landed(NamedTuple):
    """The first and the newest event of all raw tables."""

    first: datetime
    last: datetime


def landed(tables: UPath) -> Landed | None:
    """Return the range of the raw tables' event timestamps, UTC, or None where no raw event has landed.

    Raises TableCorrupt, TablesUnreadable.
    """
    try:
        ranges = [moments_of(tables / "raw" / name) for name in tables_in(tables / "raw")]
    except (OSError, DeltaError) as error:
        raise TablesUnreadable(
            f"The raw tables in {tables} cannot be read ({type(error).__name__}: {one_line(error)}). Nothing was read "
            "or written. Check that this is their place (FTI_TABLES), that it answers, and that you may read it."
        ) from error
    found = [one for one in ranges if one is not None]
    return Landed(min(one.first for one in found), max(one.last for one in found)) if found else None


def require_landed(
    repo: Path, moments: Mapping[str, datetime | None], force: bool = False, source: Landed | None = None
) -> None:
    """Refuse moments, by what the caller names them, that are outside of what has landed in a repository's tables.

    `source` widens the range by what can still be landed. Nothing at all has landed: only the future is refused. With
    `force` every moment passes. Raises NotLanded, TableCorrupt, TablesUnreadable.
    """
    asked = {name: moment for name, moment in moments.items() if moment is not None}
    if force or not asked:
        return
    known = [one for one in (landed(tables_of(repo)), source) if one is not None]
    if not known:
        require_past(asked)
        return
    first, last = min(one.first for one in known), max(one.last for one in known)
    for name, moment in asked.items():
        if not first <= moment <= last + SILENCE:
            side = "before" if moment < first else "after"
            can = "has landed, or can," if source else "has landed"
            raise NotLanded(
                f"{name} is {moment:%Y-%m-%dT%H:%MZ}, {side} what {can} in {tables_of(repo)}: events from "
                f"{first:%Y-%m-%dT%H:%MZ} to {last:%Y-%m-%dT%H:%MZ}, and up to {SILENCE.days} days of silence after. "
                "Nothing was read or written. Correct it, or land that time first: `make ingest publish`."
            )


def require_past(moments: Mapping[str, datetime | None]) -> None:
    """Refuse moments that this machine's clock has not reached. Raises NotLanded."""
    now = datetime.now(UTC)
    for name, moment in moments.items():
        if moment is not None and moment > now + timedelta(minutes=5):
            raise NotLanded(
                f"{name} is {moment:%Y-%m-%dT%H:%MZ}, which is yet to come: it is {now:%Y-%m-%dT%H:%MZ}. Nothing was "
                "read or written. Correct it, or this machine's clock."
            )


def moments_of(path: UPath) -> Landed | None:
    """Return a table's first and newest event timestamp, or None where it has no row.

    The log says so of each file; where it does not say it of every one, the rows are read.
    """
    actions = pa.table(open_table(path).get_add_actions(flatten=True))
    if not actions.num_rows:
        return None
    if {FIRST, LAST} <= {*actions.column_names} and not actions[FIRST].null_count + actions[LAST].null_count:
        first, last = min(actions[FIRST].to_pylist()), max(actions[LAST].to_pylist())
    else:
        con = connect()
        create_view(con, "__rows", path)
        first, last = con.execute("SELECT min(event_timestamp), max(event_timestamp) FROM __rows").fetchall()[0]
    return None if first is None else Landed(first, last)
