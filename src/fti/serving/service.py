"""The service, of which a project's `serving/service.py` makes a Bento.

BentoML remembers the module in which its decorator is called, and starts the workers by that name: so it is called
there. What answers is in http/api.py. It is imported by the workers alone: Feast, MLflow and scikit-learn take half of
the time to start and 200 MB, and the process that only supervises the workers imports this module too.
"""

from __future__ import annotations

import asyncio
import gc
import io
import signal
import sys
import warnings
from functools import cache
from types import FrameType
from typing import Any

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry import trace
from uvicorn.config import HTTP_PROTOCOLS

from fti.contract.predictions import CHAMPION, SHADOW, open_log
from fti.contract.settings import OFF
from fti.errors import Refusal
from fti.serving.http.target import PROBES, target_of
from fti.serving.keys import require_keys
from fti.serving.prediction_log import PredictionLog
from fti.serving.settings import ServingSettings

# All packages come as wheels: of a distribution that BentoML does not know it installs no compiler, and no git.
IMAGE = bentoml.images.Image(base_image="python:3.11-slim", python_version="3.11", distro="as it is")


@cache
def checked_settings() -> ServingSettings:
    """What the environment says. Ends the process with one line where the service must not start."""
    settings = ServingSettings()
    try:
        require_keys(settings)
        if settings.prediction_log != OFF:
            open_log(settings.prediction_log)
    except Refusal as refused:
        sys.exit(f"error: {refused}")
    return settings


def bound_connections() -> None:
    """Let uvicorn, which BentoML starts without settings of ours, bound what a connection may hold and for how long."""
    HTTP_PROTOCOLS["auto"] = "fti.serving.http.protocol:BoundedProtocol"


def options() -> dict[str, Any]:
    """What `bentoml.service` is given."""
    settings = checked_settings()
    bound_connections()
    return {
        "image": IMAGE,
        # BentoML's own defaults are every interface, 60 seconds, and metrics that grow by each path that anybody asks
        # for.
        "http": {"host": settings.host, "port": settings.port},
        "workers": settings.workers,
        "traffic": {"timeout": settings.timeout_seconds},
        "metrics": {"enabled": False},
        "logging": {"access": {"enabled": False}},
        "tracing": settings.tracing,
    }


async def app(scope: Any, receive: Any, send: Any) -> None:
    """All that asks comes through here; BentoML's own are the probes."""
    await bentoml.get_current_service().entrance(scope, receive, send)


class Door:
    """Hands all that asks to `app`, and the probes alone to BentoML, whose router would answer what it knows (such as
    /schema.json and /static_content) to anybody, and what it does not know with no key, no log and no headers."""

    def __init__(self, bento: Any) -> None:
        self._bento = bento

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await (self._bento if is_probe(scope) else app)(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._bento(scope, receive, send)
        else:  # a WebSocket, of which there are none
            await send({"type": "websocket.close", "code": 1008})


def is_probe(scope: Any) -> bool:
    """Whether BentoML answers: by the one spelling of a probe's target, whatever its query says."""
    return scope["method"] in {"GET", "HEAD"} and target_of(scope).partition(b"?")[0] in PROBES


NoSchema = Door  # what projects made before call it


class PredictionService:
    """Serves the version that an alias of a registered model points to, and follows it."""

    def __init__(self) -> None:
        from fti.scoring.explain import Explaining
        from fti.serving.http.api import ENTRANCE
        from fti.serving.http.status import Status
        from fti.serving.model.predictor import Predictor
        from fti.serving.model.scorer import Scorer
        from fti.serving.model.shadow import Shadow

        # Importing Feast 0.67 turns warnings on that SQLAlchemy and tornado have of their own code's future.
        warnings.simplefilter("ignore", DeprecationWarning)
        settings = self.settings = checked_settings()
        self.entrance = ENTRANCE
        self.predictor = Predictor(settings, CHAMPION, settings.model_alias, settings.model_version)
        self.scorer = Scorer(settings.max_concurrency)
        self.explaining = Explaining()
        self.status = Status(settings, self.predictor)
        self.predictors = [self.predictor]
        self.log = None
        if settings.prediction_log != OFF:
            self.log = PredictionLog(settings.prediction_log, retention_days=settings.log_retention_days)
        self.shadow: Shadow | None = None
        if settings.shadow_alias:
            self.predictors.append(Predictor(settings, SHADOW, settings.shadow_alias))
            self.shadow = Shadow(self.predictors[1], self.scorer, self.log, settings.shadow_share)
        self.leaving = False

    @bentoml.on_startup
    def start(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # the access log, into a file or a pipe too
        if self.settings.traces_url:
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
            loop.call_soon_threadsafe(lambda: loop.call_later(self.settings.drain_seconds, at_once, number, frame))

        signal.signal(signal.SIGTERM, leave)
