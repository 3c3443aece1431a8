"""The report: results in SQL in; one page of HTML that needs nothing else out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import Engine

from fti.contract.results import VERDICTS, Result, history, saved, worst
from fti.monitoring.plots import Events
from fti.monitoring.sections import sections

TEMPLATE = "report.html.jinja"
HISTORY = timedelta(days=90)
MOST_MOMENTS, MOST_ROWS = 120, 1500
SHOWN = 20  # rows to look at that are not folded


def write_report(engine: Engine, as_of: datetime, path: Path, events: Events = (), since: timedelta = HISTORY) -> None:
    """Replace the file, at once. The verdict is of the newest results up to `as_of`; the history goes `since` back.

    `events` are moments with a text each, such as of trainings, marked in the plots over time.
    """
    page = render(engine, as_of, events, since)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def render(engine: Engine, as_of: datetime, events: Events, since: timedelta) -> str:
    """The page as text."""
    found = history(engine, as_of, since, MOST_MOMENTS)
    moments = sorted({moment.to_pydatetime() for moment in found["as_of"]})
    results = _ordered(saved(engine, moments[-1])) if moments else []
    shown = sorted((at, text) for at, text in events if as_of - since < at <= as_of)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"moment": _moment, "number": _number, "window": _window, "spaced": _spaced}
    return environment.get_template(TEMPLATE).render(
        asked=as_of,
        as_of=moments[-1] if moments else None,
        first=moments[0] if moments else None,
        moments=len(moments),
        start=min((one.start for one in results), default=None),
        end=max((one.end for one in results), default=None),
        verdict=worst(results),
        counts=_counts(results),
        look=[one for one in results if one.verdict in ("breach", "investigate")],
        all=results,
        events=shown,
        sections=sections(found, shown),
        most_rows=MOST_ROWS,
        most_shown=SHOWN,
    )


def _ordered(results: Sequence[Result]) -> list[Result]:
    """The worst first."""
    return sorted(results, key=lambda one: -VERDICTS.index(one.verdict) if one.verdict else 1)


def _counts(results: Sequence[Result]) -> str:
    counted = Counter(one.verdict for one in results)
    told = [f"{counted[verdict]:,} {_spaced(verdict)}" for verdict in reversed(VERDICTS) if counted[verdict]]
    return ", ".join([*told, *([f"{counted[None]:,} only to be looked at"] if counted[None] else [])])


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d}" if at.hour == at.minute == 0 else f"{at:%Y-%m-%d %H:%M}"


def _window(result: Result) -> str:
    return _moment(result.end) if result.start == result.end else f"{_moment(result.start)} to {_moment(result.end)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _spaced(verdict: str | None) -> str:
    return (verdict or "").replace("_", " ")
