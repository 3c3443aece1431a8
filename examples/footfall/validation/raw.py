"""Which suite guards which raw table. [yours]"""

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation

from fti.validation.gate import Suite

# The most that any sensor counted in an hour of 2019 to 2025 is 9,187.
MOST_PEOPLE = 20_000
PLACE = ["sensor_hour", "sensor", "street", "hour_start", "event_timestamp"]


def _present(columns: list[str]) -> dict[str, Expectation]:
    return {f"{column}_present": gxe.ExpectColumnValuesToNotBeNull(column=column) for column in columns}


RAW_SUITES = {
    "hours": Suite(
        "raw_hours",
        _present(PLACE)
        | {
            "known_before_it_begins": gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="hour_start", column_B="event_timestamp"
            )
        },
        {"hours_are_unique": gxe.ExpectColumnValuesToBeUnique(column="sensor_hour")},
    ),
    "calendar": Suite(
        "raw_calendar",
        _present(["hour_start", "event_timestamp", "public_holiday", "holiday_eve"])
        | {
            f"{column}_is_0_or_1": gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[0, 1])
            for column in ("public_holiday", "holiday_eve")
        },
        {"hours_are_unique": gxe.ExpectColumnValuesToBeUnique(column="hour_start")},
    ),
    "counts": Suite(
        "raw_counts",
        _present([*PLACE, "people"])
        | {
            "people_in_range": gxe.ExpectColumnValuesToBeBetween(column="people", min_value=0, max_value=MOST_PEOPLE),
            # A camera that is down sends zeros, and says nothing of it.
            "somebody_passes_by_day": gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="people", column_B="fewest_people", or_equal=True
            ),
            "counted_after_it_began": gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="event_timestamp", column_B="hour_start"
            ),
        },
        {"hours_are_unique": gxe.ExpectColumnValuesToBeUnique(column="sensor_hour")},
    ),
}
