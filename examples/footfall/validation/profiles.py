"""What is normal for a batch beside the weeks before it: limits as data, each with its reason. [yours]

Calibrated on every whole day of February 2024 to June 2025. A `critical` limit lies well outside of all of them, so
what breaks it is the feed; a `warning` limit is passed by a few days a year.
"""

from fti.validation.rules import Feed, profile_suite

PROFILES = {
    "counts": Feed(
        tables=("counts",),
        values=("people",),
        newest_by="sensor",
        suite=profile_suite(
            "counts",
            critical={
                # A camera counts at night too: what is missing is the feed. Found: 0.95 at least.
                "share_of_usual": (0.7, None),
                # All are silent together, an hour at most; one alone is repaired within days.
                "hours_since_newest": (None, 96),
                # Found: 100 to 430.
                "people_iqr": (20, 2000),
            },
            warning={
                "hours_since_newest": (None, 12),
                # Found: -140 (Christmas) to 60. A count in hundreds moves it by as much as there is.
                "people_drift": (-90, 60),
            },
        ),
    ),
}
