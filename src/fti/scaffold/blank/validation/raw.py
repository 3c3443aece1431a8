"""Which suite guards which raw table. [yours]"""

import great_expectations.expectations as gxe

from fti.validation.gate import Suite

RAW_SUITES = {
    "visits": Suite(
        "raw_visits",
        {
            f"{column}_present": gxe.ExpectColumnValuesToNotBeNull(column=column)
            for column in ("shop", "hour_start", "visitors", "event_timestamp")
        }
        | {"visitors_in_range": gxe.ExpectColumnValuesToBeBetween(column="visitors", min_value=0, max_value=10_000)},
        {"hours_are_unique": gxe.ExpectCompoundColumnsToBeUnique(column_list=["shop", "hour"])},
    ),
}
