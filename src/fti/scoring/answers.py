"""An answer as JSON: its schema, by the interface of the version that answers, and how it is written."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from fti.contract.interface import FeatureInterface
from fti.contract.task import ANSWER, Task

TEXTS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
# What holds the forecast, by task: the name is `fti.contract.task.ANSWER`'s.
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
        "missing": {**TEXTS, "description": "Views that had no row for the request."},
        "stale": {**TEXTS, "description": "Views whose row was older than its ttl, and was not used."},
        "warnings": TEXTS,
    },
}


def answer_of(interface: FeatureInterface) -> dict[str, Any]:
    """The schema of an answer: the forecast under its task's name, with its unit when that is known."""
    named = ANSWER[interface.task]
    unit = {"unit": {"type": "string", "const": interface.unit}} if interface.unit else {}
    return {
        "type": "object",
        "required": [named, *_ANSWER["required"], *unit],
        "properties": {named: _FORECAST[interface.task]} | _ANSWER["properties"] | unit,
    }


def encode(answer: Any) -> bytes:
    """Strict JSON: NaN and infinity, which JSON has not, are null."""
    return to_json(answer, inf_nan_mode="null")
