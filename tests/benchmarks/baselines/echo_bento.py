"""What BentoML takes by itself: a body in, a JSON answer of ECHO_BYTES out, by the way that the service's answers go.

bentoml serve tests.benchmarks.baselines.echo_bento:EchoService
"""

from __future__ import annotations

import os

import bentoml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

ANSWER = {"echo": "x" * (int(os.environ.get("ECHO_BYTES", "1000")) - len('{"echo":""}'))}


async def predict(request: Request) -> Response:
    await request.body()
    return JSONResponse(ANSWER)


APP = Starlette(routes=[Route("/predict", predict, methods=["POST"])])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """A function, as in serving/service.py: BentoML mounts it otherwise than a Starlette app."""
    await APP(scope, receive, send)


@bentoml.service(traffic={"timeout": 10, "max_concurrency": 64})
@bentoml.asgi_app(app, path="/")
class EchoService:
    """Nothing but the way there and back."""
