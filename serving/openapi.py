"""The OpenAPI description of the model that serves now, and a page to try it on."""

from __future__ import annotations

from typing import Any

from starlette.responses import HTMLResponse

from serving.model import ServedModel
from serving.schemas import AS_OF
from validation.contract import FeatureContract, FeatureInterface
from validation.task import ANSWER, Task

ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "fields": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_TEXTS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
# What holds the forecast, by task: the name is `validation.task.ANSWER`'s.
_FORECAST: dict[Task, dict[str, Any]] = {
    "classification": {"type": "number", "minimum": 0, "maximum": 1},
    "regression": {"type": "number"},
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": [
        "predicts",
        "model",
        "feature_service",
        "as_of",
        "features",
        "missing",
        "stale",
        "warnings",
    ],
    "properties": {
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
        "missing": {**_TEXTS, "description": "Views that had no row for the request."},
        "stale": {**_TEXTS, "description": "Views whose row was older than its ttl, and was not used."},
        "warnings": _TEXTS,
    },
}
_ABOUT = ("predicts", "unit", "model", "feature_service")
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


def answer_of(interface: FeatureInterface) -> dict[str, Any]:
    """The schema of an answer: the forecast under its task's name, with its unit when that is known."""
    named = ANSWER[interface.task]
    unit = {"unit": {"type": "string", "const": interface.unit}} if interface.unit else {}
    return {
        "type": "object",
        "required": [named, *_ANSWER["required"], *unit],
        "properties": {named: _FORECAST[interface.task]} | _ANSWER["properties"] | unit,
    }


def _batch_answer_of(answer: dict[str, Any]) -> dict[str, Any]:
    properties = answer["properties"]
    about = [name for name in _ABOUT if name in properties]
    of_row = {name: schema for name, schema in properties.items() if name not in about} | ERROR["properties"]
    return {
        "type": "object",
        "required": [*about, "rows"],
        "properties": {name: properties[name] for name in about}
        | {"rows": {"type": "array", "items": {"type": "object", "properties": of_row}}},
    }


def document(served: ServedModel) -> dict[str, Any]:
    """OpenAPI 3.1 for the endpoints, with the request schema of the served version."""
    interface = served.contract.interface

    def answers(schema: dict[str, Any], *failures: int) -> dict[str, Any]:
        described = {200: schema} | dict.fromkeys(sorted({401, 503, *failures}), ERROR)
        return {
            str(status): {"description": _MEANING[status], "content": {"application/json": {"schema": content}}}
            for status, content in described.items()
        }

    def posts(summary: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        content = {"required": True, "content": {"application/json": {"schema": body}}}
        said = answers(answer, 408, 413, 415, 422, 429, 504)
        return {"post": {"summary": summary, "requestBody": content, "responses": said}}

    def gets(summary: str, *failures: int, parameters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        described = {"summary": summary, "responses": answers({"type": "object"}, *failures)}
        return {"get": described | ({"parameters": parameters} if parameters else {})}

    one, answer = served.schema.model_json_schema(), answer_of(interface)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": served.name,
            "version": served.version,
            "description": f"Predicts {interface.label}: {interface.label_definition}. "
            f"Reads {interface.feature_service}.",
        },
        "paths": {
            "/predict": posts("Predict one", one, answer),
            "/predict_batch": posts(
                "Predict many, in their order; a row that cannot be answered says why",
                _batch_of(one),
                _batch_answer_of(answer),
            ),
            "/model": gets("The version that serves now, and its contract"),
            "/features": gets("The feature views that this version reads (admin)", 403),
            "/features/{view}": gets(
                "The live row of a view, its age, and whether it would be used (admin)",
                403,
                422,
                parameters=_look_up_parameters(served.contract),
            ),
        },
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic"},
            }
        },
        "security": [{}, {"key": []}, {"password": []}],
    }


def _look_up_parameters(contract: FeatureContract) -> list[dict[str, Any]]:
    """The view, and what may be in the query: each view wants the request fields of its own keys."""
    interface = contract.interface
    described = {field.name: field.description for field in interface.request_fields}
    fields = dict.fromkeys(key.request_field for key in interface.join_keys)
    names = [view.name for view in interface.stored_views]
    text = {"type": "string"}
    query = [(name, described[name]) for name in fields] + [(AS_OF, "The moment to see it from, UTC; unset means now.")]
    return [{"name": "view", "in": "path", "required": True, "schema": {**text, "enum": names}}] + [
        {"name": name, "in": "query", "description": description, "schema": text} for name, description in query
    ]


def _batch_of(schema: dict[str, Any]) -> dict[str, Any]:
    rows = {"type": "array", "minItems": 1, "items": schema}
    return {
        "type": "object",
        "required": ["rows"],
        "additionalProperties": False,
        "properties": {"rows": rows, "features": {"type": "boolean", "description": "Show what each was made of."}},
    }


_MEANING = {
    200: "Answered",
    401: "The request carries no key that the service knows",
    403: "The key is not one of those who run the service",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is not said to be JSON",
    422: "The request cannot be answered; the error says which field and why",
    429: "Too many requests are being answered; ask again after Retry-After seconds",
    503: "There is no model to serve yet, or the feature store cannot be read",
    504: "It took too long",
}


def docs_page() -> HTMLResponse:
    return HTMLResponse(PAGE)
