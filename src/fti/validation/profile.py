"""A batch's profile: its events in; one row per day of it out, each beside the same day of the weeks before.

A row rule sees a broken event. Only a profile sees that most events are missing, that a feed has stopped, or that a
column counts in another unit now. The suites in validation/profiles.py say which profile is not normal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

WINDOW = timedelta(days=1)
# Whole weeks, because a Saturday is no Friday; four, because one of them may have a storm or a holiday.
REFERENCES = [timedelta(days=days) for days in (7, 14, 21, 28)]
LOOKBACK = max(REFERENCES)
MIN_REFERENCES = 2
# The quartiles of fewer values say more of those few than of their feed.
MIN_VALUES = 30

Window = tuple[datetime, datetime]


def profile(
    events: pd.DataFrame,
    earlier: pd.DataFrame,
    start: datetime,
    end: datetime,
    *,
    values: Sequence[str] = (),
    newest_by: str | None = None,
    spread_by: str | None = None,
    complete_until: datetime | None = None,
) -> pd.DataFrame:
    """Profile `events`, a batch stamped in [start, end), against `earlier`, what landed in the LOOKBACK before start.

    Both frames have `event_timestamp` (UTC), the numeric columns `values`, and what `newest_by` and `spread_by` name.
    From `complete_until` on the feed is known to say nothing more, and nothing is expected of it.

    Columns: `window`, its first moment as text; `rows`; `usual_rows`, the median of the same day in MIN_REFERENCES or
    more of the weeks before, and `share_of_usual`, for whole days only; for each value `_median`, `_iqr` (how far its
    quartiles are apart) and, for whole days, `_drift`, the median less the usual median; with `newest_by`,
    `hours_since_newest`, at the window's end, of the group that has been silent longest; with `spread_by`, for each
    value `_narrowest`, the least `_iqr` of a group, and in `window` whose it is: one that counts in a larger unit moves
    no number of all. Unknown is NaN.
    """
    columns = list(dict.fromkeys(["event_timestamp", *values, *(by for by in (newest_by, spread_by) if by)]))
    known = pd.concat([earlier[columns], events[columns]]) if len(earlier) else events[columns]
    known = known[known.event_timestamp.notna()].sort_values("event_timestamp")
    known.index = pd.Index(known.event_timestamp.dt.tz_convert(None).to_numpy("datetime64[us]"))
    windows = _windows(start, min(end, complete_until or end))
    days = [window for window in windows if window[1] - window[0] == WINDOW]
    now, usual = _summary(known, windows, values), _usual(known, days, values).reindex(range(len(windows)))
    frame = pd.DataFrame({"window": [f"{first:%Y-%m-%dT%H:%MZ}" for first, _ in windows], "rows": now.rows})
    frame["usual_rows"] = usual.rows
    frame["share_of_usual"] = now.rows / usual.rows
    for value in values:
        frame[f"{value}_median"] = now[f"{value}_median"]
        frame[f"{value}_iqr"] = now[f"{value}_iqr"]
        frame[f"{value}_drift"] = now[f"{value}_median"] - usual[f"{value}_median"]
        if spread_by:
            frame[f"{value}_narrowest"], who = _narrowest(known, windows, value, spread_by)
            frame["window"] += who.map(" ({})".format, na_action="ignore").reindex(frame.index).fillna("")
    if newest_by:
        frame["hours_since_newest"] = _hours_since_newest(known, newest_by, [last for _, last in windows])
    return frame


def _windows(start: datetime, end: datetime) -> list[Window]:
    """[start, end) cut into days from its start; the last may be shorter."""
    count = max(0, -((start - end) // WINDOW))
    return [(start + day * WINDOW, min(start + (day + 1) * WINDOW, end)) for day in range(count)]


def _usual(known: pd.DataFrame, days: list[Window], values: Sequence[str]) -> pd.DataFrame:
    """Medians of the days' references. A week without rows is one that never landed."""
    weeks = [_summary(known, [(first - back, last - back) for first, last in days], values) for back in REFERENCES]
    landed = pd.concat([week.where(week.rows > 0) for week in weeks]).groupby(level=0)
    return landed.median().where(landed.count() >= MIN_REFERENCES)


def _summary(known: pd.DataFrame, windows: list[Window], values: Sequence[str]) -> pd.DataFrame:
    """Rows, medians and interquartile ranges of each window; `known` is indexed by time, in its order."""
    first, last = (known.index.searchsorted(_moments(window[side] for window in windows)) for side in (0, 1))
    summary: dict[str, npt.NDArray[np.float64]] = {"rows": (last - first).astype("float64")}
    for value in values:
        column = known[value].to_numpy("float64", na_value=np.nan)
        quartiles = [_quartiles(column[begin:stop]) for begin, stop in zip(first, last, strict=True)]
        low, summary[f"{value}_median"], high = np.array(quartiles, dtype="float64").reshape(-1, 3).T
        summary[f"{value}_iqr"] = high - low
    return pd.DataFrame(summary)


def _quartiles(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    told = values[~np.isnan(values)]
    return np.percentile(told, [25, 50, 75]) if len(told) >= MIN_VALUES else np.full(3, np.nan)


def _narrowest(known: pd.DataFrame, windows: list[Window], value: str, by: str) -> tuple[pd.Series, pd.Series]:
    """For each window, the least interquartile range of a group, and which group's it is."""
    groups = known.groupby(by)
    spreads = pd.DataFrame(
        {name: _summary(group, windows, [value])[f"{value}_iqr"] for name, group in groups}, index=range(len(windows))
    ).dropna(how="all")
    return spreads.min(axis=1).astype("float64"), spreads.fillna(np.inf).idxmin(axis=1)


def _hours_since_newest(known: pd.DataFrame, newest_by: str, moments: list[datetime]) -> npt.NDArray[np.float64]:
    """At each moment, the hours since the newest event of the group whose newest is oldest; NaN before any event."""
    ends = _moments(moments)
    longest = np.full(len(ends), np.nan)
    for _, group in known.groupby(newest_by):
        before = np.concatenate([[np.datetime64("NaT")], group.index.to_numpy()])
        longest = np.fmax(longest, (ends - before[group.index.searchsorted(ends)]) / np.timedelta64(1, "h"))
    return longest


def _moments(moments: Iterable[datetime]) -> npt.NDArray[np.datetime64]:
    return np.array([moment.astimezone(UTC).replace(tzinfo=None) for moment in moments], dtype="datetime64[us]")
