"""The source adapter: the visitors of five shops in, timestamped events out. [yours]

The visitors are made up, the same ones each time. Replace `made_up` by your own records, in the columns of RAW_SCHEMAS.

| table  | event timestamp | why                            |
|--------|-----------------|--------------------------------|
| visits | end of the hour | a count is complete only then  |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from fti.features.source import MOMENT, EventSource, PackageFiles, raw_schemas, stamped
from fti.times import utc

# The interval that commands take when none is given, and the worked "today".
START, END, TODAY = "2024-01-01", "2024-05-01", "2024-04-01"

SHOPS = ("harbour", "market", "museum", "station", "university")
HOUR = pd.Timedelta(hours=1)


class RawFiles(PackageFiles):
    """Where records are read from: `visits.csv` of a folder that `--raw` names; by default there is no file."""

    package = "made up"
    types: ClassVar[Mapping[str, str]] = {"shop": "str"}


class RawEvents(EventSource):
    """The events of every raw table, each in the order of its keys."""

    reads = RawFiles

    def read_all(self) -> dict[str, pd.DataFrame]:
        if self.files.directory is None:
            visits = made_up()
        else:
            visits = self.files.read("visits.csv", ["shop", "hour_start", "visitors"])
            visits["hour_start"] = pd.to_datetime(visits.hour_start, utc=True).astype("datetime64[us, UTC]")
        visits["hour"] = visits.hour_start.astype("int64") // 3_600_000_000
        return {"visits": stamped(visits, visits.hour_start + HOUR)}


# The natural key of each raw table, and the timestamp by whose month it is partitioned.
RAW_KEYS = {"visits": ["shop", "hour"]}
KEY_MOMENTS = {"visits": "hour_start"}
# From these moments on, no more is expected of a table.
COMPLETE_UNTIL = {"visits": utc(END)}
RAW_SCHEMAS = raw_schemas(
    {"visits": {"shop": pa.string(), "hour": pa.int64(), "hour_start": MOMENT, "visitors": pa.float64()}}
)


def made_up() -> pd.DataFrame:
    """Return visitors of each shop in each hour: a daily curve, times how busy the shop is these days, and chance."""
    chance = np.random.default_rng(2024)
    hours = pd.date_range(START, END, freq="h", tz="UTC", inclusive="left", unit="us")
    curve = 1.2 + np.sin((hours.hour.to_numpy() - 8) / 24 * 2 * np.pi)
    shops = []
    for number, shop in enumerate(SHOPS, start=1):
        days = np.exp(np.cumsum(chance.normal(0, 0.15, len(hours) // 24 + 1)) * 0.5)
        busy = np.repeat(days, 24)[: len(hours)]
        visitors = chance.poisson(20 * number * busy * curve).astype("float64")
        shops.append(pd.DataFrame({"shop": shop, "hour_start": hours, "visitors": visitors}))
    return pd.concat(shops, ignore_index=True)
