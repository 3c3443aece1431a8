"""What each model generation reads. A service never changes once a model was trained on it: a change gets a new name.

The tags name what the model also takes straight from the request (`key_features`, join keys used as categories) and
which views are the rows to predict (`spine`) and their outcome (`label`). [yours]
"""

from feast import FeatureService
from feature_views import (
    OWNER,
    aircraft_departures,
    aircraft_profile,
    aircraft_rotation,
    carrier_origin_congestion,
    carrier_origin_reliability,
    dest_arrivals,
    flight_number_reliability,
    origin_congestion,
    origin_schedule_load,
    origin_weather,
    route_profile,
    route_reliability,
)
from on_demand_feature_views import aircraft_age, aircraft_turnaround, schedule_clock

SERVICE_TAGS = {"spine": "flight_schedule", "label": "flight_outcome", "key_features": "origin,dest,carrier"}

arrival_delay_v1 = FeatureService(
    name="arrival_delay_v1",
    features=[carrier_origin_reliability, route_reliability, route_profile, schedule_clock],
    description="Reliability of carrier and route, and the clock.",
    owner=OWNER,
    tags=SERVICE_TAGS,
)

arrival_delay_v2 = FeatureService(
    name="arrival_delay_v2",
    features=[
        carrier_origin_reliability,
        # One day on one route is a handful of flights: noise that v1 could not ignore.
        route_reliability[
            [
                f"route_{statistic}_{window}"
                for window in ("7d", "30d")
                for statistic in ("late_rate", "cancelled_rate", "mean_arr_delay")
            ]
        ],
        route_profile,
        origin_congestion,
        carrier_origin_congestion,
        origin_weather,
        dest_arrivals,
        # When it last left or landed says little; how long before this flight that was says much: aircraft_turnaround.
        aircraft_rotation[["tail_last_arr_delay", "tail_landings_24h"]],
        aircraft_departures[["tail_overdue"]],
        aircraft_profile[["tail_seats"]],
        flight_number_reliability,
        origin_schedule_load,
        aircraft_age,
        aircraft_turnaround,
        # Without the month: one year of history cannot teach a season, only memorise it.
        schedule_clock[["dep_local_hour", "dep_day_of_week", "scheduled_minutes"]],
    ],
    description="v1 without its noisiest features, plus weather, airport, aircraft, schedule and what is late for it.",
    owner=OWNER,
    tags=SERVICE_TAGS,
)
