"""Bounds of features, checked before their rows are published: what one is called says what it may be. [yours]"""

from fti.validation.rules import Bounds

# The first pattern that fits counts. None leaves a side open.
BOUNDS: dict[str, Bounds] = {
    "*_mean_people_*": (0, 20_000),
    "*_people_*": (0, 20_000),
    "people": (0, 20_000),
    "sensor_hours_counted_24h": (0, 24),
    "*_share_of_usual_*": (0, 1000),
    "hour_public_holiday": (0, 1),
    "hour_holiday_eve": (0, 1),
}
