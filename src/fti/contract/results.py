"""What monitors find: measurements with a verdict in; rows of the SQL table `monitor_results`, or lines, out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Literal, get_args

import pandas as pd
from sqlalchemy import (
    CheckConstraint,
    Column,
    Engine,
    Float,
    Integer,
    String,
    Table,
    delete,
    false,
    func,
    or_,
    select,
    true,
)

from fti.contract.predictions import METADATA, Utc

Verdict = Literal["no_data", "healthy", "investigate", "breach"]
OF_A_MODEL = ("consistency", "drift", "quality")
MONITORS = (*OF_A_MODEL, "freshness", "volume", "quarantine")
CYCLE = "cycle"  # results that say what became of a cycle's steps
SHOWN = 10  # metrics of a subject that the table names; all are in SQL
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)  # from the one that says least to the one that says most


@dataclass(frozen=True)
class Result:
    """One measurement over the predictions, or the moments, of `[start, end)`, and what to think of it.

    `subject` is what was measured: a model version with its role, a feature view, a table. `low` and `high` bound the
    value by chance, where that can be told. `rows` are those measured. A result that is only there to be looked at has
    no verdict. `details` say in words what was found.
    """

    monitor: str
    start: datetime
    end: datetime
    subject: str
    metric: str
    value: float | None
    rows: int
    verdict: Verdict | None
    low: float | None = None
    high: float | None = None
    details: str = ""


RESULTS = Table(
    "monitor_results",
    METADATA,
    Column("as_of", Utc, primary_key=True),
    Column("monitor", String, primary_key=True),
    Column("start", Utc, primary_key=True),
    Column("end", Utc, primary_key=True),
    Column("subject", String, primary_key=True),
    Column("metric", String, primary_key=True),
    Column("value", Float),
    Column("low", Float),
    Column("high", Float),
    Column("rows", Integer, nullable=False),
    Column("verdict", String, CheckConstraint(f"verdict IN {VERDICTS}")),
    Column("details", String, nullable=False),
)


def by_limits(value: float | None, investigate: float, breach: float) -> Verdict:
    """The verdict on a value that is better the lower it is; None is no data."""
    if value is None:
        return "no_data"
    return "breach" if value > breach else "investigate" if value > investigate else "healthy"


def worst(results: Iterable[Result]) -> Verdict:
    """The verdict that says most; without any result there are no data."""
    return max((one.verdict for one in results if one.verdict), key=VERDICTS.index, default="no_data")


def save(engine: Engine, as_of: datetime, results: Sequence[Result], model: str | None = None) -> None:
    """Put the results in the place of what was found as of that moment, in one transaction.

    What was found of other models than `model` stays (None: nothing does), and so does what became of a cycle's steps,
    unless these results say it anew.
    """
    columns = RESULTS.c
    named = (columns.subject == model) | columns.subject.startswith(f"{model} version ", autoescape=True)
    mine = true() if model is None else named
    found = {one.monitor for one in results}
    old = or_(
        columns.monitor.not_in([*OF_A_MODEL, CYCLE]),
        columns.monitor.in_(OF_A_MODEL) & mine,
        columns.monitor == CYCLE if CYCLE in found else false(),
    )
    with engine.begin() as connection:
        connection.execute(delete(RESULTS).where(columns.as_of == as_of, old))
        if results:
            connection.execute(RESULTS.insert(), [asdict(result) | {"as_of": as_of} for result in results])


def saved(engine: Engine, as_of: datetime) -> list[Result]:
    """The results that were found as of a moment."""
    columns = [RESULTS.c[field.name] for field in fields(Result)]
    asked = select(*columns).where(RESULTS.c.as_of == as_of)
    with engine.connect() as connection:
        return [Result(**row) for row in connection.execute(asked.order_by(*RESULTS.primary_key)).mappings()]


def remove(engine: Engine, as_of: datetime) -> int:
    """Delete what was found as of a moment; returns how many results."""
    with engine.begin() as connection:
        return connection.execute(delete(RESULTS).where(RESULTS.c.as_of == as_of)).rowcount


def moments(engine: Engine) -> list[datetime]:
    """The moments that anything was monitored as of, the newest first."""
    column = RESULTS.c.as_of
    with engine.connect() as connection:
        return [*connection.scalars(select(column).distinct().order_by(column.desc()))]


def latest(engine: Engine) -> datetime | None:
    """The newest moment that anything was monitored as of."""
    with engine.connect() as connection:
        return connection.scalar(select(func.max(RESULTS.c.as_of)))


def history(engine: Engine, as_of: datetime, since: timedelta, moments: int) -> pd.DataFrame:
    """The results as of `(as_of - since, as_of]`, in order: the newest, and of the others evenly, so many in all.

    Columns are `as_of` and a result's fields; value, low and high are NaN where there is none.
    """
    column = RESULTS.c.as_of
    asked = select(column).where(column > as_of - since, column <= as_of).distinct().order_by(column.desc())
    with engine.connect() as connection:
        found = connection.execute(asked).scalars().all()
        chosen = found[:: -(-len(found) // moments) or 1]
        rows = connection.execute(select(RESULTS).where(column.in_(chosen)).order_by(*RESULTS.primary_key)).all()
    frame = pd.DataFrame(rows, columns=[column.name for column in RESULTS.columns])
    moment, number = "datetime64[us, UTC]", "float64"
    return frame.astype(
        {"as_of": moment, "start": moment, "end": moment, "value": number, "low": number, "high": number}
    )


def table(results: Sequence[Result]) -> str:
    """A line a monitor and subject; below it, those of its metrics that are not healthy."""
    lines = [f"{'monitor':12} {'subject':38} {'rows':>8}  verdict"]
    grouped: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        grouped.setdefault((result.monitor, result.subject), []).append(result)
    for (monitor, subject), mine in grouped.items():
        lines.append(f"{monitor:12} {subject:38} {max(result.rows for result in mine):>8,}  {worst(mine)}")
        told = [result for result in mine if result.verdict in ("investigate", "breach")]
        told.sort(key=lambda result: result.verdict == "investigate")
        for result in told[:SHOWN]:
            value = "-" if result.value is None else f"{result.value:.4g}"
            bounds = "" if result.low is None else f" [{result.low:.4g}, {result.high:.4g}]"
            when = f"{result.start:%m-%d} to {result.end:%m-%d}"
            lines.append(f"    {result.verdict}: {result.metric} {value}{bounds}, {when}. {result.details}".rstrip())
        if len(told) > SHOWN:
            lines.append(f"    and {len(told) - SHOWN} more")
    return "\n".join(lines)
