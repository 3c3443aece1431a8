"""What a request carries beside its keys. Where the rows of a view lie, its `delta_source` says. [yours]"""

from feast import Field, RequestSource
from feast.types import UnixTimestamp

flight_request = RequestSource(
    name="flight_request",
    schema=[
        Field(
            name="scheduled_departure",
            dtype=UnixTimestamp,
            description="Scheduled departure from the gate, UTC.",
        ),
        Field(
            name="scheduled_arrival",
            dtype=UnixTimestamp,
            description="Scheduled arrival at the gate, UTC.",
        ),
    ],
    description="What is known of a flight when a prediction is asked for.",
)
