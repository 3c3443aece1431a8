"""The Bento service: HTTP in, JSON out. `bentoml serve serving.service:PredictionService`"""

from __future__ import annotations

import gc
import logging
import warnings
from datetime import UTC, datetime
from typing import Any

import anyio
import bentoml
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from serving import metrics
from serving.features import AsOfTooEarly, StoreUnavailable
from serving.keys import ApiKeys, KeysUnreadable, NotAllowed
from serving.openapi import docs_page, document
from serving.predictor import NoModel, Predictor
from serving.schemas import RequestInvalid
from serving.settings import ServingSettings

logger = logging.getLogger("bentoml.serving")
# SQLAlchemy and tornado warn of their own code's future, into a log that people read; importing Feast 0.67 turns it on.
warnings.simplefilter("ignore", DeprecationWarning)
SETTINGS = ServingSettings()
KEYS = ApiKeys(SETTINGS.api_keys)
PATHS = {"/predict", "/predict_batch", "/model", "/openapi.json", "/docs", "/"}
# Answers are data, for no page to frame and no browser to guess at.
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
# One prediction at a time: Feast's SQLite connection and the model are shared; the event loop stays free for probes.
ONE_AT_A_TIME = anyio.CapacityLimiter(1)


class BodyTooLarge(ValueError):
    """A request body over the limit."""


class NotJson(ValueError):
    """A request that says its body is something else than JSON."""


def _service() -> Any:
    return bentoml.get_current_service()


async def predict(request: Request) -> Response:
    body = await _body(request, SETTINGS.max_body_bytes)
    served = _service().predictor.served
    answer = await anyio.to_thread.run_sync(served.answer, body, datetime.now(UTC), limiter=ONE_AT_A_TIME)
    return JSONResponse(answer)


async def predict_batch(request: Request) -> Response:
    body = await _body(request, SETTINGS.max_batch_bytes)
    served = _service().predictor.served
    answer = await anyio.to_thread.run_sync(
        served.answer_batch, body, datetime.now(UTC), SETTINGS.max_batch_rows, limiter=ONE_AT_A_TIME
    )
    return JSONResponse(answer)


async def model(_: Request) -> Response:
    served = _service().predictor.served
    contract = served.contract
    return JSONResponse(
        {"name": served.name, "version": served.version, "feature_contract_sha256": contract.sha256}
        | {"contract": contract.model_dump(mode="json")}
    )


async def openapi(_: Request) -> Response:
    return JSONResponse(document(_service().predictor.served))


async def docs(_: Request) -> Response:
    return docs_page()


async def home(_: Request) -> Response:
    return RedirectResponse("/docs")


async def _body(request: Request, limit: int) -> bytes:
    """The body, read only as far as the limit: a client may give no length, or lie. Raises NotJson, BodyTooLarge."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise NotJson(f"The body is said to be {kind!r}. Send JSON, and the header Content-Type: application/json.")
    too_large = BodyTooLarge(f"The body has more than {limit} bytes.")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit:
            raise too_large
    return bytes(received)


def _refuse(status: int) -> Any:
    async def answer(_: Request, error: Exception) -> Response:
        problems = getattr(error, "problems", None)
        return JSONResponse({"error": str(error)} | ({"fields": problems} if problems else {}), status_code=status)

    return answer


async def _unavailable(_: Request, error: Exception) -> Response:
    logger.error("%s (%r)", error, error.__cause__)
    return JSONResponse({"error": str(error)}, status_code=503)


async def _failed(_: Request, __: Exception) -> Response:
    # Starlette raises the error again after this answer, and the server logs it.
    return JSONResponse({"error": "The prediction failed; the service's log says why."}, status_code=500)


async def _http_error(request: Request, error: Any) -> Response:
    if error.status_code == 405:
        problem = f"{request.url.path} takes {error.headers['Allow']}, found {request.method}."
    else:
        problem = f"There is nothing at {request.url.path}; /docs lists what there is."
    return JSONResponse({"error": problem}, status_code=error.status_code, headers=error.headers)


APP = Starlette(
    routes=[
        Route("/predict", predict, methods=["POST"]),
        Route("/predict_batch", predict_batch, methods=["POST"]),
        Route("/model", model),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
        Route("/", home),
        Mount("/static_content", StaticFiles(packages=[("bentoml", "_internal/server/static_content")])),
    ],
    exception_handlers={
        RequestInvalid: _refuse(422),
        AsOfTooEarly: _refuse(422),
        NotJson: _refuse(415),
        BodyTooLarge: _refuse(413),
        NoModel: _refuse(503),
        StoreUnavailable: _unavailable,
        404: _http_error,
        405: _http_error,
        500: _failed,
    },
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """All of APP, for those who may ask: of a Starlette app BentoML takes the known paths only, and answers the rest.

    Probes and /metrics are BentoML's and need no key.
    """
    if scope["type"] != "http":
        await APP(scope, receive, send)
        return
    status = 500

    async def watched(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await send(message)

    try:
        KEYS.require(scope, Headers(scope=scope).get("authorization", ""))
    except NotAllowed as error:
        answer: Response = JSONResponse({"error": str(error)}, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        await answer(scope, receive, watched)
    except KeysUnreadable as error:
        logger.error("%s", error)
        answer = JSONResponse({"error": "The keys of this service cannot be read; its log says why."}, status_code=503)
        await answer(scope, receive, watched)
    else:
        await APP(scope, receive, watched)
    finally:
        path = scope["path"] if scope["path"] in PATHS else "other"
        metrics.REQUESTS.labels(path, status).inc()


@bentoml.service(
    # BentoML's own defaults are every interface, 60 seconds, and no bound on what waits.
    http={"host": SETTINGS.host, "port": SETTINGS.port},
    traffic={"timeout": 10, "max_concurrency": 64},
    # The probes', and what `make serve` asks for when it starts.
    logging={"access": {"skip_paths": ["/livez", "/readyz", "/healthz", "/metrics", "/model"]}},
)
@bentoml.asgi_app(app, path="/")
class PredictionService:
    """Serves the version that an alias of a registered model points to, and follows it."""

    def __init__(self) -> None:
        self.predictor = Predictor(SETTINGS)

    @bentoml.on_startup
    def start(self) -> None:
        self.predictor.follow()
        # What was built by now lives as long as the process: keep the collector from walking it during requests.
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def stop(self) -> None:
        self.predictor.stop()

    async def __is_ready__(self) -> bool:
        return self.predictor.ready
