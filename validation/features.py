"""Bounds of features, checked before their rows are published: what one is called says what it may be. [yours]"""

from fti.validation.rules import Bounds

# By the statistic in the name; the first pattern that fits counts. None leaves a side open.
BOUNDS: dict[str, Bounds] = {
    "*_rate_*": (0, 1),
    "*_mean_*_delay_*": (-120, 1440),
    "*_last_arr_delay": (-120, 1440),
    "arr_delay_minutes": (-120, 1440),
    "*_departures_*": (0, 1000),
    "*_overdue": (0, 1000),
    "*_last_*_minute": (0, None),
    "*_last_scheduled_minutes": (1, 1440),
    "*_landings_*": (0, 1000),
    "tail_seats": (1, 900),
    "tail_year_built": (1930, 2100),
    "route_distance_miles": (50, 6000),
    "is_late": (0, 1),
}
