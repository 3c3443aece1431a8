"""The stored features: what each one is, its unit, its window and where it comes from. [yours]

Windows are half-open and end at the row's event timestamp: a row stamped 14:00 with a `1h` feature summarises
[13:00, 14:00). `grid` is the distance between two rows of a key. A view with a row at each grid point has them until
30 days after a key's last event. The ttl is the longest time a row may be used after its event timestamp, offline and
online alike; 0 means it never expires.
"""

from datetime import timedelta

from entities import carrier, departure_hour, dest, flight, flight_number, origin, tailnum
from feast import FeatureView, Field
from feast.types import Float64, Int64, String, UnixTimestamp

from fti.features.declare import delta_source, field

OWNER = "feature-team@example.org"
CONGESTION_WINDOWS = ("1h", "3h")
RELIABILITY_WINDOWS = ("1d", "7d", "30d")


def reliability_fields(prefix: str, who: str) -> list[Field]:
    """Late rate, cancelled rate and mean arrival delay over each reliability window; null where no flight counts."""
    fields = []
    for window in RELIABILITY_WINDOWS:
        fields += [
            field(
                f"{prefix}_late_rate_{window}",
                Float64,
                f"Share of the flights {who} that landed in the last {window} 15 or more minutes late.",
                "ratio",
                window=window,
            ),
            field(
                f"{prefix}_cancelled_rate_{window}",
                Float64,
                f"Share of the flights {who} cancelled, of those that left or were cancelled in the last {window}.",
                "ratio",
                window=window,
            ),
            field(
                f"{prefix}_mean_arr_delay_{window}",
                Float64,
                f"Mean arrival delay of the flights {who} that landed in the last {window}; early is negative.",
                "minutes",
                window=window,
            ),
        ]
    return fields


def mean_dep_delay_fields(prefix: str, who: str) -> list[Field]:
    """Mean departure delay over each congestion window."""
    return [
        field(
            f"{prefix}_mean_dep_delay_{window}",
            Float64,
            f"Mean departure delay of the flights {who} that left in the last {window}; early is negative.",
            "minutes",
            window=window,
        )
        for window in CONGESTION_WINDOWS
    ]


def overdue_field(prefix: str, who: str, window: str) -> Field:
    """Flights that should have left within the window and neither did nor are known to be cancelled."""
    text = f"Flights {who} that were to leave in the last {window}, but have not and are not known to be cancelled."
    return field(f"{prefix}_overdue", Int64, text, "flights", window=window)


origin_congestion = FeatureView(
    name="origin_congestion",
    entities=[origin],
    ttl=timedelta(hours=1),
    schema=[
        field(f"origin_departures_{w}", Int64, f"Flights that left the airport in the last {w}.", "flights", window=w)
        for w in CONGESTION_WINDOWS
    ]
    + mean_dep_delay_fields("origin", "from this airport")
    + [overdue_field("origin", "from this airport", "4h")],
    source=delta_source("origin_congestion", "Departures, and the schedule they are missing from, every 15 minutes."),
    description="How busy and how late the departure airport has just been. A row every 15 minutes, until 30 days "
    "after the airport's last departure; a mean without a departure is null.",
    owner=OWNER,
    tags={
        "grid": "15min",
        "source": "departures, schedule, cancellations",
        "missing": "no recent departures known for this airport",
    },
)

origin_weather = FeatureView(
    name="origin_weather",
    entities=[origin],
    # An observation an hour; three missed ones and the weather is unknown, not "as it was".
    ttl=timedelta(hours=3),
    schema=[
        field("origin_temperature_f", Float64, "Air temperature.", "degrees Fahrenheit"),
        field("origin_dew_point_f", Float64, "Dew point.", "degrees Fahrenheit"),
        field("origin_humidity_pct", Float64, "Relative humidity.", "percent"),
        field("origin_wind_dir_deg", Float64, "Direction the wind comes from.", "degrees"),
        field("origin_wind_speed_mph", Float64, "Wind speed.", "miles per hour"),
        field("origin_precip_in", Float64, "Precipitation of the hour.", "inches"),
        field("origin_pressure_mb", Float64, "Sea level pressure.", "millibars"),
        field("origin_visibility_mi", Float64, "Visibility.", "miles"),
    ],
    source=delta_source("origin_weather", "Hourly observations, stamped at the end of their hour."),
    description="The latest weather observation at the departure airport.",
    owner=OWNER,
    tags={"grid": "1h", "source": "weather", "missing": "no weather observation known for this airport"},
)

carrier_origin_reliability = FeatureView(
    name="carrier_origin_reliability",
    entities=[carrier, origin],
    ttl=timedelta(hours=6),
    schema=reliability_fields("carrier_origin", "of the carrier from this airport"),
    source=delta_source("carrier_origin_reliability", "Arrivals, departures and cancellations, every hour."),
    description="How reliable the carrier has been at the departure airport. A row every hour, until 30 days after its "
    "last flight there; a share or mean of no flight is null.",
    owner=OWNER,
    tags={"grid": "1h", "source": "arrivals, departures, cancellations", "missing": "carrier not seen at this airport"},
)

carrier_origin_congestion = FeatureView(
    name="carrier_origin_congestion",
    entities=[carrier, origin],
    ttl=timedelta(hours=1),
    schema=mean_dep_delay_fields("carrier_origin", "of the carrier from this airport"),
    source=delta_source("carrier_origin_congestion", "Departure events, summarised every 15 minutes."),
    description="How late the carrier has just been at the departure airport. A row every 15 minutes, until 30 days "
    "after its last departure there; a mean without a departure is null.",
    owner=OWNER,
    tags={
        "grid": "15min",
        "source": "departures",
        "missing": "no recent departures of the carrier known at this airport",
    },
)

route_reliability = FeatureView(
    name="route_reliability",
    entities=[origin, dest],
    ttl=timedelta(days=1),
    schema=reliability_fields("route", "on this route"),
    source=delta_source("route_reliability", "Arrivals, departures and cancellations, every six hours."),
    description="How reliable the route has been. A row every six hours, until 30 days after its last flight; a share "
    "or mean of no flight is null.",
    owner=OWNER,
    tags={"grid": "6h", "source": "arrivals, departures, cancellations", "missing": "route not flown lately"},
)

route_profile = FeatureView(
    name="route_profile",
    entities=[origin, dest],
    ttl=timedelta(0),
    schema=[
        field(
            "route_distance_miles",
            Float64,
            "Great-circle distance flown: the greatest that the schedule entries of one day say, where they differ.",
            "miles",
        )
    ],
    source=delta_source("route_profile", "What each day's schedule entries say of a route."),
    description="What does not change about a route.",
    owner=OWNER,
    tags={"grid": "none", "source": "schedule", "missing": "unknown route"},
)

dest_arrivals = FeatureView(
    name="dest_arrivals",
    entities=[dest],
    ttl=timedelta(hours=3),
    schema=[
        field(
            f"dest_mean_arr_delay_{w}",
            Float64,
            f"Mean arrival delay of the flights from New York that landed there in the last {w}; early is negative.",
            "minutes",
            window=w,
        )
        for w in ("3h", "6h", "24h")
    ]
    + [
        field(
            f"dest_mean_enroute_delay_{w}",
            Float64,
            "Mean of arrival less departure delay of the flights from New York that landed there in the last "
            f"{w}: the day's winds, and queues on the way; time made up is negative.",
            "minutes",
            window=w,
        )
        for w in ("6h", "24h")
    ],
    source=delta_source("dest_arrivals", "Arrival events, with their departures, summarised every hour."),
    description="How late flights have just been landing at the destination, and how much of that they met on the way. "
    "A row every hour, until 30 days after the last landing there; a mean of no flight is null.",
    owner=OWNER,
    tags={"grid": "1h", "source": "arrivals, departures", "missing": "no recent arrivals known at this destination"},
)

aircraft_rotation = FeatureView(
    name="aircraft_rotation",
    entities=[tailnum],
    ttl=timedelta(hours=48),
    schema=[
        field(
            "tail_last_arr_delay",
            Float64,
            "Arrival delay of the aircraft's last completed flight. Of two that landed at one moment, the one that was "
            "to leave later counts, then the one with the greater flight id. Null once no landing is left in 48 hours.",
            "minutes",
        ),
        field(
            "tail_last_landing_minute",
            Int64,
            "When the aircraft completed its last flight, in whole minutes since 1970-01-01T00:00Z. Null once no "
            "landing is left in 48 hours.",
            "minutes",
        ),
        field("tail_landings_24h", Int64, "Flights the aircraft completed in the last 24h.", "flights", window="24h"),
    ],
    source=delta_source("aircraft_rotation", "Arrival events, a row each time the aircraft's window changes."),
    description="How the aircraft's day is going. A row 48 hours after its last landing says null and 0 landings: from "
    "then on the view is neither missing nor stale until the ttl is over.",
    owner=OWNER,
    tags={"grid": "15min", "source": "arrivals", "missing": "aircraft has not landed in two days"},
)

aircraft_departures = FeatureView(
    name="aircraft_departures",
    entities=[tailnum],
    ttl=timedelta(hours=48),
    schema=[
        field(
            "tail_last_departure_minute",
            Int64,
            "When the aircraft last left New York, in whole minutes since 1970-01-01T00:00Z. Null once no departure is "
            "left in 48 hours.",
            "minutes",
        ),
        field(
            "tail_last_scheduled_minutes",
            Int64,
            "Scheduled time from gate to gate of the flight on which the aircraft last left New York. Null where no "
            "schedule of the 30 days before listed it with this aircraft, and once no departure is left in 48 hours.",
            "minutes",
        ),
        overdue_field("tail", "of the aircraft", "6h"),
    ],
    source=delta_source(
        "aircraft_departures", "A row when the aircraft leaves or is overdue, and when it no longer is."
    ),
    description="Where the aircraft is in its day: what it left behind, and what it is late for. A row 48 hours after "
    "its last departure says null: from then on the view is neither missing nor stale until the ttl is over.",
    owner=OWNER,
    tags={
        "grid": "15min",
        "source": "departures, schedule, cancellations",
        "missing": "aircraft has neither left nor been overdue in two days",
    },
)

aircraft_profile = FeatureView(
    name="aircraft_profile",
    entities=[tailnum],
    ttl=timedelta(0),
    schema=[
        field("tail_seats", Int64, "Seats of the aircraft.", "seats"),
        field("tail_year_built", Int64, "Year the aircraft was built.", "year"),
    ],
    source=delta_source("aircraft_profile", "The aircraft register."),
    description="What does not change about an aircraft.",
    owner=OWNER,
    tags={"grid": "none", "source": "aircraft", "missing": "unknown aircraft"},
)

flight_number_reliability = FeatureView(
    name="flight_number_reliability",
    entities=[carrier, flight_number],
    # A row each day the window changes; the last one, an empty window, is written when the last flight leaves it.
    ttl=timedelta(days=31),
    schema=[
        field(
            "flight_number_late_rate_30d",
            Float64,
            "Share of its flights that landed 15 or more minutes late.",
            "ratio",
            window="30d",
        ),
        field(
            "flight_number_mean_arr_delay_30d",
            Float64,
            "Mean arrival delay of its flights; early is negative.",
            "minutes",
            window="30d",
        ),
        field("flight_number_landings_30d", Int64, "Flights it completed.", "flights", window="30d"),
    ],
    source=delta_source("flight_number_reliability", "Arrival events, a row each day the window changes."),
    description="How reliable this very flight number has been.",
    owner=OWNER,
    tags={"grid": "1d", "source": "arrivals", "missing": "flight number not flown in a month"},
)

origin_schedule_load = FeatureView(
    name="origin_schedule_load",
    entities=[origin, departure_hour],
    ttl=timedelta(0),
    schema=[
        field(
            "origin_scheduled_departures_hour",
            Int64,
            "Departures scheduled from the airport in the hour of this flight.",
            "flights",
            window="1h",
        )
    ],
    source=delta_source("origin_schedule_load", "The published schedule, a row an airport and hour."),
    description="How full the schedule is around this flight.",
    owner=OWNER,
    tags={"grid": "1h", "source": "schedule", "missing": "no schedule known for this hour"},
)

flight_schedule = FeatureView(
    name="flight_schedule",
    entities=[flight],
    ttl=timedelta(0),
    online=False,
    schema=[
        field("origin", String, "Departure airport.", "IATA code"),
        field("dest", String, "Destination airport.", "IATA code"),
        field("carrier", String, "Airline.", "IATA code"),
        field("flight_number", Int64, "Flight number.", "number"),
        field("tailnum", String, "Registration of the aircraft.", "registration"),
        field("scheduled_departure", UnixTimestamp, "Scheduled departure.", "UTC"),
        field("scheduled_arrival", UnixTimestamp, "Scheduled arrival.", "UTC"),
    ],
    source=delta_source("flight_schedule", "The published schedule, a row a flight."),
    description="Every flight there is to predict: the rows of a training set and of a batch start here.",
    owner=OWNER,
    tags={"prediction_lead_minutes": "120", "prediction_anchor": "scheduled_departure"},
)

flight_outcome = FeatureView(
    name="flight_outcome",
    entities=[flight],
    ttl=timedelta(0),
    online=False,
    schema=[
        field("arr_delay_minutes", Float64, "Arrival delay; early is negative.", "minutes"),
        field(
            "is_late",
            Int64,
            "1 when the flight arrived 15 or more minutes late, else 0.",
            "boolean",
            question="How likely is this flight to arrive 15 or more minutes late?",
        ),
    ],
    source=delta_source("flight_outcome", "Arrival events: the row exists from the moment of landing."),
    description="The label. Cancelled and diverted flights have none.",
    owner=OWNER,
    tags={"label": "is_late", "definition": "arr_delay_minutes >= 15"},
)
