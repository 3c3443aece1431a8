"""Plots of measurements: frames in; SVG that takes its colour from the page, with the same in words, out."""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from textwrap import shorten
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

INK = "#010203"  # no other colour of a plot: the page's own takes its place
QUIET = "#808890"
# Told apart on white and on black, also by those who see red and green alike; and each has a marker of its own.
COLOURS = ("#3584c8", "#d9780f", "#1f9e77", "#a06cd5", "#c2508d", "#8d6e3f", "#2aa5b5", "#7f8c2b")
MARKERS = "os^DvPX*"
BY_VERDICT = {"healthy": "#3584c8", "investigate": "#d9780f", "breach": "#cf3f4f", "no_data": QUIET}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text that can be found and read aloud
    "text.parse_math": False,  # a name may hold a $
    "font.size": 9.0, "axes.titlesize": 10.0, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": QUIET, "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 8.0,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
}  # fmt: skip
WIDTH, HEIGHT = 6.6, 3.0
LONG_NAME = 40  # characters: two such do not stand side by side in a legend
MOST_LABELS, MOST_MARKERS = 8, 40  # beyond so many, events have a number only, and a line's points no markers
TOLD = 8  # lines and bars that the words name

Events = Sequence[tuple[datetime, str]]


@dataclass(frozen=True)
class Plot:
    """A picture, as an `<svg>` element, and what it shows in words."""

    svg: str
    alt: str


@dataclass(frozen=True)
class Line:
    """Points over time: columns `at`, `value` and, where there is an interval, `low` and `high`.

    `reference` is a value to compare with; `dots` are further points, columns `at` and `value`, that are not joined.
    """

    points: pd.DataFrame
    reference: float | None = None
    dots: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["at", "value"]))


def over_time(
    title: str, label: str, lines: Mapping[str, Line], limits: Mapping[str, float], events: Events,
    percent: bool = False, when: str = "as of (UTC)",
) -> Plot:  # fmt: skip
    """Each line by its name, limits across, events as numbered verticals."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        for number, (name, line) in enumerate(lines.items()):
            _line(axes, name, line, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
        _limits(axes, limits)
        axes.set(title=title, xlabel=when, ylabel=label)
        shown = pd.concat([frame["at"] for line in lines.values() for frame in (line.points, line.dots) if len(frame)])
        _time_axis(axes, shown, events)
        _value_axis(axes, lines, limits)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        figure.legend(loc="outside lower center", ncols=1 if max(map(len, lines)) > LONG_NAME else 2)
        words = [_line_in_words(name, line) for name, line in lines.items()]
        marks = [f"{at:%Y-%m-%d %H:%M} {text}" for at, text in events]
        return _plot(figure, _in_words(title, words, limits, marks))


def bars(
    title: str, label: str, values: pd.Series, verdicts: Sequence[str], limits: Mapping[str, float],
    ticks: pd.Series | None = None, tick_name: str = "", linear_to: float | None = None,
) -> Plot:  # fmt: skip
    """A horizontal bar a name, in the order given, coloured by verdict; `ticks` mark another value of each name.

    From `linear_to` on the axis is logarithmic.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.19 * len(values)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(values))
        for verdict in [name for name in BY_VERDICT if name in verdicts]:
            mine = np.array([one == verdict for one in verdicts])
            axes.barh(
                places[mine], values[mine], height=0.7, color=BY_VERDICT[verdict], label=verdict.replace("_", " ")
            )
        if ticks is not None:
            axes.plot(ticks, places, "|", color=INK, markersize=9, markeredgewidth=1.6, label=tick_name)
        axes.set_yticks(places, [shorten(str(name), 44, placeholder="...") for name in values.index])
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set(title=title, xlabel=label)
        axes.grid(False, axis="y")
        for name, limit in limits.items():
            axes.axvline(limit, color=BY_VERDICT[name], linestyle="--", linewidth=1, label=f"{limit:g}: {name}")
        if linear_to is not None:
            axes.set_xscale("symlog", linthresh=linear_to, linscale=0.4)
            axes.set_xlim(0, None)
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        figure.legend(loc="outside lower center", ncols=5)
        words = [f"{name} {value:.3g}" for name, value in values.dropna().items()]
        return _plot(figure, _in_words(f"{title} ({label})", words, limits, []))


def _plot(figure: Figure, alt: str) -> Plot:
    """The figure as an element of a page: no outside reference, identifiers of its own, the page's ink."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue()
    # The metadata have addresses, the style would hold for the whole page, comments repeat the texts.
    text = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", text)
    # matplotlib names its elements alike in every figure.
    own = hashlib.sha256(alt.encode()).hexdigest()[:6]
    text = re.sub(r'(\sid="|xlink:href="#|url\(#)', rf"\g<1>{own}-", text)
    text = re.sub(r"(?<=[\s(\"-])\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", text)
    named = f'<svg role="img" aria-label="{html.escape(alt)}" '
    return Plot(text.replace(INK, "currentColor").replace("<svg ", named, 1), alt)


def _line(axes: Axes, name: str, line: Line, colour: str, marker: str) -> None:
    shown = shorten(name, 60, placeholder="...")
    points = line.points.sort_values("at")
    at = _naive(points["at"])
    if len(line.dots):
        axes.plot(_naive(line.dots["at"]), line.dots["value"], ".", color=colour, alpha=0.55, markersize=5)
    if "low" in points and points["low"].notna().any():
        low, high = (points[side].astype("float64") for side in ("low", "high"))
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        if len(points) == 1:
            axes.vlines(at, low, high, color=colour, linewidth=1.5)
    axes.plot(
        at,
        points["value"],
        marker=marker,
        markevery=max(1, len(at) // MOST_MARKERS),
        markersize=3.5,
        linewidth=1.3,
        color=colour,
        label=shown,
    )
    if line.reference is not None:
        axes.axhline(
            line.reference, color=colour, linestyle=":", linewidth=1.2, label=f"{line.reference:.3f} in training"
        )


def _limits(axes: Axes, limits: Mapping[str, float]) -> None:
    for name, limit in limits.items():
        colour = BY_VERDICT.get(name, QUIET)
        axes.axhline(limit, color=colour, linestyle="--", linewidth=1)
        axes.annotate(
            name, (1, limit), xycoords=("axes fraction", "data"), xytext=(-2, 2), textcoords="offset points",
            ha="right", color=colour, fontsize=7.5,
        )  # fmt: skip


def _time_axis(axes: Axes, moments: pd.Series, events: Events) -> None:
    shown = pd.concat([moments, pd.Series([pd.Timestamp(at) for at, _ in events], dtype=moments.dtype)])
    pad = max(timedelta(hours=12), (shown.max() - shown.min()) * 0.03)
    first, last = _naive(pd.Series([shown.min() - pad, shown.max() + pad]))
    axes.set_xlim(first, last)
    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    for number, (at, text) in enumerate(events, 1):
        there = _naive(pd.Series([pd.Timestamp(at)]))[0]
        axes.axvline(there, color=INK, linewidth=1, linestyle="-.", alpha=0.7)
        # All of the text is on the page.
        marked = f"{number} {shorten(text, 24, placeholder='...')}" if len(events) <= MOST_LABELS else str(number)
        axes.annotate(
            marked, (there, 1), xycoords=("data", "axes fraction"), xytext=(-3, -2), textcoords="offset points",
            ha="right", va="top", rotation=90, fontsize=7,
        )  # fmt: skip


def _value_axis(axes: Axes, lines: Mapping[str, Line], limits: Mapping[str, float]) -> None:
    """All that is drawn, no more: matplotlib widens an axis around a single value as if it might be any."""
    drawn = [frame[name] for line in lines.values() for frame in (line.points, line.dots)
             for name in ("value", "low", "high") if name in frame]  # fmt: skip
    drawn += [pd.Series([*limits.values(), *(line.reference for line in lines.values() if line.reference is not None)])]
    known = np.concatenate([values.to_numpy("float64") for values in drawn])
    low, high = np.nanmin(known), np.nanmax(known)
    pad = 0.06 * (high - low) or 0.01
    axes.set_ylim(low - pad, high + pad)


def _naive(moments: pd.Series) -> np.ndarray:
    """matplotlib draws moments without a zone as they are: these are UTC."""
    return pd.to_datetime(moments, utc=True).dt.tz_localize(None).to_numpy()


def _line_in_words(name: str, line: Line) -> str:
    known = line.points.sort_values("at").dropna(subset="value")
    if known.empty:
        return f"{name}: none"
    last, values = known.iloc[-1], known["value"]
    between = f" [{last['low']:.4g} to {last['high']:.4g}]" if "low" in known and pd.notna(last["low"]) else ""
    reference = "" if line.reference is None else f", in training {line.reference:.4g}"
    ranged = f", from {values.min():.4g} to {values.max():.4g} over {len(known)} moments" if len(known) > 1 else ""
    return f"{name}: {last['value']:.4g}{between} at {last['at']:%Y-%m-%d %H:%M}{ranged}{reference}"


def _in_words(title: str, words: Sequence[str], limits: Mapping[str, float], marks: Sequence[str]) -> str:
    told = [*words[:TOLD], *([f"and {len(words) - TOLD} more"] if len(words) > TOLD else [])]
    told += [f"limits: {', '.join(f'{name} {limit:g}' for name, limit in limits.items())}"] if limits else []
    told += [f"events: {', '.join(marks[:TOLD])}"] if marks else []
    return f"{title}. {'; '.join(told)}."
