"""What a report shows of each monitor: the history of results in; sections with plots, or with what is lacking, out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd

from fti.contract.training_profile import PREDICTION
from fti.monitoring import consistency, drift, freshness, quality
from fti.monitoring.plots import Events, Line, Plot, bars, over_time

MOST_LINES, MOST_BARS, MOST_SUBJECTS = 8, 30, 4
SCORES = {
    "roc_auc": "ROC AUC: how well the outcomes are told apart",
    "log_loss": "Log loss",
    "calibration_error": "Calibration error",
    "rmse": "RMSE: how far the answers are off, the far ones most of all",
    "mae": "MAE: how far the answers are off",
    "r2": "R2: the share of the outcomes' variance that is explained",
    "bias": "Bias: mean forecast less mean outcome",
}


@dataclass(frozen=True)
class Section:
    """A heading, what it is about, plots, and in words what there are no data for."""

    title: str
    about: str
    plots: list[Plot] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)


def sections(history: pd.DataFrame, events: Events) -> list[Section]:
    """All sections, also those without data; `history` is what `results.history` returns."""
    makers: Sequence[Callable[[pd.DataFrame, Events], Section]] = (
        _consistency, _quality, _coverage, _drift, _freshness, _volume, _quarantine,
    )  # fmt: skip
    return [make(history, events) for make in makers]


def newest(history: pd.DataFrame) -> pd.DataFrame:
    """The results of the newest moment."""
    return history[history["as_of"] == history["as_of"].max()]


def _consistency(history: pd.DataFrame, events: Events) -> Section:
    section = Section(
        "Consistency",
        "How far the features that were served agree with what training would have seen at the same moments.",
    )
    mine = _of(history, consistency.MONITOR)
    whole = mine[mine["metric"] == "consistency"]
    limits = {"investigate": 1 - consistency.INVESTIGATE, "breach": 1 - consistency.BREACH}
    _add_lines(section, "Served values that agree", "share of values", whole, limits, events, percent=True)
    features = mine[~mine["metric"].isin(["consistency", "predictions", consistency.LATE_SHARE])]
    most = features.groupby(["subject", "metric"])["value"].max()
    worst = most[most > 0].nlargest(MOST_LINES).index
    if len(worst):
        several = worst.get_level_values("subject").nunique() > 1
        named = features.assign(
            subject=features["metric"] + (" of " + features["subject"] if several else ""),
            worst=pd.MultiIndex.from_frame(features[["subject", "metric"]]).isin(worst),
        )
        limits = {"investigate": consistency.INVESTIGATE, "breach": consistency.BREACH}
        title, label = "Features that differ most", "share of values that differ"
        _add_lines(section, title, label, named[named["worst"]], limits, events, percent=True)
    elif features["value"].notna().any():
        section.lacking.append("Features that differ most: none differs, in any of the windows.")
    return section


def _quality(history: pd.DataFrame, events: Events) -> Section:
    section = Section(
        "Quality",
        "How good the answers were, of predictions whose outcomes are known. Bands hold what chance explains, "
        "small dots are single days, dotted lines what the version had in training's validation.",
    )
    mine = _of(history, quality.MONITOR)
    whole = mine[mine["verdict"].notna() & mine["verdict"].ne("no_data")]
    if whole.empty:
        section.lacking.append(f"There are no data{_why(mine[mine['verdict'].notna()])}.")
        return section
    days = mine[mine["verdict"].isna()].sort_values("as_of")
    days = days.drop_duplicates(["subject", "metric", "start"], keep="last").assign(at=lambda frame: frame["start"])
    told = set(whole["metric"])
    for metric, title in SCORES.items():
        if metric not in told:  # a score of the other task
            continue
        shown, dots = (frame[frame["metric"] == metric] for frame in (whole, days))
        label = title.partition(":")[0]
        _add_lines(section, title, label, shown.assign(at=shown["end"]), {}, events, dots, "end of the window (UTC)")
    return section


def _coverage(history: pd.DataFrame, events: Events) -> Section:
    section = Section("Label coverage", "The share of predictions whose outcomes are known by now.")
    mine = _of(history, quality.MONITOR)
    whole = mine[(mine["metric"] == "label_coverage") & mine["verdict"].notna()]
    limits = {"no data below": quality.MIN_COVERAGE}
    _add_lines(section, "Predictions with a label", "share of predictions", whole, limits, events, percent=True)
    return section


def _drift(history: pd.DataFrame, events: Events) -> Section:
    section = Section(
        "Drift",
        "How far what was served lies from the version's training set: the population stability index (PSI). "
        "Upright marks and bands are what chance alone may reach.",
    )
    mine = _of(history, drift.MONITOR)
    limits = {"investigate": drift.INVESTIGATE, "breach": drift.BREACH}
    no_feature = ["drifted_share", "predictions", PREDICTION]
    moved, share = (mine[mine["metric"] == metric] for metric in (PREDICTION, "drifted_share"))
    _add_lines(section, "PSI of the predictions", "population stability index", moved, limits, events)
    shares = {"investigate": drift.DRIFTED_INVESTIGATE, "breach": drift.DRIFTED_BREACH}
    title = f"Features with a PSI above {drift.BREACH}"
    _add_lines(section, title, "share of features", share, shares, events, percent=True)
    now = newest(mine)
    now = now[~now["metric"].isin(no_feature) & now["value"].notna()]
    for subject in _subjects(now)[:MOST_SUBJECTS]:
        sorted_ = now[now["subject"] == subject].set_index("metric").sort_values("value", ascending=False)
        shown = sorted_.head(MOST_BARS)
        count = f", the {MOST_BARS} furthest of {len(sorted_)}" if len(sorted_) > MOST_BARS else ""
        section.plots.append(
            bars(
                f"PSI by feature{count}", f"population stability index, {subject}", shown["value"],
                shown["verdict"].fillna("no_data").tolist(), limits, shown["high"], "by chance",
                linear_to=drift.BREACH if shown["value"].max() > 4 * drift.BREACH else None,
            )
        )  # fmt: skip
    if now.empty:
        section.lacking.append("PSI by feature: there are no data in the newest window.")
    return section


def _freshness(history: pd.DataFrame, _: Events) -> Section:
    section = Section("Freshness", "How old the newest rows of each feature view are, beside its time to live (ttl).")
    now = newest(_of(history, freshness.FRESHNESS))
    titles = {
        "offline_age_hours": "Age of the newest row in the offline store",
        "materialization_lag_hours": "Time since the online store was materialized",
    }
    for metric, title in titles.items():
        mine = now[(now["metric"] == metric) & now["value"].notna()].set_index("subject")
        if mine.empty:
            section.lacking.append(f"{title}: there are no data in the newest window.")
            continue
        ttl = pd.to_numeric(mine["details"].str.extract(r"the ttl is (\d+) h", expand=False))
        verdicts = mine["verdict"].fillna("no_data").tolist()
        section.plots.append(bars(title, "hours", mine["value"], verdicts, {}, ttl, "ttl", linear_to=1))
    return section


def _volume(history: pd.DataFrame, events: Events) -> Section:
    section = Section("Volume", "Rows a day of each feature view, as a share of the median of the four weeks before.")
    mine = _of(history, freshness.VOLUME).sort_values("as_of")
    days = mine.drop_duplicates(["subject", "start"], keep="last").assign(at=lambda frame: frame["start"])
    days = days[days["value"].notna()]
    # Most views have about what is usual: those furthest from it are told.
    off = (days["value"] - 1).abs().groupby(days["subject"]).max().sort_values(ascending=False, kind="stable")
    told = days[days["subject"].isin(off.index[:MOST_LINES])]
    limits = {"investigate": 1 - freshness.FEWER_INVESTIGATE, "breach": 1 - freshness.FEWER_BREACH}
    title = "Rows a day" if len(off) <= MOST_LINES else f"Rows a day: the {MOST_LINES} of {len(off)} views furthest off"
    _add_lines(section, title, "share of the usual", told, limits, events, when="day (UTC)", percent=True)
    return section


def _quarantine(history: pd.DataFrame, events: Events) -> Section:
    section = Section("Quarantine", "The share of each table's rows that are held back, because they broke a rule.")
    mine = _of(history, freshness.QUARANTINE)
    limits = {"investigate": freshness.HELD_INVESTIGATE, "breach": freshness.HELD_BREACH}
    _add_lines(section, "Rows held back", "share of rows", mine, limits, events, percent=True)
    return section


def _of(history: pd.DataFrame, monitor: str) -> pd.DataFrame:
    mine = history[history["monitor"] == monitor]
    return mine.assign(at=mine["as_of"])


def _add_lines(
    section: Section, title: str, label: str, mine: pd.DataFrame, limits: dict[str, float], events: Events,
    dots: pd.DataFrame | None = None, when: str = "as of (UTC)", percent: bool = False,
) -> None:  # fmt: skip
    """A line a subject, in a plot, or what is lacking for it."""
    known = mine[mine["value"].notna()]
    if known.empty:
        section.lacking.append(f"{title}: there are no data{_why(mine)}.")
        return
    subjects = _subjects(known)
    if len(subjects) > MOST_LINES:
        section.lacking.append(f"{title}: the {MOST_LINES} newest of {len(subjects)} are drawn.")
    lines = {}
    for subject in subjects[:MOST_LINES]:
        points = mine[mine["subject"] == subject]
        single = None if dots is None else dots[(dots["subject"] == subject) & dots["value"].notna()]
        lines[subject] = Line(points, _in_training(points), *([] if single is None else [single]))
    section.plots.append(over_time(title, label, lines, limits, events, percent, when))


def _subjects(mine: pd.DataFrame) -> list[str]:
    """Those measured last come first, by name."""
    last = mine.groupby("subject")["as_of"].max()
    return [str(name) for name in last.sort_index().sort_values(ascending=False, kind="stable").index]


def _in_training(points: pd.DataFrame) -> float | None:
    found = list(_matches(r"in training's validation it was ([-\d.]+)", points["details"]))
    return float(found[-1]) if found else None


def _why(mine: pd.DataFrame) -> str:
    told = [text for text in mine["details"] if text]
    return f" ({told[-1]})" if told else ""


def _matches(pattern: str, texts: pd.Series) -> Iterator[str]:
    return (found[1] for found in (re.search(pattern, text) for text in texts) if found)
