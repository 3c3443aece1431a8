"""How the service and what it depends on are: registry, database and process in; one report for a person out.

Whatever is slow, broken or not there costs its own part of the report, and nobody's prediction: each is read in a
thread of its own, once at a time, kept for a moment, and not waited for longer than PATIENCE.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from fti.contract.registered import DECISION_TAG, REASONS_TAG, SERVICE_TAG
from fti.contract.settings import OFF
from fti.contract.task import CLASSIFICATION
from fti.errors import one_line
from fti.scoring.compiled import Compiled
from fti.scoring.loading import find_version
from fti.scoring.schemas import AS_OF
from fti.serving.http import monitored, recorded
from fti.serving.model.predictor import NoModel, Predictor
from fti.serving.settings import ServingSettings

logger = logging.getLogger("bentoml.serving")
PATIENCE, QUERY_SECONDS, KEPT_SECONDS = 3.0, 1.0, 2.0
ALIASES = ("champion", "previous", "challenger")  # as fti/training/promote.py sets them
SHOWN_EVENTS, MOST_KNOWN = 50, 10
# What training says of its own model on rows that it was not fitted to, as metrics of the run.
SCORES = ("roc_auc", "average_precision", "log_loss", "brier", "calibration_error", "mae", "rmse", "r2")

RECORDED = ("views", "traffic", "monitors", "events")
LOG_OFF = "SERVING_PREDICTION_LOG is off"

Parts = tuple[dict[str, Any], list[str]]  # by name, None for what could not be had; and why


class Reading:
    """Something that takes its time, done in a thread: asked again while it is fresh or under way, it is not begun
    anew."""

    def __init__(self, name: str, work: Callable[[], Parts], parts: tuple[str, ...]) -> None:
        self._name, self._work, self._parts = name, work, parts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"status-{name}")
        self._going: asyncio.Future[Parts] | None = None
        self._began = 0.0

    async def get(self) -> Parts:
        if self._going is None or (self._going.done() and time.monotonic() - self._began > KEPT_SECONDS):
            self._began = time.monotonic()
            self._going = asyncio.get_running_loop().run_in_executor(self._thread, self._work)
        try:
            return await asyncio.wait_for(asyncio.shield(self._going), PATIENCE)
        except TimeoutError:
            problem = f"no answer within {PATIENCE:g} s"
        except Exception:
            logger.exception("status: %s", self._name)
            problem = "it cannot be read; the service's log says why"
        return dict.fromkeys(self._parts), [f"{self._name}: {problem}"]

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class Status:
    """What /status and /requests say. Its engine is of its own: the log's is busy with what was predicted."""

    def __init__(self, settings: ServingSettings, predictor: Predictor) -> None:
        self._settings, self._predictor = settings, predictor
        self._engine: Engine | None = None
        if settings.prediction_log != OFF:
            self._engine = recorded.open_reader(settings.prediction_log, QUERY_SECONDS)
        self._registry = Reading("registry", self._read_registry, ("versions",))
        self._database = Reading("database", self._read_database, RECORDED)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="requests")
        self._known: dict[str, dict[str, float]] = {}  # scores, by run
        self._logged: dict[str, str] = {}  # the last cause, by part

    async def report(self) -> dict[str, Any]:
        """All of it; `problems` say what could not be had, and why."""
        (versions, lost), (found, missed) = await asyncio.gather(self._registry.get(), self._database.get())
        model, problems = self._model()
        own = [*self._predictor.events]
        happened = sorted([*own, *(found["events"] or [])], reverse=True)[:SHOWN_EVENTS]
        return {
            "now": datetime.now(UTC),
            "model": model,
            **versions,
            **found,
            "events": [{"at": at, "what": what} for at, what in happened],
            "links": self._settings.links,
            "problems": [*problems, *lost, *missed],
        }

    def _model(self) -> tuple[dict[str, Any] | None, list[str]]:
        try:
            served = self._predictor.served
        except NoModel as problem:
            return None, [f"model: {problem}"]
        told, classifies = served.about, served.contract.interface.task == CLASSIFICATION
        return {
            "name": served.name,
            "version": served.version,
            "following": self._predictor.following,
            "loaded_at": served.loaded_at,
            "feature_service": told["feature_service"],
            "predicts": told["predicts"],
            "base_rate": served.model.unknown if classifies and isinstance(served.model, Compiled) else None,
        }, [f"model: {problem}" for problem in self._predictor.problems]

    async def requests(self, limit: int) -> dict[str, Any]:
        """Requests to try: those of the log, and the one that the model's contract carries."""
        served, problems = self._predictor.served, []
        found: list[dict[str, Any]] = []
        if self._engine is None:
            problems.append(f"requests: {LOG_OFF}")
        else:
            asked = (self._engine, served, datetime.now(UTC), limit)
            reading = asyncio.get_running_loop().run_in_executor(self._thread, recorded.requests, *asked)
            try:
                found = await asyncio.wait_for(reading, PATIENCE)
            except (SQLAlchemyError, TimeoutError) as error:
                problems.append(self._problem("requests", error))
        example = {name: value for name, value in served.contract.example_request.items() if name != AS_OF}
        if len(found) < limit and example not in [one["request"] for one in found]:
            found.append({AS_OF: served.contract.example_request[AS_OF], "request": example, "role": "example"})
        return {"requests": found, "problems": problems}

    def close(self) -> None:
        self._registry.close()
        self._database.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read_registry(self) -> Parts:
        try:
            return {"versions": {alias: self._version(alias) for alias in ALIASES}}, []
        except MlflowException as error:
            return {"versions": None}, [self._problem("versions", error)]

    def _version(self, alias: str) -> dict[str, Any] | None:
        """What the registry says of the version that an alias points to."""
        version = find_version(self._settings.model_name, alias)
        if version is None:
            return None
        scores = self._scores(str(version.run_id)) if version.run_id else {}
        return {
            "version": str(version.version),
            "feature_service": version.tags.get(SERVICE_TAG),
            "registered_at": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
            "roc_auc": scores.get("roc_auc"),
            "scores": scores,
            "decision": version.tags.get(DECISION_TAG),
            "reasons": version.tags.get(REASONS_TAG),
        }

    def _scores(self, run_id: str) -> dict[str, float]:
        """The scores of a run, which stay as they are; to ask a server of several users takes half a second."""
        if run_id not in self._known:
            measured = MlflowClient().get_run(run_id).data.metrics
            found = {name: measured[metric] for name in SCORES if (metric := f"validation_{name}") in measured}
            self._known = {run_id: found} | dict(list(self._known.items())[:MOST_KNOWN])
        return self._known[run_id]

    def _read_database(self) -> Parts:
        engine, served, now = self._engine, self._predictor.served_or_none, datetime.now(UTC)
        if engine is None:
            return dict.fromkeys(RECORDED), [f"{', '.join(RECORDED)}: {LOG_OFF}"]
        name, version = self._settings.model_name, served.version if served else None
        work: dict[str, Callable[[], Any]] = {
            "views": lambda: recorded.views(engine, served, now) if served else None,
            "traffic": lambda: recorded.traffic(engine, name, now),
            "monitors": lambda: monitored.monitors(engine, version),
            "events": lambda: monitored.happened(engine),
        }
        found: dict[str, Any] = dict.fromkeys(RECORDED)
        problems = []
        for part in RECORDED:
            try:
                found[part] = work[part]()
            except SQLAlchemyError as error:
                problems.append(self._problem(part, error))
        return found, problems

    def _problem(self, part: str, error: Exception) -> str:
        """A line for the report; the cause, which may name addresses, is logged, once while it is the same."""
        source = "the MLflow registry" if isinstance(error, MlflowException) else "the log of predictions"
        problem = f"{part}: {source} cannot be read, or not in time; the service's log says why"
        cause = f"{type(error).__name__}: {getattr(error, 'orig', None) or one_line(error)}"  # without its parameters
        if self._logged.get(part) != cause:
            self._logged[part] = cause
            logger.warning("status: %s (%s)", problem, cause)
        return problem
