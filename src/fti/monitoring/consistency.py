"""Consistency: served features in; how far they agree with what training would have seen at the same moments, out.

Logged requests are asked again of the offline store, point in time, through the contract of the version that answered
them. What differs is training-serving skew, whatever has caused it; but for what is only late, by no more than the
refresh of the online store allows.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fti.contract.interface import FeatureInterface, OnDemandView, StoredView
from fti.contract.results import Result, by_limits
from fti.contract.spine import PREDICTION_TIME, with_features
from fti.monitoring.logged import Logged

if TYPE_CHECKING:
    from feast import FeatureStore

MONITOR = "consistency"
LATE, LATE_SHARE = "late", "late_share"
EXPLAINED_ROWS = 500
# Shares of a feature's values that differ. In steady state none does.
INVESTIGATE, BREACH = 0.001, 0.01
TOLERANCE = 1e-9  # values travel through JSON, which keeps every bit: this is for sums in another order
ROW = "__row"


def consistency(
    store: FeatureStore, sample: Logged, start: datetime, end: datetime, allowance: timedelta = timedelta(0)
) -> list[Result]:
    """Replay a sample of the predictions: one result for all values, and one for each feature.

    Values say what differs; verdicts leave out what is `late` within the allowance, whose share is a result too.
    """
    count = len(sample.requests)
    interface = sample.contract.interface
    replayed = replay(store, interface, sample.requests)
    differs = compared(sample.features, replayed)
    behind = _behind(sample)
    excused = late(interface, differs, _agrees_then(store, sample, differs, behind, allowance))
    apart = differs != ""
    wrong = {str(name): apart[name] & ~excused[name] for name in differs}
    cells, total, on_time = apart.size, int(apart.to_numpy().sum()), int(excused.to_numpy().sum())

    def result(metric: str, value: float | None, share: float | None, *told: str) -> Result:
        verdict = by_limits(share, INVESTIGATE, BREACH)
        return Result(MONITOR, start, end, sample.subject, metric, value, count, verdict, details="; ".join(told))

    whole = [f"{total:,} of {cells:,} served values differ", *([f"{on_time:,} of them are late"] if on_time else [])]
    agreeing, unexplained = (1 - total / cells, (total - on_time) / cells) if cells else (None, None)
    results = [result("consistency", agreeing, unexplained, *whole)]
    if allowance:
        told = result(LATE_SHARE, on_time / cells if cells else None, None, _how_late(behind, excused, allowance))
        results.append(replace(told, verdict=None))
    reasons = _reasons(store, sample, wrong)
    for name, column in wrong.items():
        words = _kinds(differs[name].mask(excused[name], LATE))
        words += _how_far(sample.features[name][column], replayed[name][column])
        words += [reasons[name]] if name in reasons else []
        parts = (float(apart[name].mean()), float(column.mean())) if count else (None, None)
        results.append(result(name, *parts, *words))
    return results


def _kinds(differs: pd.Series) -> list[str]:
    """How many values differ in each way."""
    kinds = differs.value_counts()
    return [f"{int(kinds[kind]):,} {kind}" for kind in ("mismatch", "missing", "extra", LATE) if kind in kinds]


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


def late(interface: FeatureInterface, differs: pd.DataFrame, agrees: pd.DataFrame) -> pd.DataFrame:
    """Which of the values that differ are only late; `agrees` tells which of them agree with an earlier moment.

    A stored one that agrees is. On-demand code may read the moment itself, so its values are judged by their stored
    inputs: they are late if some of these are, and none differs otherwise. Inputs that no model takes are not logged;
    a value that has such is late if it agrees itself.
    """
    apart = differs != ""
    found = apart & agrees
    for computed in interface.on_demand_views:
        read = _stored_inputs(interface, computed)
        seen = [name for name in read if name in differs]
        blamed = (apart[seen] & ~found[seen]).any(axis=1)
        for name in (name for name in computed.features if name in differs):
            by_inputs = found[seen].any(axis=1)
            may = by_inputs | agrees[name] if len(seen) < len(read) else by_inputs
            found[name] = apart[name] & may & ~blamed
    return found


def _behind(served: Logged) -> pd.Series:
    """How long before the moment asked about the newest of the served rows was stamped; NaT where there was none."""
    return pd.to_timedelta(served.ages.min(axis=1).astype("float64"), unit="s").dt.round("us")


def _agrees_then(
    store: FeatureStore, served: Logged, differs: pd.DataFrame, behind: pd.Series, allowance: timedelta
) -> pd.DataFrame:
    """Which values agree with the moment of the newest row that was served with them, if the allowance reaches there.

    If all views were materialized together, at that moment or later, no row of theirs lies between the two, for it
    would have been served: as of either, the offline store has the same. A view that was left behind does not agree.
    """
    agrees = pd.DataFrame(False, differs.index, differs.columns)
    asked = (differs != "").any(axis=1) & (behind > timedelta(0)) & (behind <= allowance)
    if asked.any():
        then = replay(store, served.contract.interface, _as_of_before(served.requests[asked], behind[asked]))
        agrees.loc[asked] = compared(served.features[asked], then) == ""
    return agrees


def _as_of_before(requests: pd.DataFrame, ago: pd.Series) -> pd.DataFrame:
    """The same requests, asked so long before."""
    # Feast's DuckDB store takes no nanoseconds.
    return requests.assign(**{PREDICTION_TIME: (requests[PREDICTION_TIME] - ago).astype("datetime64[us, UTC]")})


def _how_late(behind: pd.Series, excused: pd.DataFrame, allowance: timedelta) -> str:
    allowed = f"{allowance / timedelta(minutes=1):.0f} minutes are allowed"
    minutes = behind[excused.any(axis=1)].dt.total_seconds() / 60
    if minutes.empty:
        return f"none is late; {allowed}"
    return f"late by {minutes.median():.1f} (median), {minutes.max():.1f} (most) minutes; {allowed}"


def _stored_inputs(interface: FeatureInterface, computed: OnDemandView) -> dict[str, str]:
    """The stored features that an on-demand view reads, with their views."""
    stored = {name: view.name for view in interface.stored_views for name in view.features}
    return {name: stored[name] for name in computed.reads.values() if name in stored}


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
        read = _stored_inputs(interface, computed)
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
    ago = pd.to_timedelta(old.ages[view.name], unit="s").dt.round("us")
    then = replay(store, served.contract.interface, _as_of_before(old.requests, ago))
    differs = (compared(old.features[names], then[names]) != "").any(axis=1)
    if differs.mean() < 0.5:
        return f"older rows were online (median age {age.median() / 3600:.1f} h): it was materialized late"
    return "the offline store never had these values: the rows were changed since, or computed by other code"
