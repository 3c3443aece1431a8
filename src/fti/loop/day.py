"""One complete day, step by step, each step done once as of a moment: land to retrain (fti.contract.events.STEPS)."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
from deltalake.exceptions import DeltaError
from mlflow.exceptions import MlflowException
from sqlalchemy import Engine, Row, and_, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from fti.contract.events import CYCLE_STEPS, MONITORED_DAYS, STEPS, events
from fti.contract.predictions import LogUnusable, create, delete_before, open_log
from fti.contract.results import CYCLE, Result, Verdict, saved, worst
from fti.contract.settings import OFF
from fti.errors import Refusal, one_line
from fti.features.compute import newest_event, open_raw
from fti.features.feast_steps import feast_errors, materialize
from fti.features.lock import one_writer
from fti.features.maintain import maintain
from fti.features.pipeline import FeaturePipeline
from fti.features.publish import changed_since
from fti.features.source import EventSource
from fti.features.windows import Interval
from fti.loop.retrain import retrain
from fti.monitoring.alert import alert_settings
from fti.monitoring.conclusion import conclude
from fti.monitoring.freshness import lost_views
from fti.monitoring.report import HISTORY
from fti.monitoring.run import label_delay, monitor
from fti.monitoring.sample import SAMPLE_ROWS
from fti.project import project
from fti.serving.batch import NothingDue, scorer_of
from fti.serving.settings import ServingSettings
from fti.stores.delta import exists
from fti.stores.repository import open_repository
from fti.times import utc
from fti.validation.gate import Gate

DAY, INSTANT = timedelta(days=1), timedelta(microseconds=1)
LOST = "online rows were lost of"  # a step that says so was done, and somebody is to hear of it
# What a step may end with that a person can mend; anything else is a bug, and is raised.
FAILURES = (Refusal, MlflowException, SQLAlchemyError, DeltaError, duckdb.Error, OSError)
logger = logging.getLogger("cycle")


@dataclass(frozen=True)
class StepRun:
    """What became of a step: `status` is done, refused, failed, or there: an earlier cycle as of that moment did it."""

    step: str
    status: str
    seconds: float
    said: str

    def __str__(self) -> str:
        return f"{self.step:12} {self.status:7} {self.seconds:7.1f} s  {self.said}"


@dataclass
class Cycle:
    """The steps over one feature store, model registry and log of predictions."""

    pipeline: FeaturePipeline
    settings: ServingSettings
    engine: Engine
    days: int = MONITORED_DAYS
    refresh: timedelta = timedelta(0)  # how late the online store may be, between two cycles

    @property
    def name(self) -> str:
        return self.settings.model_name

    @property
    def steps(self) -> dict[str, Callable[[datetime], str]]:
        return {
            "land": self._land,
            "materialize": self._materialize,
            "score": self._score,
            "monitor": self._monitor,
            "maintain": self._maintain,
            "retrain": lambda as_of: retrain(self.engine, self.name, self.pipeline.repo, as_of),
        }

    def run(self, as_of: datetime, steps: Sequence[str] = STEPS, again: bool = False) -> list[StepRun]:
        """These steps as of a moment, one after another; with `again`, those too that were done already.

        What follows a step that is done now is done anew, too: it made do without it.
        """
        runs: list[StepRun] = []
        with one_writer(self.pipeline.data / "cycle", f"cycle --as-of {as_of:%Y-%m-%dT%H:%MZ}"):
            for name in steps:
                runs.append(self.step(name, as_of, again or any(one.status == "done" for one in runs)))
        return runs

    def step(self, name: str, as_of: datetime, again: bool = False) -> StepRun:
        """One step, unless it is done; what it did is recorded."""
        before = self._attempts(as_of, name)
        if (done := [one for one in before if one.status == "done"]) and not again:
            return StepRun(name, "there", 0.0, str(done[-1].said))
        key = {"as_of": as_of, "step": name, "attempt": len(before) + 1}
        with self.engine.begin() as connection:
            begun = {"status": "running", "began": datetime.now(UTC), "said": ""}
            connection.execute(CYCLE_STEPS.insert().values(key | begun))
        began = time.perf_counter()
        try:
            status, said = "done", self.steps[name](as_of)
        except Refusal as refusal:
            status, said = "refused", one_line(refusal)
        except FAILURES as error:
            status, said = "failed", one_line(error)
        seconds = time.perf_counter() - began
        with self.engine.begin() as connection:
            this = and_(*(CYCLE_STEPS.c[column] == value for column, value in key.items()))
            connection.execute(update(CYCLE_STEPS).where(this).values(status=status, seconds=seconds, said=said))
        found = StepRun(name, status, seconds, said)
        logger.info("as of %s: %s", f"{as_of:%Y-%m-%dT%H:%MZ}", found)
        return found

    def _attempts(self, as_of: datetime, step: str) -> Sequence[Row[Any]]:
        """The attempts at a step so far, the first one first."""
        columns = CYCLE_STEPS.c
        asked = select(CYCLE_STEPS).where(columns.as_of == as_of, columns.step == step).order_by(columns.attempt)
        with self.engine.connect() as connection:
            return connection.execute(asked).all()

    def verdict(self, as_of: datetime) -> Verdict:
        """The worst that the monitors found as of a moment."""
        return worst(saved(self.engine, as_of))

    def _land(self, as_of: datetime) -> str:
        """Ingest and publish what happened since the last landing that was not refused, a day or more.

        The first goes on from the newest event that landed before there were cycles.
        """
        last = self._last("land", as_of) or self._newest()
        # What happened in the very moment is known then, as everywhere else; an interval does not hold its end.
        interval = Interval(min(last or as_of - DAY, as_of - DAY), as_of + INSTANT)
        self.pipeline.gate.findings.clear()
        with one_writer(self.pipeline.data, "cycle"):
            self.pipeline.ingest(interval)
            self.pipeline.publish(interval)
        found = self.pipeline.gate.findings
        warned = [f"{one.suite}.{one.rule}" for one in found if not one.passed]
        told = f"; {', '.join(warned[:3])}" if warned else ""
        return f"{interval.start:%Y-%m-%dT%H:%MZ}/{interval.end:%Y-%m-%dT%H:%MZ}{told}"

    def _newest(self) -> datetime | None:
        if not all(exists(self.pipeline.tables / "raw" / name) for name in project().source.RAW_KEYS):
            return None
        open_raw(self.pipeline.con, self.pipeline.tables)
        return newest_event(self.pipeline.con)

    def _materialize(self, as_of: datetime) -> str:
        """Fill the online store with what landed or changed since it was last filled; anew, if it has lost rows."""
        filled = self._last("materialize", as_of)
        landed = self._last("land", filled + INSTANT) if filled is not None else None
        lost = [] if landed is None else self._lost(landed)
        start = utc(project().source.START)
        if filled and landed and not lost:
            start = max(start, min([landed, *self._changed(filled)]))
        materialize(self.pipeline.repo, start, as_of)
        told = f"; filled anew, for {LOST} {', '.join(lost)}" if lost else ""
        return f"rows of {start:%Y-%m-%dT%H:%MZ}/{as_of:%Y-%m-%dT%H:%MZ}{told}"

    def _changed(self, filled: datetime) -> list[datetime]:
        """From where on each table was changed since the online store was last filled, by whatever publish it was."""
        began = [one.began for one in self._attempts(filled, "materialize") if one.status == "done"][-1]
        tables = [self.pipeline.tables / "features" / name for name in project().transforms.FEATURE_TABLES]
        return [changed for table in tables if exists(table) and (changed := changed_since(table, began)) is not None]

    def _lost(self, as_of: datetime) -> list[str]:

        with feast_errors("feast materialize", self.pipeline.repo):
            return lost_views(open_repository(self.pipeline.repo), as_of)

    def _last(self, step: str, before: datetime) -> datetime | None:
        """The newest moment before another that a step was done as of."""
        columns = CYCLE_STEPS.c
        done = (columns.step == step) & (columns.status == "done") & (columns.as_of < before)
        with self.engine.connect() as connection:
            return connection.scalar(select(func.max(columns.as_of)).where(done))

    def _score(self, as_of: datetime) -> str:
        """Predict the day that comes, from what is known by now."""
        scorer = scorer_of(self.settings, self.engine, self.settings.model_alias, None)
        try:
            # A request of its own each time: what an earlier run, or another version, has logged is told apart.
            request_id = f"cycle-{as_of:%Y%m%dT%H%MZ}-{uuid.uuid4().hex[:8]}"
            totals = scorer.run(as_of, as_of + DAY, request_id, as_of, known_by=as_of)
        except NothingDue:
            return "nothing is due"
        return f"version {scorer.version}: {totals}".replace("\n  ", "; ")

    def _monitor(self, as_of: datetime) -> str:

        store = open_repository(self.pipeline.repo)
        alerts, outputs, delay = alert_settings(), self.pipeline.data / "monitoring", label_delay()
        results = monitor(
            store, self.engine, self.name, as_of, self.days, delay, SAMPLE_ROWS, self._own_results(as_of), self.refresh
        )
        told = events(self.engine, as_of - HISTORY, as_of)
        conclude(self.engine, as_of, results, outputs / "report.html", outputs / "monitor.prom", alerts, told)
        breaches = [f"{one.monitor} {one.metric} of {one.subject}" for one in results if one.verdict == "breach"]
        return ": ".join([worst(results), *(["; ".join(breaches[:5])] if breaches else [])]) + self._delete_old(as_of)

    def _maintain(self, as_of: datetime) -> str:
        lines = maintain(self.pipeline.repo, as_of)
        for line in lines:
            logger.info("%s", line)
        whole = [line for line in lines if "/" not in line.partition(":")[0]]
        return "; ".join([f"{len(lines) - len(whole)} tables", *whole])

    def _delete_old(self, as_of: datetime) -> str:
        """Delete predictions that the settings keep no longer, as of a moment as scores are made as of one: in
        production the service may not. Says how many."""
        if (days := self.settings.log_retention_days) is None:
            return ""
        gone = delete_before(self.engine, as_of - timedelta(days=days))
        return f"; {gone} predictions made over {days} days ago deleted" if gone else ""

    def _own_results(self, as_of: datetime) -> list[Result]:
        """What became of the steps before: one that was refused or failed is a breach like another, and so are rows
        that were lost; when a later attempt was done, they are still to be looked at."""
        results = []
        for name in STEPS[: STEPS.index("monitor")]:
            ended = [one for one in self._attempts(as_of, name) if one.status != "running"]
            if ended:
                unwell = [one for one in ended if one.status != "done" or LOST in one.said]
                verdict: Verdict = "healthy" if not unwell else "breach" if unwell[-1] is ended[-1] else "investigate"
                told = f"{unwell[-1].status}: {unwell[-1].said}" if unwell else ended[-1].said
                results.append(
                    Result(
                        CYCLE, as_of, as_of, name, "seconds", ended[-1].seconds, len(ended), verdict,
                        details=told,
                    )
                )  # fmt: skip
        return results


def open_cycle(
    settings: ServingSettings, source: EventSource, accept: list[str] | None = None, days: int = MONITORED_DAYS,
    refresh: timedelta = timedelta(0),
) -> Cycle:  # fmt: skip
    """A cycle over the settings' Feast repository, whose tables lie beside it. Raises LogUnusable."""
    if settings.prediction_log == OFF:
        raise LogUnusable("SERVING_PREDICTION_LOG is off, and a cycle keeps its predictions there. Unset it.")
    engine = open_log(settings.prediction_log)
    create(engine)
    return Cycle(FeaturePipeline(settings.feast_repo, source, Gate(accept or [])), settings, engine, days, refresh)
