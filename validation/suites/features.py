"""Rules for feature rows before they are published: what a feature is called says what it may be. [yours]"""

from collections.abc import Sequence
from fnmatch import fnmatch

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation

from validation.gate import Suite

# By the statistic in the name; the first pattern that fits counts. None leaves a side open.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
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


def feature_suite(table: str, keys: Sequence[str], columns: Sequence[str]) -> Suite:
    """The suite for one feature table, from its keys and columns."""
    rows: dict[str, Expectation] = {
        f"{column}_present": gxe.ExpectColumnValuesToNotBeNull(column=column) for column in [*keys, "event_timestamp"]
    }
    for column in columns:
        bounds = next((limits for pattern, limits in BOUNDS.items() if fnmatch(column, pattern)), None)
        if bounds:
            rows[f"{column}_in_range"] = gxe.ExpectColumnValuesToBeBetween(
                column=column, min_value=bounds[0], max_value=bounds[1]
            )
    unique = gxe.ExpectCompoundColumnsToBeUnique(column_list=[*keys, "event_timestamp"])
    return Suite(f"features_{table}", rows, {"one_row_a_key_and_moment": unique}, min_rows=0, max_held_share=0.01)
