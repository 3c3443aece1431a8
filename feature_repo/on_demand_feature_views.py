"""Features computed from the request itself, by this code alone, when training and when serving. [yours]

The functions are stored in the Feast registry and run elsewhere, so each imports what it needs. Feast 0.67 cannot keep
a description on an on-demand field (it loses it on the way out of the registry and then calls the field unknown), so
the view's tags document its features.
"""

from data_sources import flight_request
from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from feature_views import OWNER, aircraft_departures, aircraft_profile, aircraft_rotation


@on_demand_feature_view(
    sources=[flight_request],
    schema=[
        Field(name="dep_local_hour", dtype=Float64),
        Field(name="dep_day_of_week", dtype=Int64),
        Field(name="dep_month", dtype=Int64),
        Field(name="scheduled_minutes", dtype=Float64),
    ],
    mode="python",
    description="When the flight is scheduled, as a traveller would say it.",
    owner=OWNER,
    tags={
        "source": "request",
        "dep_local_hour": "Scheduled departure on the New York wall clock, in hours, 0 to 24.",
        "dep_day_of_week": "Local day of the scheduled departure, Monday is 0.",
        "dep_month": "Local month of the scheduled departure, 1 to 12.",
        "scheduled_minutes": "Scheduled time from gate to gate, in minutes.",
    },
)
def schedule_clock(inputs):
    from datetime import timezone
    from zoneinfo import ZoneInfo

    new_york = ZoneInfo("America/New_York")

    def utc(moment):
        return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment

    departures = [utc(moment) for moment in inputs["scheduled_departure"]]
    arrivals = [utc(moment) for moment in inputs["scheduled_arrival"]]
    local = [moment.astimezone(new_york) for moment in departures]
    return {
        "dep_local_hour": [moment.hour + moment.minute / 60 for moment in local],
        "dep_day_of_week": [moment.weekday() for moment in local],
        "dep_month": [moment.month for moment in local],
        "scheduled_minutes": [(a - d).total_seconds() / 60 for d, a in zip(departures, arrivals)],
    }


@on_demand_feature_view(
    sources=[aircraft_profile[["tail_year_built"]], flight_request],
    schema=[Field(name="tail_age_years", dtype=Float64)],
    mode="python",
    description="How old the aircraft is on the day.",
    owner=OWNER,
    tags={
        "source": "request, aircraft_profile",
        "tail_age_years": "Calendar year of the scheduled departure less the year the aircraft was built, in years.",
    },
)
def aircraft_age(inputs):
    def missing(year):
        return year is None or year != year

    return {
        "tail_age_years": [
            None if missing(built) else float(moment.year - built)
            for built, moment in zip(inputs["tail_year_built"], inputs["scheduled_departure"])
        ]
    }


@on_demand_feature_view(
    sources=[
        aircraft_departures[["tail_last_departure_minute", "tail_last_scheduled_minutes"]],
        aircraft_rotation[["tail_last_landing_minute"]],
        flight_request,
    ],
    schema=[
        Field(name="tail_hours_since_departure", dtype=Float64),
        Field(name="tail_hours_since_landing", dtype=Float64),
        Field(name="tail_hours_to_spare", dtype=Float64),
    ],
    mode="python",
    description="How long the aircraft has been away, and whether it can be back for this flight.",
    owner=OWNER,
    tags={
        "source": "request, aircraft_departures, aircraft_rotation",
        "tail_hours_since_departure": "From the aircraft's last known departure to the scheduled one, in hours.",
        "tail_hours_since_landing": "From the aircraft's last known landing to the scheduled departure, in hours.",
        "tail_hours_to_spare": (
            "Hours left before the scheduled departure once the aircraft has flown straight back from where it was "
            "sent, in the scheduled time; below zero it cannot be on time."
        ),
    },
)
def aircraft_turnaround(inputs):
    from datetime import timezone

    def missing(number):
        return number is None or number != number

    def hours_since(minute, moment):
        if missing(minute):
            return None
        moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
        return moment.timestamp() / 3600 - minute / 60

    def to_spare(away, landed, minutes):
        if away is None or missing(minutes):
            return None
        return landed - minutes / 60 if landed is not None and landed < away else away - 2 * minutes / 60

    moments = inputs["scheduled_departure"]
    away = [hours_since(*pair) for pair in zip(inputs["tail_last_departure_minute"], moments)]
    landed = [hours_since(*pair) for pair in zip(inputs["tail_last_landing_minute"], moments)]
    return {
        "tail_hours_since_departure": away,
        "tail_hours_since_landing": landed,
        "tail_hours_to_spare": [
            to_spare(*triple) for triple in zip(away, landed, inputs["tail_last_scheduled_minutes"])
        ],
    }
