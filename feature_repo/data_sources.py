"""Where each view's rows lie: one Delta table a view, relative to this folder or where FTI_TABLES says. [yours]"""

import os

from feast import Field, FileSource, RequestSource
from feast.data_format import DeltaFormat
from feast.types import UnixTimestamp

FEATURE_TABLES = f"{os.environ.get('FTI_TABLES') or '../data'}/features"


def delta_source(view: str, description: str) -> FileSource:
    """A Delta table with the columns every feature table has: `event_timestamp` and `created_timestamp`, UTC."""
    return FileSource(
        name=f"{view}_source",
        path=f"{FEATURE_TABLES}/{view}",
        file_format=DeltaFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=description,
    )


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
