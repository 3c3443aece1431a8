"""Rules for hourly weather observations. [yours]"""

import great_expectations.expectations as gxe

from fti.validation.gate import Suite

# Records for the region, with room: a value outside is an instrument or a unit gone wrong.
BOUNDS = {
    "temperature_f": (-30, 115),
    "dew_point_f": (-50, 90),
    "humidity_pct": (0, 100),
    "wind_dir_deg": (0, 360),
    "wind_speed_mph": (0, 120),
    "precip_in": (0, 5),
    "pressure_mb": (940, 1070),
    "visibility_mi": (0, 10),
}

WEATHER = Suite(
    name="raw_weather",
    row_rules={
        "origin_present": gxe.ExpectColumnValuesToNotBeNull(column="origin"),
        "origin_is_airport_code": gxe.ExpectColumnValuesToMatchRegex(column="origin", regex=r"^[A-Z]{3}$"),
        "observed_at_present": gxe.ExpectColumnValuesToNotBeNull(column="observed_at"),
        "event_timestamp_present": gxe.ExpectColumnValuesToNotBeNull(column="event_timestamp"),
        "known_after_observed": gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="event_timestamp", column_B="observed_at"
        ),
    }
    | {
        f"{column}_in_range": gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)
        for column, (low, high) in BOUNDS.items()
    },
    batch_rules={
        # Observations without a moment are held each by itself: that several have none makes none a second one.
        "observations_are_unique": gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["origin", "observed_at"], ignore_row_if="any_value_is_missing"
        ),
        "most_temperatures_known": gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
            column="temperature_f", min_value=0.9
        ),
    },
)
