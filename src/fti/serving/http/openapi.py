"""The OpenAPI description of the model that serves now."""

from __future__ import annotations

from typing import Any

from fti.contract.feature_contract import FeatureContract
from fti.scoring.answers import TEXTS, answer_of
from fti.scoring.schemas import AS_OF, MAX_REQUESTS
from fti.scoring.served_model import ServedModel

ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "fields": {"type": "object", "additionalProperties": {"type": "string"}},
        "earliest": {"type": "string", "format": "date-time", "description": "The first as_of that could be answered."},
    },
}
_ABOUT = ("predicts", "unit", "model", "feature_service")
_NUMBER: dict[str, Any] = {"type": "number"}
EXPLANATION: dict[str, Any] = {
    "type": "object",
    "description": "base + the sum of all contributions = output, which is the answer on this scale.",
    "required": ["method", "scale", "base", "output", "base_probability", "contributions"],
    "properties": {
        "method": {"type": "string"},
        "scale": {"enum": ["log-odds", "label"]},
        "base": {**_NUMBER, "description": "What the model says of a row of which nothing is known."},
        "output": _NUMBER,
        "base_probability": {"type": ["number", "null"]},
        "contributions": {
            "type": "array",
            "description": "Of every input, the one that moved the answer most first.",
            "items": {
                "type": "object",
                "required": ["feature", "value", "source", "contribution"],
                "properties": {
                    "feature": {"type": "string"},
                    "value": {},
                    "source": {"type": "string"},
                    "contribution": _NUMBER,
                },
            },
        },
    },
}
OBJECT: dict[str, Any] = {"type": "object"}
LIMIT = {"type": "integer", "minimum": 1, "maximum": MAX_REQUESTS}
REQUESTS = {
    "type": "object",
    "required": ["requests", "problems"],
    "properties": {
        "requests": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["as_of", "request", "role"],
                "properties": {
                    "as_of": {"type": "string", "format": "date-time"},
                    "request": OBJECT,
                    "role": {"enum": ["champion", "shadow", "batch", "example"]},
                },
            },
        },
        "problems": TEXTS,
    },
}
STATUS = {
    "type": "object",
    "required": ["now", "model", "versions", "views", "traffic", "monitors", "events", "links", "problems"],
    "properties": {
        "now": {"type": "string", "format": "date-time"},
        **{name: {"type": ["object", "null"]} for name in ("model", "versions", "traffic")},
        **{name: {"type": ["array", "null"], "items": OBJECT} for name in ("views", "monitors")},
        **{name: {"type": "array", "items": OBJECT} for name in ("events", "links")},
        "problems": {**TEXTS, "description": "Why something is null."},
    },
}


def _explained(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {
        "required": [*answer["required"], "explanation"],
        "properties": answer["properties"] | {"explanation": EXPLANATION},
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
        described = {200: schema} | dict.fromkeys(sorted({401, 403, 503, *failures}), ERROR)
        return {
            str(status): {"description": _MEANING[status], "content": {"application/json": {"schema": content}}}
            for status, content in described.items()
        }

    def posts(summary: str, body: dict[str, Any], answer: dict[str, Any], *failures: int) -> dict[str, Any]:
        content = {"required": True, "content": {"application/json": {"schema": body}}}
        said = answers(answer, 408, 413, 415, 422, 429, 504, *failures)
        return {"post": {"summary": summary, "requestBody": content, "responses": said}}

    def gets(
        summary: str, *failures: int, parameters: list[dict[str, Any]] | None = None, answer: dict[str, Any] = OBJECT
    ) -> dict[str, Any]:
        described = {"summary": summary, "responses": answers(answer, *failures)}
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
            "/explain": posts(
                "Predict one, and say how much each input moved the answer; it is not logged",
                one,
                _explained(answer),
                501,
            ),
            "/model": gets("The version that serves now, and its contract"),
            "/features": gets("The feature views that this version reads (admin)", 403),
            "/features/{view}": gets(
                "The live row of a view, its age, and whether it would be used (admin)",
                403,
                422,
                parameters=_look_up_parameters(served.contract),
            ),
            "/requests": gets(
                "Requests that were predicted lately, to try again (admin)",
                403,
                422,
                parameters=[{"name": "limit", "in": "query", "schema": {**LIMIT, "default": 50}}],
                answer=REQUESTS,
            ),
            "/status": gets(
                "The model, its versions, its views, traffic, monitors and events; null is what cannot be had (admin)",
                403,
                answer=STATUS,
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
    403: "The key is not one of those who run the service; or there are no keys, and the host or the site is another",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is not said to be JSON",
    422: "The request cannot be answered; the error says which field and why",
    429: "Too many requests are being answered; ask again after Retry-After seconds",
    503: "There is no model to serve yet, or the feature store cannot be read",
    501: "The version that serves is of a kind whose answers cannot be explained",
    504: "It took too long",
}
