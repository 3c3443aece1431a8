"""Raw events in, feature rows out, as ibis expressions: DuckDB on one machine, Spark on many. [yours]

Every stored feature is computed here and nowhere else, of the parts in windows.py.
"""

from __future__ import annotations

from collections.abc import Callable

import ibis
from ibis import _
from ibis.expr.types import Table

from fti.features.windows import (
    DAY,
    HOUR,
    MINUTE,
    ROSTER,
    FeatureTable,
    Interval,
    Tables,
    cell_end,
    counted,
    passed_on,
    ratio,
    seconds,
    stamped,
    union_counts,
    windowed,
    within,
)

QUARTER_HOUR = 15 * MINUTE
CONGESTION = {"1h": HOUR, "3h": 3 * HOUR}
RELIABILITY = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
LATE_MINUTES = 15
LONGEST_FLIGHT = DAY
# How long a flight that has not left counts as overdue: after that nobody waits for it at the gate, or the feed has
# lost it. An aircraft is waited for longer, until the feed says that its flight was cancelled.
GATE_PATIENCE, AIRCRAFT_PATIENCE = 4 * HOUR, 6 * HOUR


def waited_for(tables: Tables, keys: tuple[str, ...], grid: int, patience: int) -> Table:
    """One row a flight that should have left and at some grid point had not: overdue from `bucket` on, up to `until`.

    That ends when it leaves, when its cancellation is known and when patience is over, whichever is first. A flight
    that leaves early, or before the next grid point, was never overdue. `scheduled`, `bucket` and `until` are seconds.
    """
    schedule = tables["schedule"]
    listed = schedule.filter([schedule[key].notnull() for key in keys]).select(
        "flight_id",
        *keys,
        scheduled=seconds(schedule.scheduled_departure),
        published=cell_end(schedule.event_timestamp, grid),
        learnt=seconds(schedule.created_timestamp),
    )
    # By key too, because late events are computed for their own keys alone: a flight that left with another aircraft
    # than its schedule names is no news of this one.
    ends = [
        tables[name].select("flight_id", *keys, gone=cell_end(tables[name].event_timestamp, grid))
        for name in ("departures", "cancellations")
    ]
    ended = ibis.union(*ends).group_by(["flight_id", *keys]).agg(gone=_.gone.min())
    joined = listed.left_join(ended, ["flight_id", *keys])
    due = (joined.scheduled // grid) * grid + grid
    # Entries are looked back for as long as the roster: one that came out earlier would count or not by the luck of how
    # the year is cut.
    joined = joined.filter(due + patience - joined.published <= ROSTER)
    flights = joined.select(
        *keys,
        "scheduled",
        "learnt",
        bucket=ibis.greatest(due, joined.published),
        until=ibis.least(due + patience, joined.gone.fill_null(due + patience)),
    )
    return flights.filter(flights.bucket < flights.until)


def with_overdue(
    rows: Table, flights: Table, keys: tuple[str, ...], grid: int, patience: int, interval: Interval
) -> Table:
    """Add to `rows` how many flights are `overdue` at each: of those that `waited_for` found with the same patience."""
    steps = ibis.memtable({"step": list(range(0, patience, grid))}, schema={"step": "int64"})
    points = flights.cross_join(steps).mutate(bucket=_.bucket + _.step)
    points = within(points.filter(points.bucket < points.until), interval)
    counts = points.group_by([*keys, "bucket"]).agg(waiting=_.count())
    joined = rows.left_join(counts, [*keys, "bucket"], rname="{name}_there")
    return joined.mutate(overdue=joined.waiting.fill_null(0))


def overdue_news(flights: Table, tables: Tables, keys: tuple[str, ...], grid: int) -> Table:
    """When flights become overdue and when they no longer are, for `windowed`; departures it counts anyway."""
    edges = [flights.select(*keys, bucket=flights[edge], learnt=flights.learnt) for edge in ("bucket", "until")]
    return ibis.union(
        ibis.union(*edges).mutate(due=ibis.literal(1, "int64")),
        counted(tables["cancellations"], keys, grid).mutate(due=ibis.literal(0, "int64")),
    )


def flown(tables: Tables, keys: tuple[str, ...], grid: int) -> Table:
    """Arrivals, departures and cancellations as counts of one table."""
    arrivals, departures = tables["arrivals"], tables["departures"]
    return union_counts(
        counted(
            arrivals,
            keys,
            grid,
            landed=ibis.literal(1),
            late=arrivals.arr_delay_minutes >= LATE_MINUTES,
            delay=arrivals.arr_delay_minutes,
        ),
        counted(departures, keys, grid, left=ibis.literal(1)),
        counted(tables["cancellations"], keys, grid, cancelled=ibis.literal(1)),
    )


def reliability(prefix: str, keys: tuple[str, ...], grid: int) -> Callable[[Tables, Interval], Table]:
    def compute(tables: Tables, interval: Interval) -> Table:
        rows = windowed(flown(tables, keys, grid), keys, grid, RELIABILITY, interval, heartbeat=True)
        features = {}
        for window in RELIABILITY:
            landed, left = rows[f"landed_{window}"], rows[f"left_{window}"]
            cancelled = rows[f"cancelled_{window}"]
            features[f"{prefix}_late_rate_{window}"] = ratio(rows[f"late_{window}"], landed)
            features[f"{prefix}_cancelled_rate_{window}"] = ratio(cancelled, left + cancelled)
            features[f"{prefix}_mean_arr_delay_{window}"] = ratio(rows[f"delay_{window}"], landed)
        return stamped(rows, keys, **features)

    return compute


def departed(tables: Tables, keys: tuple[str, ...]) -> Table:
    """Departures and their delays, counted by quarters of an hour."""
    left = tables["departures"]
    return counted(left, keys, QUARTER_HOUR, left=ibis.literal(1), delay=left.dep_delay_minutes)


def mean_dep_delays(prefix: str, rows: Table) -> dict[str, ibis.Value]:
    return {f"{prefix}_mean_dep_delay_{w}": ratio(rows[f"delay_{w}"], rows[f"left_{w}"]) for w in CONGESTION}


def origin_congestion(tables: Tables, interval: Interval) -> Table:
    keys, grid = ("origin",), QUARTER_HOUR
    flights = waited_for(tables, keys, grid, GATE_PATIENCE)
    news = overdue_news(flights, tables, keys, grid)
    rows = windowed(departed(tables, keys), keys, grid, CONGESTION, interval, heartbeat=True, news=news)
    rows = with_overdue(rows, flights, keys, grid, GATE_PATIENCE, interval)
    features = {f"origin_departures_{w}": rows[f"left_{w}"] for w in CONGESTION}
    return stamped(rows, keys, **features, **mean_dep_delays("origin", rows), origin_overdue=rows.overdue)


def carrier_origin_congestion(tables: Tables, interval: Interval) -> Table:
    keys = CARRIER_ORIGIN
    rows = windowed(departed(tables, keys), keys, QUARTER_HOUR, CONGESTION, interval, heartbeat=True)
    return stamped(rows, keys, **mean_dep_delays("carrier_origin", rows))


def en_route(tables: Tables, keys: tuple[str, ...], grid: int) -> Table:
    """Flights that landed, and the delay they picked up on their way: counted once both of its ends are known."""
    arrivals, departures = tables["arrivals"], tables["departures"]
    began = departures.select(
        "flight_id",
        *keys,
        began=departures.event_timestamp,
        began_learnt=departures.created_timestamp,
        dep_delay=departures.dep_delay_minutes,
    )
    flights = arrivals.join(began, ["flight_id", *keys])
    flights = flights.filter(seconds(flights.event_timestamp) - seconds(flights.began) <= LONGEST_FLIGHT)
    flights = flights.mutate(
        event_timestamp=ibis.greatest(flights.event_timestamp, flights.began),
        created_timestamp=ibis.greatest(flights.created_timestamp, flights.began_learnt),
    )
    return counted(flights, keys, grid, flown=ibis.literal(1), picked_up=flights.arr_delay_minutes - flights.dep_delay)


def dest_arrivals(tables: Tables, interval: Interval) -> Table:
    keys, arrivals = ("dest",), tables["arrivals"]
    counts = union_counts(
        counted(arrivals, keys, HOUR, landed=ibis.literal(1), delay=arrivals.arr_delay_minutes),
        en_route(tables, keys, HOUR),
    )
    windows = {"3h": 3 * HOUR, "6h": 6 * HOUR, "24h": DAY}
    rows = windowed(counts, keys, HOUR, windows, interval, heartbeat=True)
    features = {f"dest_mean_arr_delay_{w}": ratio(rows[f"delay_{w}"], rows[f"landed_{w}"]) for w in windows}
    features |= {
        f"dest_mean_enroute_delay_{w}": ratio(rows[f"picked_up_{w}"], rows[f"flown_{w}"]) for w in ("6h", "24h")
    }
    return stamped(rows, keys, **features)


def aircraft_rotation(tables: Tables, interval: Interval) -> Table:
    keys, arrivals = ("tailnum",), tables["arrivals"]
    counts = counted(arrivals, keys, QUARTER_HOUR, landed=ibis.literal(1))
    rows = windowed(counts, keys, QUARTER_HOUR, {"24h": DAY, "48h": 2 * DAY}, interval, heartbeat=False)
    # Should a feed say that an aircraft landed twice in a quarter of an hour, the later landing counts; if at one
    # moment, the flight that was to leave later.
    order = ibis.struct({name: arrivals[name] for name in ("event_timestamp", "scheduled_departure", "flight_id")})
    cells = arrivals.group_by("tailnum", latest=cell_end(arrivals.event_timestamp, QUARTER_HOUR)).agg(
        last_arr_delay=arrivals.arr_delay_minutes.argmax(order),
        last_landing=(seconds(arrivals.event_timestamp) // MINUTE).max(),
    )
    joined = rows.left_join(cells, ["tailnum", "latest"])
    return stamped(
        joined,
        keys,
        tail_last_arr_delay=joined.last_arr_delay,
        tail_last_landing_minute=joined.last_landing,
        tail_landings_24h=joined.landed_24h,
    )


def as_listed(tables: Tables) -> Table:
    """Departures with `minutes`, their scheduled time from gate to gate; -1 where no schedule had it when it left."""
    departures, schedule = tables["departures"], tables["schedule"]
    entries = schedule.select(
        "flight_id",
        "tailnum",
        published=schedule.event_timestamp,
        entry_learnt=schedule.created_timestamp,
        minutes=(seconds(schedule.scheduled_arrival) - seconds(schedule.scheduled_departure)) // MINUTE,
    )
    flights = departures.left_join(entries, ["flight_id", "tailnum"], rname="{name}_listed")
    age = seconds(flights.event_timestamp) - seconds(flights.published)
    listed = ((flights.published <= flights.event_timestamp) & (age <= ROSTER)).fill_null(False)
    return flights.mutate(
        minutes=ibis.ifelse(listed, flights.minutes, -1),
        created_timestamp=ibis.ifelse(
            listed, ibis.greatest(flights.created_timestamp, flights.entry_learnt), flights.created_timestamp
        ),
    )


def aircraft_departures(tables: Tables, interval: Interval) -> Table:
    keys, departures = ("tailnum",), as_listed(tables)
    counts = counted(departures, keys, QUARTER_HOUR, left=ibis.literal(1))
    flights = waited_for(tables, keys, QUARTER_HOUR, AIRCRAFT_PATIENCE)
    news = overdue_news(flights, tables, keys, QUARTER_HOUR)
    rows = windowed(counts, keys, QUARTER_HOUR, {"48h": 2 * DAY}, interval, heartbeat=False, news=news)
    order = ibis.struct({name: departures[name] for name in ("event_timestamp", "scheduled_departure", "flight_id")})
    cells = departures.group_by("tailnum", latest=cell_end(departures.event_timestamp, QUARTER_HOUR)).agg(
        last_departure=(seconds(departures.event_timestamp) // MINUTE).max(),
        minutes=departures.minutes.argmax(order).nullif(-1),
    )
    rows = rows.left_join(cells, ["tailnum", "latest"], rname="{name}_left")
    rows = with_overdue(rows, flights, keys, QUARTER_HOUR, AIRCRAFT_PATIENCE, interval)
    return stamped(
        rows,
        keys,
        tail_last_departure_minute=rows.last_departure,
        tail_last_scheduled_minutes=rows.minutes,
        tail_overdue=rows.overdue,
    )


def flight_number_reliability(tables: Tables, interval: Interval) -> Table:
    keys, arrivals = ("carrier", "flight_number"), tables["arrivals"]
    counts = counted(
        arrivals,
        keys,
        DAY,
        landed=ibis.literal(1),
        late=arrivals.arr_delay_minutes >= LATE_MINUTES,
        delay=arrivals.arr_delay_minutes,
    )
    rows = windowed(counts, keys, DAY, {"30d": 30 * DAY}, interval, heartbeat=False)
    return stamped(
        rows,
        keys,
        flight_number_late_rate_30d=ratio(rows.late_30d, rows.landed_30d),
        flight_number_mean_arr_delay_30d=ratio(rows.delay_30d, rows.landed_30d),
        flight_number_landings_30d=rows.landed_30d,
    )


def origin_schedule_load(tables: Tables, interval: Interval) -> Table:
    """One row an airport and hour of departure. The schedule of an hour is published as a whole, so it has one cell."""
    schedule = tables["schedule"]
    rows = schedule.group_by(
        "origin",
        departure_hour=seconds(schedule.scheduled_departure) // HOUR,
        bucket=cell_end(schedule.event_timestamp, HOUR),
    ).agg(learnt=seconds(schedule.created_timestamp).max(), flights=_.count())
    return stamped(within(rows, interval), ("origin", "departure_hour"), origin_scheduled_departures_hour=_.flights)


def route_profile(tables: Tables, interval: Interval) -> Table:
    """One row a route and day of publication: no look at the history is needed to know a route."""
    schedule = tables["schedule"]
    rows = schedule.group_by("origin", "dest", bucket=cell_end(schedule.event_timestamp, DAY)).agg(
        learnt=seconds(schedule.created_timestamp).max(), miles=_.distance_miles.max()
    )
    return stamped(within(rows, interval), ("origin", "dest"), route_distance_miles=_.miles)


def flight_outcome(tables: Tables, interval: Interval) -> Table:
    arrivals = tables["arrivals"]
    return arrivals.select(
        "flight_id",
        "arr_delay_minutes",
        is_late=(arrivals.arr_delay_minutes >= LATE_MINUTES).cast("int64"),
        event_timestamp=arrivals.event_timestamp,
        created_timestamp=arrivals.created_timestamp,
    )


FLOWN = ("arrivals", "departures", "cancellations")
GATE = ("departures", "schedule", "cancellations")
SCHEDULE_COLUMNS = (
    "flight_id", "origin", "dest", "carrier", "flight_number", "tailnum", "scheduled_departure", "scheduled_arrival",
)  # fmt: skip
WEATHER_COLUMNS = {
    "origin": "origin",
    "origin_temperature_f": "temperature_f",
    "origin_dew_point_f": "dew_point_f",
    "origin_humidity_pct": "humidity_pct",
    "origin_wind_dir_deg": "wind_dir_deg",
    "origin_wind_speed_mph": "wind_speed_mph",
    "origin_precip_in": "precip_in",
    "origin_pressure_mb": "pressure_mb",
    "origin_visibility_mi": "visibility_mi",
}
CARRIER_ORIGIN, ROUTE = ("carrier", "origin"), ("origin", "dest")

# Every published table, in the order it is published. An on-change view looks a grid cell further back than its longest
# window: the event whose leaving is news may have happened at the beginning of its cell. What reads the schedule looks
# back at least as far as that is published ahead, and what pairs landings with departures a flight further.
FEATURE_TABLES = {
    "origin_congestion": FeatureTable(("origin",), GATE, origin_congestion, ROSTER),
    "origin_weather": FeatureTable(("origin",), ("weather",), passed_on("weather", **WEATHER_COLUMNS), closed="left"),
    "carrier_origin_reliability": FeatureTable(
        CARRIER_ORIGIN, FLOWN, reliability("carrier_origin", CARRIER_ORIGIN, HOUR), ROSTER
    ),
    "carrier_origin_congestion": FeatureTable(CARRIER_ORIGIN, ("departures",), carrier_origin_congestion, ROSTER),
    "route_reliability": FeatureTable(ROUTE, FLOWN, reliability("route", ROUTE, 6 * HOUR), ROSTER),
    "route_profile": FeatureTable(ROUTE, ("schedule",), route_profile, DAY),
    "dest_arrivals": FeatureTable(("dest",), ("arrivals", "departures"), dest_arrivals, ROSTER + LONGEST_FLIGHT),
    "aircraft_rotation": FeatureTable(("tailnum",), ("arrivals",), aircraft_rotation, 2 * DAY + QUARTER_HOUR),
    "aircraft_departures": FeatureTable(("tailnum",), GATE, aircraft_departures, ROSTER + 2 * DAY + QUARTER_HOUR),
    "aircraft_profile": FeatureTable(
        ("tailnum",),
        ("aircraft",),
        passed_on("aircraft", tailnum="tailnum", tail_seats="seats", tail_year_built="year_built"),
        closed="left",
    ),
    "flight_number_reliability": FeatureTable(
        ("carrier", "flight_number"), ("arrivals",), flight_number_reliability, 30 * DAY + DAY
    ),
    "origin_schedule_load": FeatureTable(("origin", "departure_hour"), ("schedule",), origin_schedule_load, HOUR),
    "flight_schedule": FeatureTable(
        ("flight_id",),
        ("schedule",),
        passed_on("schedule", **{name: name for name in SCHEDULE_COLUMNS}),
        closed="left",
    ),
    "flight_outcome": FeatureTable(("flight_id",), ("arrivals",), flight_outcome, closed="left"),
}
