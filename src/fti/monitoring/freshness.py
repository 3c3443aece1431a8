"""Freshness and volume: Feast and a moment in; how old views are, what is online of them, how many rows they
gained, how many are held, out."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from upath import UPath

from fti.contract.results import Result, Verdict, by_limits
from fti.contract.spine import view_moments
from fti.monitoring.online import Presence, presence
from fti.stores.tables import OF_FEATURES, tables_in, tables_of

if TYPE_CHECKING:
    from feast import FeatureStore

FRESHNESS, VOLUME, QUARANTINE = "freshness", "volume", "quarantine"
LOOKBACK = timedelta(days=28)
DAY = timedelta(days=1)
# Shares of the usual number of rows a day that are missing; shares of a table's rows that are held.
FEWER_INVESTIGATE, FEWER_BREACH = 0.5, 0.9
HELD_INVESTIGATE, HELD_BREACH = 0.01, 0.05
LOST_INVESTIGATE, LOST_BREACH = 0.0, 0.05  # shares of the keys that should be online
HOUR = 3600.0


def freshness(store: FeatureStore, as_of: datetime) -> list[Result]:
    """The age, in hours, of the newest row of each view offline, and of the newest moment that was materialized.

    What is older than the view's ttl is of no use to anybody: a breach; beyond half of it, to be looked at.
    """
    results = []
    for view in _views(store):
        newest = view_moments(store, view.name, as_of - (view.ttl or LOOKBACK) - LOOKBACK, as_of).max()
        ttl = view.ttl.total_seconds() / HOUR if view.ttl else None
        offline = None if pd.isna(newest) else (as_of - newest) / timedelta(hours=1)
        results.append(_aged(view.name, "offline_age_hours", offline, ttl, as_of))
        if view.online:
            until = view.most_recent_end_time
            lag = None if until is None else max(0.0, (as_of - until) / timedelta(hours=1))
            results.append(_aged(view.name, "materialization_lag_hours", lag, ttl, as_of))
    return results


def online_rows(store: FeatureStore, as_of: datetime) -> list[Result]:
    """The share of sampled keys of each view whose newest row is not online, though it was materialized."""
    return [_lost(one, as_of) for one in presence(store, as_of)]


def lost_views(store: FeatureStore, as_of: datetime) -> list[str]:
    """The views of whose rows as of a moment so many are not online that they have to be filled anew."""
    return [one.view for one in presence(store, as_of) if (one.lost_share or 0) > LOST_BREACH]


def _lost(view: Presence, as_of: datetime) -> Result:
    told = f"{view.absent} of {view.keys} sampled keys have no row online, {view.older} an older one"
    mend = "; refill it: make materialize" if view.absent or view.older else ""
    verdict = by_limits(view.lost_share, LOST_INVESTIGATE, LOST_BREACH)
    return Result(
        FRESHNESS, as_of, as_of, view.view, "online_rows_lost", view.lost_share, view.keys, verdict,
        details=f"{told}{mend}",
    )  # fmt: skip


def _aged(view: str, metric: str, hours: float | None, ttl: float | None, as_of: datetime) -> Result:
    verdict: Verdict = "healthy" if hours is not None else "no_data"
    if ttl is not None:
        verdict = by_limits(hours, ttl / 2, ttl) if hours is not None else "breach"
    found = "there is none" if hours is None else f"{hours:.1f} h"
    told = f"{found}; the ttl is {ttl:.0f} h" if ttl is not None else f"{found}; without a ttl"
    return Result(FRESHNESS, as_of, as_of, view, metric, hours, 1, verdict, details=told)


def volume(store: FeatureStore, start: datetime, end: datetime) -> list[Result]:
    """Rows a day of each view, as a share of the median of the four weeks before. Days begin when the interval does."""
    results, first = [], start - LOOKBACK
    for view in _views(store):
        numbers = (view_moments(store, view.name, first, end) - first) // DAY  # which day each row is of
        counts = numbers.value_counts().reindex(range((end - first) // DAY), fill_value=0)
        usual = float(counts[: LOOKBACK // DAY].median())
        for number, count in enumerate(counts[LOOKBACK // DAY :]):
            day = start + DAY * number
            share = count / usual if usual else None
            verdict = by_limits(None if share is None else 1 - share, FEWER_INVESTIGATE, FEWER_BREACH)
            results.append(
                Result(
                    VOLUME, day, day + DAY, view.name, "rows_of_usual", share,
                    int(count), verdict, details=f"{int(count):,} rows; usual are {usual:,.0f}",
                )
            )  # fmt: skip
    return results


def quarantine(store: FeatureStore, start: datetime, end: datetime) -> list[Result]:
    """The share of each table's rows of `[start, end)` that are held back."""
    import pyarrow.dataset as ds
    from deltalake import DeltaTable

    results, tables = [], tables_of(Path(str(store.repo_path)))
    for name in tables_in(tables / "quarantine"):
        held = _stamped(tables / "quarantine" / name, start, end, ds.field("released_at").is_null())
        features = tables / "features"
        guarded = (tables / "raw" / name, features / name, features / name.removeprefix(OF_FEATURES))
        kept = next(_stamped(one, start, end) for one in guarded if DeltaTable.is_deltatable(str(one)))
        share = held / (held + kept) if held + kept else None
        verdict = by_limits(share, HELD_INVESTIGATE, HELD_BREACH)
        told = f"{held:,} of {held + kept:,} rows are held; `make quarantine` lists them"
        results.append(Result(QUARANTINE, start, end, name, "held_share", share, held + kept, verdict, details=told))
    return results


def _views(store: FeatureStore) -> list[Any]:
    return sorted(store.list_feature_views(), key=lambda view: view.name)


def _stamped(table: UPath, start: datetime, end: datetime, also: Any = True) -> int:
    """How many rows of a Delta table are stamped in `[start, end)`, and fulfil another condition."""
    import pyarrow.dataset as ds
    from deltalake import DeltaTable

    stamp = ds.field("event_timestamp")
    return DeltaTable(str(table)).to_pyarrow_dataset().count_rows(filter=(stamp >= start) & (stamp < end) & also)
