"""The OpenAPI description of the model that serves now, and a page to try it on."""

from __future__ import annotations

from typing import Any

from starlette.responses import HTMLResponse

from serving.predictor import ServedModel

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "fields": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
ANSWER = {
    "type": "object",
    "required": ["probability", "predicts", "model", "feature_service", "as_of", "features", "warnings"],
    "properties": {
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
        "predicts": {"type": "string"},
        "model": {"type": "object", "properties": {"name": {"type": "string"}, "version": {"type": "string"}}},
        "feature_service": {"type": "string"},
        "as_of": {"type": "string", "format": "date-time"},
        "features": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {"value": {}, "source": {"type": "string"}, "age_seconds": {"type": "number"}},
            },
        },
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
}
# Swagger UI as BentoML ships it; BentoML's own page around it calls a tracker.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="UTF-8"><title>Predictions</title>
<link rel="stylesheet" href="/static_content/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui"});</script>
</body>
</html>"""


def document(served: ServedModel) -> dict[str, Any]:
    """OpenAPI 3.1 for the endpoints, with the request schema of the served version."""
    interface = served.contract.interface

    def answers(schema: dict[str, Any], *failures: str) -> dict[str, Any]:
        described = {"200": schema} | dict.fromkeys(failures, ERROR)
        return {
            status: {"description": _MEANING[status], "content": {"application/json": {"schema": content}}}
            for status, content in described.items()
        }

    return {
        "openapi": "3.1.0",
        "info": {
            "title": served.name,
            "version": served.version,
            "description": f"Predicts {interface.label}: {interface.label_definition}. "
            f"Reads {interface.feature_service}.",
        },
        "paths": {
            "/predict": {
                "post": {
                    "summary": "Predict one",
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": served.schema.model_json_schema()}},
                    },
                    "responses": answers(ANSWER, "413", "415", "422", "503"),
                }
            },
            "/model": {
                "get": {
                    "summary": "The version that serves now, and its contract",
                    "responses": answers({"type": "object"}, "503"),
                }
            },
        },
    }


_MEANING = {
    "200": "Answered",
    "413": "The body is too large",
    "415": "The body is not said to be JSON",
    "422": "The request cannot be answered; the error says which field and why",
    "503": "There is no model to serve yet, or the feature store cannot be read",
}


def docs_page() -> HTMLResponse:
    return HTMLResponse(PAGE)
