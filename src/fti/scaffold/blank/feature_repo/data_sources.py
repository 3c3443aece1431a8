"""What a request carries beside its keys. [yours]"""

from feast import Field, RequestSource
from feast.types import UnixTimestamp

hour_request = RequestSource(
    name="hour_request",
    schema=[Field(name="hour_start", dtype=UnixTimestamp, description="When the hour begins, UTC.")],
    description="What is known of an hour when a prediction is requested.",
)
