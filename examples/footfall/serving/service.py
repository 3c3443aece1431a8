"""The Bento service. `bentoml serve serving.service:PredictionService`

The machinery is `fti.serving.service`; a Bento is served by the name of this module.
"""

from __future__ import annotations

from pathlib import Path

import bentoml

from fti.project import use
from fti.serving import service

use(Path(__file__).resolve().parents[1])


@bentoml.service(**service.options())
@bentoml.asgi_app(service.app, path="/")
class PredictionService(service.PredictionService):
    """Serves the version that an alias of a registered model points to, and follows it."""


PredictionService.add_asgi_middleware(service.Door)  # type: ignore[attr-defined]  # the decorator makes a Service
