"""When an online row was so, and when that was learnt, as numbers that are in order of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# A row without a created timestamp counts as created before all others of its event timestamp.
NEVER_CREATED = -(2**63)

Stamp = tuple[int, int]  # event and created timestamp, microseconds since 1970 in UTC


def stamp_of(event: datetime, created: datetime | None) -> Stamp:
    """The stamp of a row; naive timestamps are UTC."""
    return microseconds(event), microseconds(created) if created else NEVER_CREATED


def microseconds(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // MICROSECOND
