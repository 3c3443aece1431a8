"""The OpenAPI description of the model that serves now, and a page to try it on."""

from __future__ import annotations

from typing import Any

from starlette.responses import HTMLResponse

from serving.predictor import ServedModel

ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "fields": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
ANSWER: dict[str, Any] = {
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
_ABOUT = ("predicts", "model", "feature_service")
_PROPERTIES = ANSWER["properties"]
_OF_ROW = {name: schema for name, schema in _PROPERTIES.items() if name not in _ABOUT} | ERROR["properties"]
BATCH_ANSWER = {
    "type": "object",
    "required": [*_ABOUT, "rows"],
    "properties": {name: _PROPERTIES[name] for name in _ABOUT}
    | {"rows": {"type": "array", "items": {"type": "object", "properties": _OF_ROW}}},
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
                    "responses": answers(ANSWER, "401", "413", "415", "422", "503"),
                }
            },
            "/predict_batch": {
                "post": {
                    "summary": "Predict many, in their order; a row that cannot be answered says why",
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": _batch_of(served.schema.model_json_schema())}},
                    },
                    "responses": answers(BATCH_ANSWER, "401", "413", "415", "422", "503"),
                }
            },
            "/model": {
                "get": {
                    "summary": "The version that serves now, and its contract",
                    "responses": answers({"type": "object"}, "401", "503"),
                }
            },
        },
    }


def _batch_of(schema: dict[str, Any]) -> dict[str, Any]:
    rows = {"type": "array", "minItems": 1, "items": schema}
    return {
        "type": "object",
        "required": ["rows"],
        "additionalProperties": False,
        "properties": {"rows": rows, "features": {"type": "boolean", "description": "Show what each was made of."}},
    }


_MEANING = {
    "200": "Answered",
    "401": "The request carries no key that the service knows",
    "413": "The body is too large",
    "415": "The body is not said to be JSON",
    "422": "The request cannot be answered; the error says which field and why",
    "503": "There is no model to serve yet, or the feature store cannot be read",
}


def docs_page() -> HTMLResponse:
    return HTMLResponse(PAGE)
