"""Features computed from the request itself, by this code alone, when training and when serving. [yours]

The functions are stored in the Feast registry and run elsewhere, so each imports what it needs. Feast 0.67 cannot keep
a description on an on-demand field, so the view's tags document its features.
"""

from data_sources import hour_request
from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from feature_views import OWNER, sensor_same_hour, street_pace


@on_demand_feature_view(
    sources=[hour_request],
    schema=[Field(name="local_hour", dtype=Int64), Field(name="day_of_week", dtype=Int64)],
    mode="python",
    description="When the hour is, on the wall clock of Auckland.",
    owner=OWNER,
    tags={
        "source": "request",
        "local_hour": "Local hour, 0 to 23.",
        "day_of_week": "Local day of the week, Monday is 0.",
    },
)
def clock(inputs):
    from datetime import timezone
    from zoneinfo import ZoneInfo

    auckland = ZoneInfo("Pacific/Auckland")

    def local(moment):
        return (moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment).astimezone(auckland)

    moments = [local(moment) for moment in inputs["hour_start"]]
    return {
        "local_hour": [moment.hour for moment in moments],
        "day_of_week": [moment.weekday() for moment in moments],
    }


@on_demand_feature_view(
    sources=[
        sensor_same_hour[["sensor_hour_people_1w"]],
        street_pace[["street_share_of_usual_24h"]],
        hour_request,
    ],
    schema=[Field(name="people_at_this_pace", dtype=Float64)],
    mode="python",
    description="The same hour of last week, at the street's pace of today.",
    owner=OWNER,
    tags={
        "source": "sensor_same_hour, street_pace",
        "people_at_this_pace": "sensor_hour_people_1w times street_share_of_usual_24h, in people.",
    },
)
def paced(inputs):
    def missing(number):
        return number is None or number != number

    return {
        "people_at_this_pace": [
            None if missing(people) or missing(share) else float(people * share)
            for people, share in zip(inputs["sensor_hour_people_1w"], inputs["street_share_of_usual_24h"])
        ]
    }
