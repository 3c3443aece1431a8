"""Times: as the command lines and configuration files spell them, and as intervals."""

import argparse
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

# What every part of the way can hold: slots are counted from 1970, and a nanosecond in pandas ends in 2262.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)
YEARS = f"between the years {EARLIEST.year} and {LATEST.year - 1}"
LONGEST = timedelta(days=36_525)


def utc(text: str) -> datetime:
    """Parse an ISO 8601 date or moment; one without an offset is UTC. Raises ValueError saying what was expected."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a moment; expected ISO 8601 such as 2013-10-01 or 2013-10-01T02:00Z"
        ) from error
    except OverflowError as error:  # an offset that leads out of the years 1 to 9999
        raise ValueError(f"{text!r} is out of range; expected a moment {YEARS}") from error
    if not EARLIEST <= moment < LATEST:
        raise ValueError(f"{text!r} is out of range; expected a moment {YEARS}")
    return moment


def moment(text: str) -> datetime:
    """`utc`, as a type of argparse, which hides the message of a ValueError."""
    try:
        return utc(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def length(least: float, unit: timedelta, fractions: bool = False) -> Callable[[str], float]:
    """Return a type of argparse: a number of units, `least` or more and together no longer than LONGEST."""
    most = LONGEST / unit

    def number(text: str) -> float:
        try:
            value = float(text) if fractions else int(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            kind = "number" if fractions else "whole number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {kind} from {least:g} to {most:,.0f}")
        return value

    return number


def union(intervals: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """The same moments in as few intervals as possible, in order: those that overlap or meet become one."""
    merged: list[tuple[datetime, datetime]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
