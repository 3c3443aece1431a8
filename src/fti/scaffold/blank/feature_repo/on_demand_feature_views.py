"""Features computed from the request itself, by this code alone, when training and when serving. [yours]

Feast stores the functions in its registry and runs them elsewhere, so each imports what it needs.
"""

from data_sources import hour_request
from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64
from feature_views import OWNER


@on_demand_feature_view(
    sources=[hour_request],
    schema=[Field(name="hour_of_day", dtype=Int64)],
    mode="python",
    description="When the hour is.",
    owner=OWNER,
    tags={"source": "request", "hour_of_day": "Hour of the day in UTC, 0 to 23."},
)
def clock(inputs):
    return {"hour_of_day": [moment.hour for moment in inputs["hour_start"]]}
