"""Raw events in, feature rows out, as ibis expressions: DuckDB on one machine, Spark on many. [yours]

Every stored feature is computed here and nowhere else, of the parts in windows.py. All rows lie on whole hours: a count
is known at the end of its hour, which is a grid point, and counts from the next one on.
"""

from __future__ import annotations

import ibis
from ibis import _
from ibis.expr.types import Table

from fti.features.windows import (
    DAY,
    HOUR,
    ROSTER,
    FeatureTable,
    Interval,
    Tables,
    cell_end,
    counted,
    passed_on,
    ratio,
    seconds,
    stamped,
    windowed,
    within,
)

WEEK = 7 * DAY
WEEKS = (1, 2, 3, 4)
RECENT = {"1h": HOUR, "3h": 3 * HOUR, "24h": DAY, "7d": WEEK}
PACE = {"3h": 3 * HOUR, "24h": DAY}


def sensor_recent(tables: Tables, interval: Interval) -> Table:
    """Each hour, for each sensor of the last 30 days: how many people passed it an hour, lately."""
    counts = tables["counts"]
    hourly = counted(counts, ("sensor",), HOUR, people=counts.people, hours=ibis.literal(1))
    rows = windowed(hourly, ("sensor",), HOUR, RECENT, interval, heartbeat=True)
    features = {f"sensor_mean_people_{w}": ratio(rows[f"people_{w}"], rows[f"hours_{w}"]) for w in RECENT}
    return stamped(rows, ("sensor",), **features, sensor_hours_counted_24h=rows.hours_24h)


def sensor_same_hour(tables: Tables, interval: Interval) -> Table:
    """What the same hour of the weeks before was like, found by the hour it is for.

    One row a sensor and hour, stamped when the count of a week before it counts, an hour after it was complete.
    """
    counts = tables["counts"]
    counts = counts.select("sensor", "people", "created_timestamp", known=cell_end(counts.event_timestamp, HOUR))
    copies = [
        counts.select(
            "sensor",
            bucket=counts.known + (week - 1) * WEEK,
            learnt=seconds(counts.created_timestamp),
            people=counts.people,
            newest=counts.people if week == 1 else ibis.null("float64"),
        )
        for week in WEEKS
    ]
    rows = (
        ibis.union(*copies)
        .group_by(["sensor", "bucket"])
        .agg(learnt=_.learnt.max(), people=_.people.sum(), weeks=_.count(), newest=_.newest.max())
    )
    rows = within(rows, interval).mutate(hour=(_.bucket - 2 * HOUR + WEEK) // HOUR)
    return stamped(
        rows,
        ("sensor", "hour"),
        sensor_hour_people_1w=rows.newest,
        sensor_hour_mean_people_4w=rows.people / rows.weeks,
    )


def street_pace(tables: Tables, interval: Interval) -> Table:
    """How many people are in a street now, as a share of a week before: of hours that both times were counted."""
    counts = tables["counts"]
    now = counts.select(
        "sensor", "street", "people", "event_timestamp", "created_timestamp", hour=seconds(counts.hour_start)
    )
    before = counts.select(
        "sensor",
        usual=counts.people,
        usual_learnt=counts.created_timestamp,
        hour=seconds(counts.hour_start) + WEEK,
    )
    pairs = now.join(before, ["sensor", "hour"])
    pairs = pairs.mutate(created_timestamp=ibis.greatest(pairs.created_timestamp, pairs.usual_learnt))
    hourly = counted(pairs, ("street",), HOUR, people=pairs.people, usual=pairs.usual)
    rows = windowed(hourly, ("street",), HOUR, PACE, interval, heartbeat=True)
    features = {f"street_share_of_usual_{w}": ratio(rows[f"people_{w}"], rows[f"usual_{w}"]) for w in PACE}
    return stamped(rows, ("street",), **features)


def calendar(tables: Tables, interval: Interval) -> Table:
    days = tables["calendar"]
    return days.select(
        hour=seconds(days.hour_start) // HOUR,
        hour_public_holiday=days.public_holiday,
        hour_holiday_eve=days.holiday_eve,
        event_timestamp=days.event_timestamp,
        created_timestamp=days.created_timestamp,
    )


SPINE = {name: name for name in ("sensor_hour", "sensor", "street", "hour_start")}
OUTCOME = {"sensor_hour": "sensor_hour", "people": "people"}

# Every published table, in the order it is published. The lookback holds the longest window and a grid cell, and for
# the pace the week before it too.
FEATURE_TABLES = {
    "sensor_recent": FeatureTable(("sensor",), ("counts",), sensor_recent, ROSTER + HOUR),
    "sensor_same_hour": FeatureTable(("sensor", "hour"), ("counts",), sensor_same_hour, len(WEEKS) * WEEK),
    "street_pace": FeatureTable(("street",), ("counts",), street_pace, ROSTER + WEEK + HOUR),
    "calendar": FeatureTable(("hour",), ("calendar",), calendar, closed="left"),
    "sensor_hours": FeatureTable(("sensor_hour",), ("hours",), passed_on("hours", **SPINE), closed="left"),
    "footfall": FeatureTable(("sensor_hour",), ("counts",), passed_on("counts", **OUTCOME), closed="left"),
}
