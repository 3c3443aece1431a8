"""What the service answers: HTTP requests in, JSON out. The Bento around it is in serving/service.py."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

import bentoml
from opentelemetry import trace
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fti.contract.predictions import CHAMPION
from fti.scoring.explain import ExplainerBusy, NotExplainable
from fti.scoring.features import RowRefused, StoreUnavailable
from fti.scoring.schemas import RequestInvalid, parse_limit, parse_lookup, rows_of
from fti.scoring.served_model import Outcome, Prediction, ServedModel
from fti.serving import metrics
from fti.serving.forwarded import Proxies
from fti.serving.http.assets import docs_page, home_page, page_file
from fti.serving.http.bodies import BodyBroken, BodyTooLarge, BodyTooSlow, NotJson, body_of
from fti.serving.http.middleware import Audit, Json, Middleware
from fti.serving.http.openapi import document
from fti.serving.http.rates import Rates
from fti.serving.keys import ApiKeys
from fti.serving.model.predictor import NoModel
from fti.serving.model.scorer import Overloaded
from fti.serving.prediction_log import log_entry
from fti.serving.settings import ServingSettings

logger = logging.getLogger("bentoml.serving")
tracer = trace.get_tracer("serving")
SETTINGS = ServingSettings()
ADMIN = ("/features", "/metrics", "/requests", "/status")
PAGES = ("/openapi.json", "/docs", "/static_content", "/page", "/")
PATHS = ("/predict", "/predict_batch", "/explain", "/model", *ADMIN, *PAGES)


def _service() -> Any:
    return bentoml.get_current_service()


async def predict(request: Request) -> Response:
    service, now, began = _service(), datetime.now(UTC), time.perf_counter()
    body = await body_of(request, SETTINGS.max_body_bytes, SETTINGS.body_seconds)
    served = service.predictor.served
    with _span("parse"):
        asked, said = served.parse(body, now)
    (outcome,) = await _score(service, served, [asked])
    if isinstance(outcome, RowRefused):
        raise outcome
    _keep(service, request, served, {0: outcome}, now, began)
    if service.shadow:
        service.shadow.offer(served, body, request.state.request_id, now)
    return Json(served.answer(outcome, said))


async def predict_batch(request: Request) -> Response:
    service, now, began = _service(), datetime.now(UTC), time.perf_counter()
    body = await body_of(request, SETTINGS.max_batch_bytes, SETTINGS.body_seconds)
    served = service.predictor.served
    with _span("parse"):
        rows, with_features = rows_of(body, SETTINGS.max_batch_rows)
        parsed = [_parsed(served, row, now) for row in rows]
    good = {row: one[0] for row, one in enumerate(parsed) if not isinstance(one, RequestInvalid)}
    outcomes = dict(zip(good, await _score(service, served, [*good.values()]), strict=True))
    _keep(service, request, served, outcomes, now, began)
    answers: list[dict[str, Any]] = []
    for row, one in enumerate(parsed):
        if isinstance(one, RequestInvalid):
            answers.append(_told(one))
        elif isinstance(outcome := outcomes[row], RowRefused):
            answers.append(_told(outcome))
        else:
            answers.append(served.describe(outcome, one[1], with_features))
    return Json(served.about | {"rows": answers})


async def explain(request: Request) -> Response:
    """As `predict`, with what moved the answer. It was asked to be understood, not to be used: nothing is logged."""
    service, now = _service(), datetime.now(UTC)
    body = await body_of(request, SETTINGS.max_body_bytes, SETTINGS.body_seconds)
    served = service.predictor.served
    served.require_explainer()
    with _span("parse"):
        asked, said = served.parse(body, now)
    with service.explaining.place():
        (outcome,) = await _score(service, served, [asked], counted=False)
        if isinstance(outcome, RowRefused):
            raise outcome
        explanation = await service.explaining.run(served.explain, outcome)
    return Json(served.answer(outcome, said) | {"explanation": explanation})


def _parsed(served: ServedModel, row: Any, now: datetime) -> tuple[dict[str, Any], list[str]] | RequestInvalid:
    try:
        return served.parse_row(row, now)
    except RequestInvalid as invalid:
        return invalid


async def _score(service: Any, served: ServedModel, rows: list[dict[str, Any]], counted: bool = True) -> list[Outcome]:
    about = {"model.name": served.name, "model.version": served.version, "rows": len(rows)}
    with _span("score", about):
        outcomes: list[Outcome] = await service.scorer.score(served, rows, counted)
    return outcomes


def _keep(
    service: Any, request: Request, served: ServedModel, outcomes: Mapping[int, Outcome], now: datetime, began: float
) -> None:
    """Log what was predicted for the rows of a request that came at `now`."""
    if service.log is None:
        return
    latency_ms = (time.perf_counter() - began) * 1000
    service.log.put(
        [
            log_entry(served, one, request.state.request_id, row, CHAMPION, now, latency_ms)
            for row, one in outcomes.items()
            if isinstance(one, Prediction)
        ]
    )


def _span(name: str, about: Mapping[str, Any] | None = None) -> AbstractContextManager[Any]:
    """A part of a request's trace, when there are traces: even one that goes nowhere has its price."""
    return tracer.start_as_current_span(name, attributes=about) if SETTINGS.traces_url else nullcontext()


async def model(_: Request) -> Response:
    predictor = _service().predictor
    served: ServedModel = predictor.served
    return Json(served.summary | {"following": predictor.following, "aliases": predictor.aliases})


async def features(request: Request) -> Response:
    """The views that the model reads; or one of them, at the keys in the query."""
    service, now = _service(), datetime.now(UTC)
    served: ServedModel = service.predictor.served
    name = request.path_params.get("view")
    if name is None:
        return Json({"views": served.views})
    view, keys, as_of = parse_lookup(served.contract, name, request.query_params.multi_items())
    return Json(await service.scorer.run(served.look_up, view, keys, as_of or now))


async def status(_: Request) -> Response:
    return Json(await _service().status.report())


async def requests(request: Request) -> Response:
    """Requests to try, as many as the query's `limit`."""
    return Json(await _service().status.requests(parse_limit(request.query_params.multi_items())))


async def metrics_text(_: Request) -> Response:
    return Response(metrics.exposition(), media_type="text/plain; version=0.0.4")


async def openapi(request: Request) -> Response:
    described = document(_service().predictor.served)
    return Json(described | {"servers": [{"url": prefix}]} if (prefix := request.state.prefix) else described)


def _told(error: Exception) -> dict[str, Any]:
    """What a client is told of a refusal: in a sentence, and for programs as far as the error has more to say."""
    about = {"fields": getattr(error, "problems", None), "earliest": getattr(error, "earliest", None)}
    return {"error": str(error)} | {name: value for name, value in about.items() if value}


def _refuse(status: int, **headers: str) -> Any:
    async def answer(_: Request, error: Exception) -> Response:
        return Json(_told(error), status_code=status, headers=headers)

    return answer


async def _unavailable(_: Request, error: Exception) -> Response:
    logger.error("%s (%r)", error, error.__cause__)
    return Json({"error": str(error)}, status_code=503)


async def _failed(_: Request, __: Exception) -> Response:
    # Starlette raises the error again after this answer, and the server logs it.
    return Json({"error": "The prediction failed; the service's log says why."}, status_code=500)


async def _http_error(request: Request, error: Any) -> Response:
    if error.status_code == 405:
        problem = f"{request.url.path} takes {error.headers['Allow']}, found {request.method}."
    else:
        problem = f"There is nothing at {request.url.path}; /docs lists what there is."
    return Json({"error": problem}, status_code=error.status_code, headers=error.headers)


APP = Starlette(
    routes=[
        Route("/predict", predict, methods=["POST"]),
        Route("/predict_batch", predict_batch, methods=["POST"]),
        Route("/explain", explain, methods=["POST"]),
        Route("/model", model),
        Route("/features", features),
        Route("/features/{view}", features),
        Route("/metrics", metrics_text),
        Route("/requests", requests),
        Route("/status", status),
        Route("/openapi.json", openapi),
        Route("/docs", docs_page),
        Route("/", home_page),
        Route("/page/{name}", page_file),
        Mount("/static_content", StaticFiles(packages=[("bentoml", "_internal/server/static_content")])),
    ],
    exception_handlers={
        RequestInvalid: _refuse(422),
        RowRefused: _refuse(422),
        NotJson: _refuse(415, **{"Accept-Encoding": "gzip, zstd"}),
        BodyBroken: _refuse(400),
        BodyTooLarge: _refuse(413),
        BodyTooSlow: _refuse(408, Connection="close"),
        ClientDisconnect: _refuse(400),
        Overloaded: _refuse(429, **{"Retry-After": "1"}),
        ExplainerBusy: _refuse(429, **{"Retry-After": "1"}),
        NotExplainable: _refuse(501),
        NoModel: _refuse(503),
        StoreUnavailable: _unavailable,
        404: _http_error,
        405: _http_error,
        500: _failed,
    },
)
# It would answer /predict/ with an address made of the Host header and http, which is wrong behind a proxy.
APP.router.redirect_slashes = False
AUDIT = Audit(SETTINGS.audit_log, sys.stdout)
ENTRANCE = Middleware(
    APP,
    ApiKeys(SETTINGS.api_keys, SETTINGS.cors_origins, AUDIT.tell),
    PATHS,
    ADMIN,
    sys.stdout if SETTINGS.access_log else None,
    AUDIT,
    Proxies(SETTINGS.trusted_proxies),
    SETTINGS.cors_origins,
    Rates(SETTINGS.requests_per_minute),
)
