"""What is normal for a batch beside the weeks before it: limits as data, each with its reason. [yours]

Calibrated on every whole day of February 2024 to June 2025. A `critical` limit lies well outside of all of them, so
what breaks it is the feed; a `warning` limit is passed by a few days a year.
"""

from __future__ import annotations

from dataclasses import dataclass

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

from validation.gate import Suite


@dataclass(frozen=True)
class Feed:
    """What to profile as one feed (see `validation.profile.profile`), and the suite that judges its profile."""

    tables: tuple[str, ...]
    values: tuple[str, ...]
    suite: Suite
    newest_by: str | None = None
    spread_by: str | None = None


def _between(column: str, low: float | None, high: float | None, critical: bool = True) -> Expectation:
    severity = FailureSeverity.CRITICAL if critical else FailureSeverity.WARNING
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, severity=severity)


PROFILES = {
    "counts": Feed(
        tables=("counts",),
        values=("people",),
        newest_by="sensor",
        suite=Suite(
            "profile_counts",
            {},
            {
                # A camera counts at night too: what is missing is the feed. Found: 0.95 at least.
                "share_of_usual_possible": _between("share_of_usual", 0.7, None),
                # All are silent together, an hour at most; one alone is repaired within days.
                "hours_since_newest_possible": _between("hours_since_newest", None, 96),
                "hours_since_newest_normal": _between("hours_since_newest", None, 12, critical=False),
                # Found: -140 (Christmas) to 60. A count in hundreds moves it by as much as there is.
                "people_drift_normal": _between("people_drift", -90, 60, critical=False),
                # Found: 100 to 430.
                "people_iqr_possible": _between("people_iqr", 20, 2000),
            },
            min_rows=0,
            label="window",
        ),
    ),
}
