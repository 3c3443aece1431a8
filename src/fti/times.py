"""Times: as the command lines and configuration files spell them, and as intervals."""

from collections.abc import Iterable
from datetime import UTC, datetime


def utc(text: str) -> datetime:
    """Parse an ISO 8601 date or moment; one without an offset is UTC. Raises ValueError saying what was expected."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a moment; expected ISO 8601 such as 2013-10-01 or 2013-10-01T02:00Z"
        ) from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def union(intervals: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """The same moments in as few intervals as possible, in order: those that overlap or meet become one."""
    merged: list[tuple[datetime, datetime]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
