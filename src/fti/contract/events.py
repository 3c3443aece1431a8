"""What the loop did and found, as its tables say: a stretch of moments in; what happened in it, in words, out.

The loop writes these tables, its reports and the service's status read them.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, Engine, Float, Integer, String, Table, select

from fti.contract.predictions import METADATA, Utc
from fti.contract.results import RESULTS

# The steps of a cycle, in this order, and how many days its monitors look at where nobody says.
STEPS = ("land", "materialize", "score", "monitor", "maintain", "retrain")
MONITORED_DAYS = 7

Happened = list[tuple[datetime, str]]

# What became of each attempt at a step of a cycle: running, done, refused or failed, and what it said.
CYCLE_STEPS = Table(
    "cycle_steps",
    METADATA,
    Column("as_of", Utc, primary_key=True),
    Column("step", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("status", String, nullable=False),
    Column("began", Utc, nullable=False),
    Column("seconds", Float),
    Column("said", String, nullable=False),
)

# One row a retraining: what asked for it, the run that it became, the version of that run, and what became of that.
RETRAININGS = Table(
    "retrainings",
    METADATA,
    Column("model_name", String, primary_key=True),
    Column("as_of", Utc, primary_key=True),
    Column("reasons", String, nullable=False),
    Column("champion_before", String),
    Column("run_id", String),
    Column("version", String),
    Column("decision", String),
    Column("champion_after", String),
)


def events(engine: Engine, first: datetime, last: datetime) -> Happened:
    """What happened as of `[first, last]`: steps that were refused or failed, and what became of retrainings."""
    steps, trained = CYCLE_STEPS.c, RETRAININGS.c
    unwell = select(steps.as_of, steps.step, steps.status, steps.said).where(
        steps.as_of >= first, steps.as_of <= last, steps.status.in_(["refused", "failed"])
    )
    retrained = select(RETRAININGS).where(trained.as_of >= first, trained.as_of <= last)
    with engine.connect() as connection:
        found = [(one.as_of, f"{one.step} {one.status}: {one.said}") for one in connection.execute(unwell)]
        for one in connection.execute(retrained):
            became = "champion" if one.champion_after == one.version else f"left, {one.champion_after} stays"
            trained_it = f"version {one.version} trained, gate {one.decision}, {became}"
            found.append((one.as_of, f"{trained_it if one.version else 'a retraining made no version'}: {one.reasons}"))
    return sorted(found)


def breaches(engine: Engine, first: datetime, last: datetime) -> Happened:
    """What monitors found in breach as of `[first, last]`: a line a moment and monitor."""
    columns = RESULTS.c
    asked = (
        select(columns.as_of, columns.monitor, columns.metric, columns.subject)
        .where(columns.as_of >= first, columns.as_of <= last, columns.verdict == "breach")
        .order_by(*RESULTS.primary_key)
    )
    found: dict[tuple[datetime, str], list[str]] = {}
    with engine.connect() as connection:
        rows = connection.execute(asked).all()
    for one in rows:
        found.setdefault((one.as_of, one.monitor), []).append(f"{one.metric} of {one.subject}")
    return [
        (moment, f"{monitor} in breach: {mine[0]}{f' and {len(mine) - 1} more' if len(mine) > 1 else ''}")
        for (moment, monitor), mine in found.items()
    ]
