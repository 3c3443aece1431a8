"""What the loop and the monitors have found: their tables in; headlines with their history, and events, out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Row, func, inspect, select

from fti.contract.events import CYCLE_STEPS, RETRAININGS, breaches, events
from fti.contract.predictions import CHAMPION
from fti.contract.results import RESULTS, VERDICTS

MOMENTS = 30
LOOKBACK = timedelta(days=30)
# The measurements that say how a monitor's subject is as a whole.
HEADLINES = {
    "consistency": ("consistency",),
    "quality": ("roc_auc", "rmse", "bias"),  # whichever the model's task has
    "drift": ("drifted_share", "prediction"),
    "freshness": ("materialization_lag_hours", "online_rows_lost"),
    "volume": ("rows_of_usual",),
    "quarantine": ("held_share",),
    "cycle": (),
}
OF_MODELS = ("consistency", "quality", "drift")
LOW_IS_BAD = ("rows_of_usual",)
RANKS: dict[str, int] = {verdict: rank for rank, verdict in enumerate(VERDICTS)}


def monitors(engine: Engine, version: str | None) -> list[dict[str, Any]]:
    """The newest headline measurements, each with those of the moments before, the oldest first.

    Of several model versions it is that of the one that serves, in what it answered; failing that, of another's
    answers, or of batches. Of views and tables it is the worst one's. Where something else that a monitor measured has
    a worse verdict than all of these, it comes too.
    """
    if not inspect(engine).has_table(RESULTS.name):
        return []  # nothing was monitored yet
    columns = RESULTS.c
    moments = select(columns.as_of).distinct().order_by(columns.as_of.desc()).limit(MOMENTS)
    wanted = {metric for metrics in HEADLINES.values() for metric in metrics}
    with engine.connect() as connection:
        newest_first = connection.scalars(moments).all()
        if not newest_first:
            return []
        headlines = select(RESULTS).where(columns.as_of.in_(newest_first), columns.metric.in_(wanted))
        judged = select(RESULTS).where(columns.as_of == newest_first[0], columns.verdict.is_not(None))
        measured, now = connection.execute(headlines).all(), connection.execute(judged).all()
    by_metric: dict[tuple[str, str], list[Row[Any]]] = {}
    for one in measured:
        by_metric.setdefault((one.monitor, one.metric), []).append(one)
    shown = []
    for monitor, metrics in HEADLINES.items():
        mine = [by_metric[monitor, metric] for metric in metrics if (monitor, metric) in by_metric]
        told = [_measured(rows, version, newest_first) for rows in mine]
        found = [one for one in told if one is not None]
        worst = max((one for one in now if one.monitor == monitor), key=_badness, default=None)
        if worst is not None and all(_rank(worst.verdict) > _rank(one["verdict"]) for one in found):
            found.append(_shown(worst, [worst]))
        shown += found
    return shown


def _measured(rows: Sequence[Row[Any]], version: str | None, newest_first: Sequence[datetime]) -> dict[str, Any] | None:
    """One metric of all moments; None when the newest has it not."""
    by_moment: dict[datetime, list[Row[Any]]] = {}
    for row in rows:
        by_moment.setdefault(row.as_of, []).append(row)
    if newest_first[0] not in by_moment:
        return None
    of_models = rows[0].monitor in OF_MODELS
    choose = (lambda one: _speaks_for(one, version)) if of_models else _badness
    newest = max(by_moment[newest_first[0]], key=choose)
    history = [
        max(same, key=choose)
        for moment in reversed(newest_first)
        if (same := [one for one in by_moment.get(moment, []) if of_models or one.subject == newest.subject])
    ]
    return _shown(newest, history)


def _speaks_for(one: Row[Any], version: str | None) -> tuple[Any, ...]:
    """Of two measurements of models the greater is the one to show."""
    answers = one.subject.endswith(f", {CHAMPION}")
    return answers and f" version {version}, " in one.subject, answers, one.end - one.start, one.end, one.rows


def _badness(one: Row[Any]) -> tuple[int, float]:
    value = one.value or 0.0
    return _rank(one.verdict), -value if one.metric in LOW_IS_BAD else value


def _rank(verdict: str | None) -> int:
    return -1 if verdict is None else RANKS[verdict]


def _shown(newest: Row[Any], history: Sequence[Row[Any]]) -> dict[str, Any]:
    about = {name: getattr(newest, name) for name in ("monitor", "subject", "metric", "verdict", "value", "as_of")}
    points = [{name: getattr(one, name) for name in ("as_of", "value", "low", "high")} for one in history]
    return about | {"details": newest.details, "history": points}


def happened(engine: Engine) -> list[tuple[datetime, str]]:
    """What the loop did and what was found in breach, in the thirty days before the newest moment that is recorded."""
    there = {*inspect(engine).get_table_names()}
    tables = [table for table in (RESULTS, CYCLE_STEPS) if table.name in there]
    with engine.connect() as connection:
        newest = [connection.scalar(select(func.max(table.c.as_of))) for table in tables]
    last = max((moment for moment in newest if moment), default=None)
    found: list[tuple[datetime, str]] = []
    if last is not None and {CYCLE_STEPS.name, RETRAININGS.name} <= there:
        found += events(engine, last - LOOKBACK, last)
    if last is not None and RESULTS.name in there:
        found += breaches(engine, last - LOOKBACK, last)
    return found
