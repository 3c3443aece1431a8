"""Consistency: served features in; how far they agree with what training would have seen at the same moments, out.

Logged requests are asked again of the offline store, point in time, through the contract of the version that answered
them. What differs is training-serving skew, whatever has caused it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from validation.contract import FeatureInterface, StoredView
from validation.monitoring.logged import Logged
from validation.monitoring.results import Result, by_limits
from validation.spine import PREDICTION_TIME, with_features

if TYPE_CHECKING:
    from feast import FeatureStore

MONITOR = "consistency"
SAMPLE_ROWS = 20_000
EXPLAINED_ROWS = 500
# Shares of a feature's values that differ. In steady state none does.
INVESTIGATE, BREACH = 0.001, 0.01
TOLERANCE = 1e-9  # values travel through JSON, which keeps every bit: this is for sums in another order
ROW = "__row"


def consistency(
    store: FeatureStore, served: Logged, start: datetime, end: datetime, rows: int = SAMPLE_ROWS
) -> list[Result]:
    """Replay about `rows` of the predictions: one result for all values, and one for each feature."""
    sample = sampled(served, rows)
    count = len(sample.requests)
    interface = sample.contract.interface
    replayed = replay(store, interface, sample.requests)
    differs = compared(sample.features, replayed)
    wrong = {str(name): differs[name].ne("") for name in differs}
    total = sum(int(column.sum()) for column in wrong.values())
    share = total / (count * len(wrong)) if count else None
    results = [
        Result(
            MONITOR, start, end, served.subject, "consistency", None if share is None else 1 - share, count,
            by_limits(share, INVESTIGATE, BREACH), details=f"{total:,} of {count * len(wrong):,} served values differ",
        )
    ]  # fmt: skip
    reasons = _reasons(store, sample, wrong)
    for name, column in wrong.items():
        kinds = differs[name].value_counts()
        told = [f"{int(kinds[kind]):,} {kind}" for kind in ("mismatch", "missing", "extra") if kind in kinds]
        told += _how_far(sample.features[name][column], replayed[name][column])
        told += [reasons[name]] if name in reasons else []
        part = float(column.mean()) if count else None
        verdict = by_limits(part, INVESTIGATE, BREACH)
        results.append(Result(MONITOR, start, end, served.subject, name, part, count, verdict, details="; ".join(told)))
    return results


def sampled(served: Logged, rows: int) -> Logged:
    """About so many of the predictions: a request is chosen by its hash, at whatever moments it was asked, and once."""
    asked = served.requests
    once = ~asked.duplicated()
    fields = asked.drop(columns=PREDICTION_TIME).astype(str)
    share = min(1.0, rows / max(1, int(once.sum())))
    chosen = pd.util.hash_pandas_object(fields, index=False) < share * 2.0**64
    return served.only(once & chosen)


def replay(store: FeatureStore, interface: FeatureInterface, requests: pd.DataFrame) -> pd.DataFrame:
    """The model inputs of requests (their fields and `event_timestamp`) as the offline store has them, in their order.

    A request that training would leave out has only nulls.
    """
    if requests.empty:
        return interface.model_inputs(pd.DataFrame(columns=[one.name for one in interface.inputs]))
    numbered = requests.reset_index(drop=True).assign(**{ROW: np.arange(len(requests))})
    joined = with_features(store, interface, numbered, ROW)
    return interface.model_inputs(joined.set_index(ROW).reindex(numbered[ROW])).set_axis(requests.index)


def compared(served: pd.DataFrame, replayed: pd.DataFrame) -> pd.DataFrame:
    """What is wrong with each served value: it is `missing`, or `extra`, or another one (`mismatch`); '' if nothing."""
    found = {}
    for name in served:
        one, other = served[name], replayed[name]
        if one.dtype == object:
            same = one.eq(other)
        else:
            same = pd.Series(np.isclose(one, other, rtol=TOLERANCE, atol=TOLERANCE), one.index)
        found[name] = np.select(
            [one.isna() & other.isna(), one.isna(), other.isna(), same.to_numpy(dtype=bool)],
            ["", "missing", "extra", ""],
            "mismatch",
        )
    return pd.DataFrame(found, index=served.index)


def _how_far(served: pd.Series, replayed: pd.Series) -> list[str]:
    """The distribution of the differences, of numbers."""
    if served.dtype == object:
        return []
    apart = (served - replayed).abs().dropna()
    if apart.empty:
        return []
    return [f"apart by {apart.median():.4g} (median), {apart.quantile(0.95):.4g} (95 %), {apart.max():.4g} (most)"]


def _reasons(store: FeatureStore, served: Logged, wrong: dict[str, pd.Series]) -> dict[str, str]:
    """Why features differ, as far as the log can tell, by feature."""
    interface = served.contract.interface
    reasons: dict[str, str] = {}
    for view in interface.stored_views:
        names = [name for name in interface.taken_from(view) if wrong[name].any()]
        rows = pd.concat([wrong[name] for name in names], axis=1).any(axis=1) if names else None
        if rows is not None and view.name in served.ages:
            reason = _stale_or_changed(store, served.only(rows), view, names)
            reasons |= dict.fromkeys(names, f"{view.name}: {reason}")
    for computed in interface.on_demand_views:
        names = [name for name in computed.features if name in wrong and wrong[name].any()]
        stored = {name: view.name for view in interface.stored_views for name in view.features}
        read = {name: stored[name] for name in computed.inputs if name in stored}
        if any(wrong[name].any() for name in read if name in wrong):
            reason = "so do features that it is computed from"
        elif unseen := sorted({view for name, view in read.items() if name not in wrong}):
            reason = f"{', '.join(unseen)} was materialized late, or the code differs: its inputs are not logged"
        else:
            reason = "its inputs agree, so it is computed by other code online than offline"
        reasons |= dict.fromkeys(names, f"{computed.name}: {reason}")
    return reasons


def _stale_or_changed(store: FeatureStore, served: Logged, view: StoredView, names: list[str]) -> str:
    """Whether the served values were those of an older row, which the offline store knows too."""
    age = served.ages[view.name]
    if age.isna().all():
        return "no row was online: it was materialized late, or not at all"
    old = served.only(age.notna())
    old = old.only(pd.Series(np.arange(len(old.requests)) < EXPLAINED_ROWS))
    moments = old.requests[PREDICTION_TIME] - pd.to_timedelta(old.ages[view.name], unit="s").dt.round("us")
    moments = moments.astype("datetime64[us, UTC]")
    then = replay(
        store,
        served.contract.interface,
        old.requests.assign(**{PREDICTION_TIME: moments}),
    )
    differs = (compared(old.features[names], then[names]) != "").any(axis=1)
    if differs.mean() < 0.5:
        return f"older rows were online (median age {age.median() / 3600:.1f} h): it was materialized late"
    return "the offline store never had these values: the rows were changed since, or computed by other code"
