"""The Bento service. `bentoml serve serving.service:PredictionService`

What answers is in serving/api.py. It is imported by the workers alone: Feast, MLflow and scikit-learn take half of the
time to start and 200 MB, and the process that only supervises the workers imports this module too.
"""

from __future__ import annotations

import asyncio
import gc
import io
import signal
import sys
import warnings
from types import FrameType
from typing import Any

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry import trace

from serving.keys import require_keys
from serving.prediction_log import PredictionLog
from serving.settings import ServingSettings
from validation.errors import Refusal
from validation.predictions import CHAMPION, SHADOW, open_log
from validation.settings import OFF

SETTINGS = ServingSettings()
# All packages come as wheels: of a distribution that BentoML does not know it installs no compiler, and no git.
IMAGE = bentoml.images.Image(base_image="python:3.11-slim", python_version="3.11", distro="as it is")

try:
    require_keys(SETTINGS)
    if SETTINGS.prediction_log != OFF:
        open_log(SETTINGS.prediction_log)
except Refusal as refused:
    sys.exit(f"error: {refused}")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """All that asks comes through here: of a Starlette app BentoML would take the known paths only, and answer the rest
    itself. BentoML's own are the probes."""
    await bentoml.get_current_service().entrance(scope, receive, send)


class NoSchema:
    """Hands /schema.json to `app`: BentoML's own would tell anybody the service's class and docstring, in no log."""

    def __init__(self, bento: Any) -> None:
        self._bento = bento

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await (app if scope.get("path") == "/schema.json" else self._bento)(scope, receive, send)


@bentoml.service(
    image=IMAGE,
    # BentoML's own defaults are every interface, 60 seconds, and metrics that grow by each path that anybody asks for.
    http={"host": SETTINGS.host, "port": SETTINGS.port},
    workers=SETTINGS.workers,
    traffic={"timeout": SETTINGS.timeout_seconds},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing=SETTINGS.tracing,
)
@bentoml.asgi_app(app, path="/")
class PredictionService:
    """Serves the version that an alias of a registered model points to, and follows it."""

    def __init__(self) -> None:
        from serving.api import ENTRANCE
        from serving.explain import Explaining
        from serving.predictor import Predictor
        from serving.scorer import Scorer
        from serving.shadow import Shadow
        from serving.status import Status

        # Importing Feast 0.67 turns warnings on that SQLAlchemy and tornado have of their own code's future.
        warnings.simplefilter("ignore", DeprecationWarning)
        self.entrance = ENTRANCE
        self.predictor = Predictor(SETTINGS, CHAMPION, SETTINGS.model_alias, SETTINGS.model_version)
        self.scorer = Scorer(SETTINGS.max_concurrency)
        self.explaining = Explaining()
        self.status = Status(SETTINGS, self.predictor)
        self.predictors = [self.predictor]
        self.log = None
        if SETTINGS.prediction_log != OFF:
            self.log = PredictionLog(SETTINGS.prediction_log, retention_days=SETTINGS.log_retention_days)
        self.shadow: Shadow | None = None
        if SETTINGS.shadow_alias:
            self.predictors.append(Predictor(SETTINGS, SHADOW, SETTINGS.shadow_alias))
            self.shadow = Shadow(self.predictors[1], self.scorer, self.log, SETTINGS.shadow_share)
        self.leaving = False

    @bentoml.on_startup
    def start(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # the access log, into a file or a pipe too
        if SETTINGS.traces_url:
            trace.set_tracer_provider(BentoMLContainer.tracer_provider.get())
        for predictor in self.predictors:
            predictor.follow()
        self._leave_slowly()
        # What was built by now lives as long as the process: keep the collector from walking it during requests.
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def stop(self) -> None:
        for predictor in self.predictors:
            predictor.stop()
        for closed in (self.scorer, self.explaining, self.status):
            closed.close()
        if self.log:
            self.log.close()

    async def __is_ready__(self) -> bool:
        return self.predictor.ready and not self.leaving

    def _leave_slowly(self) -> None:
        """On SIGTERM say first that nobody should come any more, and only then stop listening."""
        at_once, loop = signal.getsignal(signal.SIGTERM), asyncio.get_running_loop()
        if not callable(at_once):
            return  # no server runs this

        def leave(number: int, frame: FrameType | None) -> None:
            self.leaving = True
            loop.call_soon_threadsafe(lambda: loop.call_later(SETTINGS.drain_seconds, at_once, number, frame))

        signal.signal(signal.SIGTERM, leave)


PredictionService.add_asgi_middleware(NoSchema)  # type: ignore[attr-defined]  # the decorator makes a Service of it
