"""Rules for the aircraft register. [yours]"""

import great_expectations.expectations as gxe

from fti.validation.gate import Suite

AIRCRAFT = Suite(
    name="raw_aircraft",
    row_rules={
        "tailnum_is_registration": gxe.ExpectColumnValuesToMatchRegex(column="tailnum", regex=r"^[A-Z0-9-]{3,8}$"),
        "tailnum_present": gxe.ExpectColumnValuesToNotBeNull(column="tailnum"),
        "seats_in_range": gxe.ExpectColumnValuesToBeBetween(column="seats", min_value=1, max_value=900),
        "year_built_in_range": gxe.ExpectColumnValuesToBeBetween(column="year_built", min_value=1930, max_value=2013),
    },
    batch_rules={"aircraft_are_unique": gxe.ExpectColumnValuesToBeUnique(column="tailnum")},
    min_rows=0,
)
