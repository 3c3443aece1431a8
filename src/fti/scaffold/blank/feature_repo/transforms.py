"""How each stored feature is computed from raw events, as ibis expressions. [yours]

A row stamped T uses events before T, never one at T: an event at t counts from the end of its hour on.
"""

from __future__ import annotations

import ibis
from ibis.expr.types import Table

from fti.features.windows import DAY, HOUR, ROSTER, FeatureTable, Interval, Tables, counted, ratio, stamped, windowed

RECENT = {"3h": 3 * HOUR, "24h": DAY}
HOURS_AHEAD = 24


def shop_recent(tables: Tables, interval: Interval) -> Table:
    """Return a row an hour and shop: how many people entered it an hour, lately."""
    visits = tables["visits"]
    hourly = counted(visits, ("shop",), HOUR, visitors=visits.visitors, hours=ibis.literal(1))
    rows = windowed(hourly, ("shop",), HOUR, RECENT, interval, heartbeat=True)
    means = {f"shop_mean_visitors_{w}": ratio(rows[f"visitors_{w}"], rows[f"hours_{w}"]) for w in RECENT}
    return stamped(rows, ("shop",), **means)


def shop_hours(tables: Tables, interval: Interval) -> Table:
    """Return the hours to predict: a shop that was counted in an hour is open in the same hour of the next day."""
    visits = tables["visits"]
    return visits.select(
        shop_hour=_key(visits.shop, visits.hour + HOURS_AHEAD),
        shop=visits.shop,
        hour_start=visits.hour_start + ibis.interval(hours=HOURS_AHEAD),
        event_timestamp=visits.event_timestamp,
        created_timestamp=visits.created_timestamp,
    )


def shop_visitors(tables: Tables, interval: Interval) -> Table:
    """Return the label, known from the end of the hour on."""
    visits = tables["visits"]
    return visits.select(
        shop_hour=_key(visits.shop, visits.hour),
        visitors=visits.visitors,
        event_timestamp=visits.event_timestamp,
        created_timestamp=visits.created_timestamp,
    )


def _key(shop, hour):
    return shop + "_" + hour.cast("string")


# Every published table: its keys, the raw tables it reads, what computes it, and how far back that looks.
FEATURE_TABLES = {
    "shop_recent": FeatureTable(("shop",), ("visits",), shop_recent, ROSTER + HOUR),
    "shop_hours": FeatureTable(("shop_hour",), ("visits",), shop_hours, closed="left"),
    "shop_visitors": FeatureTable(("shop_hour",), ("visits",), shop_visitors, closed="left"),
}
