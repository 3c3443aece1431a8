"""Rules for raw flight events: schedule, departures, arrivals, cancellations. [yours]"""

from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation

from fti.validation.gate import Suite

# The longest delays of 2013 are 1301 (departure) and 1272 minutes (arrival): beyond a day, the unit is wrong.
DELAY_MINUTES: dict[str, Any] = {"min_value": -120, "max_value": 1440}

FACTS = ["flight_id", "origin", "dest", "carrier", "flight_number", "scheduled_departure", "event_timestamp"]


def _rules(extra_columns: list[str]) -> tuple[dict[str, Expectation], dict[str, Expectation]]:
    rows: dict[str, Expectation] = {
        f"{column}_present": gxe.ExpectColumnValuesToNotBeNull(column=column) for column in FACTS + extra_columns
    }
    rows |= {
        "origin_is_airport_code": gxe.ExpectColumnValuesToMatchRegex(column="origin", regex=r"^[A-Z]{3}$"),
        "dest_is_airport_code": gxe.ExpectColumnValuesToMatchRegex(column="dest", regex=r"^[A-Z]{3}$"),
        "carrier_is_airline_code": gxe.ExpectColumnValuesToMatchRegex(column="carrier", regex=r"^[A-Z0-9]{2}$"),
        "flight_number_in_range": gxe.ExpectColumnValuesToBeBetween(
            column="flight_number", min_value=1, max_value=9999
        ),
        "tailnum_is_registration": gxe.ExpectColumnValuesToMatchRegex(column="tailnum", regex=r"^[A-Z0-9-]{3,8}$"),
    }
    batch: dict[str, Expectation] = {
        "flights_are_unique": gxe.ExpectColumnValuesToBeUnique(column="flight_id"),
        "columns_present": gxe.ExpectTableColumnsToMatchSet(
            column_set=[*FACTS, "tailnum", "created_timestamp", *extra_columns], exact_match=False
        ),
    }
    return rows, batch


def _suite(name: str, extra_columns: list[str], extra_rules: dict[str, Expectation], min_rows: int = 1) -> Suite:
    rows, batch = _rules(extra_columns)
    return Suite(f"raw_{name}", rows | extra_rules, batch, min_rows=min_rows)


SCHEDULE = _suite(
    "schedule",
    ["scheduled_arrival", "distance_miles"],
    {
        "arrives_after_it_departs": gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="scheduled_arrival", column_B="scheduled_departure"
        ),
        # The closest scheduled destination is 80 miles away, the furthest is Honolulu.
        "distance_in_range": gxe.ExpectColumnValuesToBeBetween(column="distance_miles", min_value=50, max_value=6000),
    },
)
DEPARTURES = _suite(
    "departures",
    ["dep_delay_minutes"],
    {"dep_delay_in_range": gxe.ExpectColumnValuesToBeBetween(column="dep_delay_minutes", **DELAY_MINUTES)},
)
ARRIVALS = _suite(
    "arrivals",
    ["arr_delay_minutes"],
    {
        "arr_delay_in_range": gxe.ExpectColumnValuesToBeBetween(column="arr_delay_minutes", **DELAY_MINUTES),
        # Of a row that was corrected by hand: a moment that is wrong makes a label of the future.
        "known_after_scheduled_departure": gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="event_timestamp",
            column_B="scheduled_departure",
            or_equal=True,
            ignore_row_if="either_value_is_missing",
        ),
    },
)
# A day without a cancellation is a good day, not a broken feed.
CANCELLATIONS = _suite("cancellations", [], {}, min_rows=0)
