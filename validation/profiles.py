"""What is normal for a batch beside the weeks before it: limits as data, each with its reason. [yours]

Calibrated on every whole day of 2013, whatever hour it is counted from. A `critical` limit lies well outside of all of
them, storms and holidays included, so what breaks it is the feed. A `warning` limit is passed by a few days a year.
"""

from fti.validation.rules import Bounds, Feed, profile_suite

# Of all days, that after Thanksgiving has the fewest flights: 0.50 of the usual, counted from 18:00Z.
SHARE: Bounds = (0.45, None)
ODD_SHARE: Bounds = (0.75, 1.25)

# Departures and arrivals are counted with the cancellations: in a blizzard nearly every flight is cancelled (0.13 of
# the usual departures from 2013-02-08T18:00Z), and one that did not leave is missing only if nothing says why.

PROFILES = {
    "schedule": Feed(
        tables=("schedule",),
        values=("distance_miles",),
        suite=profile_suite(
            "schedule",
            critical={
                "share_of_usual": SHARE,
                # 2013: -161 to 182. Kilometres move it by 500.
                "distance_miles_drift": (-300, 300),
            },
            warning={"share_of_usual": ODD_SHARE, "distance_miles_drift": (-150, 150)},
        ),
    ),
    "departures": Feed(
        tables=("departures", "cancellations"),
        values=("dep_delay_minutes",),
        spread_by="carrier",
        suite=profile_suite(
            "departures",
            critical={
                "share_of_usual": SHARE,
                # 2013: 4 to 130, in a few hours 3 to 190. In hours at most 2.2, in seconds at least 240.
                "dep_delay_minutes_iqr": (2.5, 220),
                # 2013: -12 to 63. A clock that is an hour behind moves it by -60; an hour ahead looks like a storm.
                "dep_delay_minutes_drift": (-40, 90),
                # Of any carrier. 2013: 2 at least. In hours below 1.2, unless it is a storm.
                "dep_delay_minutes_narrowest": (1.2, None),
            },
            warning={"share_of_usual": ODD_SHARE, "dep_delay_minutes_drift": (-10, 20)},
        ),
    ),
    "arrivals": Feed(
        tables=("arrivals", "cancellations"),
        values=("arr_delay_minutes",),
        spread_by="carrier",
        suite=profile_suite(
            "arrivals",
            critical={
                "share_of_usual": SHARE,
                # 2013: 15 to 129, in a few hours 10 to 230. In hours at most 2.2, in seconds at least 900.
                "arr_delay_minutes_iqr": (5, 400),
                # 2013: -26 to 65. A clock that is an hour behind moves it by -60; an hour ahead looks like a storm.
                "arr_delay_minutes_drift": (-40, 90),
                # Of any carrier. 2013: 8 at least. In hours at most 4.
                "arr_delay_minutes_narrowest": (4.5, None),
            },
            warning={"share_of_usual": ODD_SHARE, "arr_delay_minutes_drift": (-20, 35)},
        ),
    ),
    "weather": Feed(
        tables=("weather",),
        values=("temperature_f",),
        newest_by="origin",
        suite=profile_suite(
            "weather",
            critical={
                # An instrument does not take a holiday. 2013: 0.79 at least.
                "share_of_usual": (0.6, None),
                # 2013: -25 to 30. Celsius moves it by -31 or more from May to September.
                "temperature_f_drift": (-30, 40),
                # The longest silence of one airport in 2013 is 6 hours.
                "hours_since_newest": (None, 12),
            },
            warning={
                "share_of_usual": (0.9, 1.1),
                "temperature_f_drift": (-22, 22),
                "hours_since_newest": (None, 3),
            },
        ),
    ),
}
