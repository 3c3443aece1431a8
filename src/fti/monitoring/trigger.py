"""Whether to train again: the verdicts of the last windows in; a decision, with its reasons, out.

Only what fitting anew can mend asks for it: drift and quality. While the data themselves are in doubt, a model that is
fitted to them would learn the fault, so the decision waits for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Engine, select

from fti.contract.events import RETRAININGS
from fti.contract.predictions import SHADOW
from fti.contract.results import CYCLE, RESULTS

CAUSES = ("drift", "quality")
DOUBTS = (CYCLE, "consistency", "freshness", "volume", "quarantine")
WINDOWS, BREACHED = 5, 2
COOL_DOWN = timedelta(days=14)

Action = Literal["train", "none", "cool_down", "hold"]


@dataclass(frozen=True)
class Decision:
    """What to do about a model as of a moment, and why."""

    action: Action
    reasons: str


def decide(engine: Engine, name: str, champion: str | None, as_of: datetime) -> Decision:
    """Train if the newest window and one more of the last WINDOWS are in breach, the data are not in doubt, and the
    last retraining that made a version is COOL_DOWN ago. A window is what was found as of one moment.

    `champion` is the version to find wanting: of one that no longer serves, or does not yet, nothing follows.
    """
    columns = RESULTS.c
    with engine.connect() as connection:
        moments = connection.scalars(
            select(columns.as_of).where(columns.as_of <= as_of).distinct().order_by(columns.as_of.desc()).limit(WINDOWS)
        ).all()
        asked = select(columns.as_of, columns.monitor, columns.subject, columns.metric, columns.value).where(
            columns.as_of.in_(moments), columns.verdict == "breach"
        )
        breaches = connection.execute(asked.order_by(columns.monitor, columns.subject, columns.metric)).all()
        last = connection.scalar(
            select(RETRAININGS.c.as_of)
            .where(RETRAININGS.c.model_name == name, RETRAININGS.c.as_of < as_of, RETRAININGS.c.version.is_not(None))
            .order_by(RETRAININGS.c.as_of.desc())
            .limit(1)
        )
    if as_of not in moments:
        return Decision("none", "nothing was measured as of this moment")
    causes = [
        one for one in breaches
        if one.monitor in CAUSES and one.subject.startswith(f"{name} version {champion}, ")
        and not one.subject.endswith(f", {SHADOW}")
    ]  # fmt: skip
    windows = sorted({one.as_of for one in causes})
    told = "; ".join(
        f"{one.monitor} {one.metric} {one.value:.3g} of {one.subject}" for one in causes if one.as_of == as_of
    )
    if as_of not in windows:
        return Decision("none", "drift and quality are not in breach")
    if len(windows) < BREACHED:
        return Decision("none", f"in breach for the first time of the last {len(moments)} windows: {told}")
    if doubts := [f"{one.monitor} {one.metric} of {one.subject}" for one in breaches
                  if one.monitor in DOUBTS and one.as_of == as_of]:  # fmt: skip
        return Decision("hold", f"{told}; but the data are in doubt: {', '.join(doubts[:5])}")
    if last is not None and as_of - last < COOL_DOWN:
        return Decision("cool_down", f"{told}; but the last retraining was as of {last:%Y-%m-%d}")
    return Decision("train", f"in breach in {len(windows)} of the last {len(moments)} windows: {told}")
