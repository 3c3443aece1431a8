"""What is normal for a batch beside the weeks before it: limits as data, each with its reason. [yours]"""

from fti.validation.rules import Feed, profile_suite

PROFILES = {
    "visits": Feed(
        tables=("visits",),
        values=("visitors",),
        newest_by="shop",
        suite=profile_suite(
            "visits",
            # Every shop is counted every hour: what is missing is the feed.
            critical={"share_of_usual": (0.7, None), "hours_since_newest": (None, 48)},
            warning={"hours_since_newest": (None, 6)},
        ),
    ),
}
