"""The stored features: what each one is, its unit, its window and its time to live; the rows to predict and the label.

Windows are half-open and end at the row's event timestamp. The ttl is the longest time a row may be used after its
event timestamp, offline and online alike; 0 means it never expires. [yours]
"""

from datetime import timedelta

from entities import shop, shop_hour
from feast import FeatureView
from feast.types import Float64, String, UnixTimestamp

from fti.features.declare import delta_source, field

OWNER = "you@example.org"

shop_recent = FeatureView(
    name="shop_recent",
    entities=[shop],
    # A row an hour: after six hours of silence the feed says nothing of now.
    ttl=timedelta(hours=6),
    schema=[
        field(
            f"shop_mean_visitors_{window}",
            Float64,
            f"Mean number of visitors an hour, in the last {window}.",
            "visitors an hour",
            window=window,
        )
        for window in ("3h", "24h")
    ],
    source=delta_source("shop_recent", "Visits, summarised every hour."),
    description="How busy the shop has been.",
    owner=OWNER,
    tags={"grid": "1h", "source": "visits", "missing": "no recent count of this shop"},
)

shop_hours = FeatureView(
    name="shop_hours",
    entities=[shop_hour],
    ttl=timedelta(0),
    online=False,
    schema=[
        field("shop", String, "Name of the shop.", "name"),
        field("hour_start", UnixTimestamp, "When the hour begins.", "UTC"),
    ],
    source=delta_source("shop_hours", "Every hour at every shop, a day ahead."),
    description="The rows to predict: a training set and a batch start here.",
    owner=OWNER,
    tags={"prediction_lead_minutes": "60", "prediction_anchor": "hour_start"},
)

shop_visitors = FeatureView(
    name="shop_visitors",
    entities=[shop_hour],
    ttl=timedelta(0),
    online=False,
    schema=[
        field(
            "visitors",
            Float64,
            "People who entered the shop in the hour.",
            "visitors",
            question="How many people will enter this shop in that hour?",
        )
    ],
    source=delta_source("shop_visitors", "Visits: the row exists from the end of the hour."),
    description="The label.",
    owner=OWNER,
    tags={"task": "regression", "label": "visitors", "definition": "people who enter the shop in the hour"},
)
