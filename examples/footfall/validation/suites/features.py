"""Rules for feature rows before they are published: what a feature is called says what it may be. [yours]"""

from collections.abc import Sequence
from fnmatch import fnmatch

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation

from validation.gate import Suite

# The first pattern that fits counts. None leaves a side open.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "*_mean_people_*": (0, 20_000),
    "*_people_*": (0, 20_000),
    "people": (0, 20_000),
    "sensor_hours_counted_24h": (0, 24),
    "*_share_of_usual_*": (0, 1000),
    "hour_public_holiday": (0, 1),
    "hour_holiday_eve": (0, 1),
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
