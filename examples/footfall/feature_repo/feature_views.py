"""The stored features: what each one is, its unit, its window and where it comes from. [yours]

Windows are half-open and end at the row's event timestamp. The ttl is the longest time a row may be used after its
event timestamp, offline and online alike; 0 means it never expires.
"""

from datetime import timedelta

from entities import hour, sensor, sensor_hour, street
from feast import FeatureView
from feast.types import Float64, Int64, String, UnixTimestamp

from fti.features.declare import delta_source, field

OWNER = "feature-team@example.org"


sensor_recent = FeatureView(
    name="sensor_recent",
    entities=[sensor],
    # A row an hour; a feed that has been silent for six says nothing of now.
    ttl=timedelta(hours=6),
    schema=[
        field(
            f"sensor_mean_people_{w}",
            Float64,
            f"Mean number of people an hour, of the hours counted in the last {w}.",
            "people an hour",
            window=w,
        )
        for w in ("1h", "3h", "24h", "7d")
    ]
    + [field("sensor_hours_counted_24h", Int64, "Hours that were counted at all.", "hours", window="24h")],
    source=delta_source("sensor_recent", "Counts, summarised every hour."),
    description="How busy it has just been at the sensor.",
    owner=OWNER,
    tags={"grid": "1h", "source": "counts", "missing": "no recent count of this sensor"},
)

sensor_same_hour = FeatureView(
    name="sensor_same_hour",
    entities=[sensor, hour],
    # A row is complete a week less an hour before its own hour begins, and is for that hour alone.
    ttl=timedelta(days=8),
    schema=[
        field("sensor_hour_people_1w", Float64, "People counted in this hour a week before.", "people", window="1h"),
        field(
            "sensor_hour_mean_people_4w",
            Float64,
            "Mean of the same hour of the four weeks before, of those that were counted.",
            "people",
            window="1h",
        ),
    ],
    source=delta_source("sensor_same_hour", "Counts, brought forward by a week, a row a sensor and hour."),
    description="What this hour of the week has been like at the sensor.",
    owner=OWNER,
    tags={"grid": "1h", "source": "counts", "missing": "this hour was counted in none of the four weeks before"},
)

street_pace = FeatureView(
    name="street_pace",
    entities=[street],
    ttl=timedelta(hours=6),
    schema=[
        field(
            f"street_share_of_usual_{w}",
            Float64,
            f"People in the street in the last {w}, a share of those a week before; of hours counted both times.",
            "ratio",
            window=w,
            default="1",
        )
        for w in ("3h", "24h")
    ],
    source=delta_source("street_pace", "Counts beside those of a week before, summarised every hour."),
    description="Whether the street is busier than usual: the weather, an event, a holiday.",
    owner=OWNER,
    # Of a street that nothing is known of, the best guess is that it is as usual.
    tags={"grid": "1h", "source": "counts", "missing": "no recent count in this street", "when_missing": "default"},
)

calendar = FeatureView(
    name="calendar",
    entities=[hour],
    ttl=timedelta(0),
    schema=[
        field("hour_public_holiday", Int64, "1 when the hour is on a public holiday of Auckland's.", "boolean"),
        field("hour_holiday_eve", Int64, "1 when the next day is a public holiday.", "boolean"),
    ],
    source=delta_source("calendar", "The public calendar, a row an hour."),
    description="What kind of day it is, on the wall clock of Auckland.",
    owner=OWNER,
    tags={"grid": "1h", "source": "calendar", "missing": "no calendar for this hour"},
)

sensor_hours = FeatureView(
    name="sensor_hours",
    entities=[sensor_hour],
    ttl=timedelta(0),
    online=False,
    schema=[
        field("sensor", String, "Address of the camera.", "address"),
        field("street", String, "Its street.", "street"),
        field("hour_start", UnixTimestamp, "When the hour begins.", "UTC"),
    ],
    source=delta_source("sensor_hours", "Every hour at every sensor, four weeks ahead."),
    description="Every hour there is to predict: the rows of a training set and of a batch start here.",
    owner=OWNER,
    tags={"prediction_lead_minutes": "180", "prediction_anchor": "hour_start"},
)

footfall = FeatureView(
    name="footfall",
    entities=[sensor_hour],
    ttl=timedelta(0),
    online=False,
    schema=[
        field(
            "people",
            Float64,
            "People who passed the sensor in the hour.",
            "people",
            question="How many people will pass this camera in that hour?",
        )
    ],
    source=delta_source("footfall", "Counts: the row exists from the end of the hour."),
    description="The label. An hour that was not counted has none.",
    owner=OWNER,
    tags={
        "task": "regression",
        "label": "people",
        "definition": "people who pass the sensor in the hour",
    },
)
