"""One loaded model version: JSON in; the features it read, its forecast and an answer for people out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import FeatureInterface, StoredView
from fti.contract.task import ANSWER
from fti.scoring.compiled import Compiled, Native
from fti.scoring.explain import Explainer, NotExplainable
from fti.scoring.features import INFINITE, FeatureReader, FeatureRow, Present, RowRefused, duration
from fti.scoring.schemas import AS_OF, parse, parse_row

# Who asks for the next hours, as the page does, is told nothing; nor who asks at the moment itself, by another clock.
EARLY, LATE = timedelta(days=1), timedelta(minutes=1)


@dataclass(frozen=True)
class Prediction:
    """What the model said of one request (its fields, and `as_of` in UTC), and what it was made of: `value` is a
    probability, or a number in the label's unit."""

    request: dict[str, Any]
    row: FeatureRow
    value: float

    @property
    def as_of(self) -> datetime:
        moment: datetime = self.request[AS_OF]
        return moment

    @property
    def fields(self) -> dict[str, Any]:
        """The request without its moment."""
        return {name: value for name, value in self.request.items() if name != AS_OF}


Outcome = Prediction | RowRefused


@dataclass(frozen=True)
class ServedModel:
    """One loaded model version with all it needs to answer; `loaded_at` is UTC, and `stage` times a stage by name."""

    name: str
    version: str
    contract: FeatureContract
    model: Compiled | Native
    reader: FeatureReader
    schema: type[BaseModel]
    meanings: dict[str, dict[str, str]]
    loaded_at: datetime
    explainer: Explainer | NotExplainable
    stage: Callable[[str], AbstractContextManager[Any]] = nullcontext

    def parse(self, body: bytes, now: datetime) -> tuple[dict[str, Any], list[str]]:
        """The fields of one JSON request, `as_of` being `now` (UTC) when unset, and warnings. Raises RequestInvalid."""
        return self._timed(parse(self.schema, self.contract, body), now)

    def parse_row(self, row: Any, now: datetime) -> tuple[dict[str, Any], list[str]]:
        """As `parse`, of a row that is no longer JSON. Raises RequestInvalid."""
        return self._timed(parse_row(self.schema, self.contract, row), now)

    def predict(self, requests: Sequence[dict[str, Any]]) -> list[Outcome]:
        """What the model says of each request, or why it says nothing. Raises StoreUnavailable."""
        with self.stage("features"):
            read = self.reader.read(requests, [request[AS_OF] for request in requests])
        rows = [row for row in read if isinstance(row, FeatureRow)]
        with self.stage("model"):
            said = iter(self.model.predict([row.values for row in rows]).tolist() if rows else [])
        return [
            Prediction(request | ({AS_OF: row.as_of} if row.as_of else {}), row, next(said))
            if isinstance(row, FeatureRow)
            else row
            for request, row in zip(requests, read, strict=True)
        ]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What every answer of this version says of it."""
        interface = self.contract.interface
        return {
            "predicts": f"{interface.label}: {interface.label_definition}",
            **({"unit": interface.unit} if interface.unit else {}),
            "model": {"name": self.name, "version": self.version},
            "feature_service": interface.feature_service,
        }

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What GET /model says of this version."""
        return {
            "name": self.name,
            "version": self.version,
            "loaded_at": self.loaded_at,
            "compiled": isinstance(self.model, Compiled),
            "feature_contract_sha256": self.contract_sha256,
            "meanings": self.meanings,
            "contract": self.contract.model_dump(mode="json"),
        }

    @cached_property
    def contract_sha256(self) -> str:
        return self.contract.sha256

    @cached_property
    def views(self) -> list[dict[str, Any]]:
        """The stored views that this version reads, and the request fields that find a row of each; of a view that the
        service calls otherwise, also its `source`, the name in the feature store."""
        fields = {key.name: key.request_field for key in self.contract.interface.join_keys}
        return [
            {
                "name": view.name,
                "found_by": [fields[key] for key in view.join_keys],
                "ttl_seconds": view.ttl_seconds,
                "when_missing": view.when_missing,
                "features": view.features,
            }
            | ({"source": view.source} if view.view else {})
            for view in self.contract.interface.stored_views
        ]

    def look_up(self, view: StoredView, keys: dict[str, Any], as_of: datetime) -> dict[str, Any]:
        """The row of a view as it is in the online store, and whether a request as of then would use it.

        Raises StoreUnavailable.
        """
        found = self.reader.look_up(view, keys)
        about = {"view": view.name, "keys": keys, "as_of": as_of, "ttl_seconds": view.ttl_seconds}
        if found is None:
            return about | {"state": "missing", "reason": view.missing}
        stamp, values = found
        age = (as_of - stamp).total_seconds()
        state = "later" if age < 0 else "stale" if view.ttl_seconds and age > view.ttl_seconds else "fresh"
        found_row = {"event_timestamp": stamp, "age_seconds": age, "features": _shown(values)}
        infinite = [f"{name}: infinite; not used" for name, value in values.items() if value in INFINITE]
        return about | {"state": state} | found_row | ({"warnings": infinite} if infinite else {})

    def describe(self, prediction: Prediction, warnings: list[str], with_features: bool = True) -> dict[str, Any]:
        """A prediction as an answer shows it; `warnings` are those of its request."""
        row = prediction.row
        named = ANSWER[self.contract.interface.task]
        answer: dict[str, Any] = {named: prediction.value, "as_of": prediction.request[AS_OF]}
        if with_features:
            answer["features"] = self._features(row)
        return answer | {"missing": row.missing, "stale": row.stale, "warnings": warnings + row.warnings}

    def answer(self, prediction: Prediction, warnings: list[str]) -> dict[str, Any]:
        """What is answered to a request for one prediction; `warnings` are those of the request."""
        return self.about | self.describe(prediction, warnings)

    def require_explainer(self) -> Explainer:
        """Raises NotExplainable."""
        if isinstance(self.explainer, NotExplainable):
            raise self.explainer
        return self.explainer

    def explain(self, prediction: Prediction) -> dict[str, Any]:
        """What moved a prediction and how much, the input that moved it most first. Raises NotExplainable."""
        values = prediction.row.values
        found = self.require_explainer().explain(values, prediction.value)
        moved = found["contributions"]
        rows = [
            {"feature": name, "value": values[name], "source": source, "contribution": moved[name]}
            for name, source in self._sources
        ]
        return found | {"contributions": sorted(rows, key=lambda one: -abs(one["contribution"]))}

    def _timed(self, parsed: tuple[dict[str, Any], list[str]], now: datetime) -> tuple[dict[str, Any], list[str]]:
        """With `as_of`, and a warning where it is none that the model was fitted to."""
        request, warnings = parsed
        if request[AS_OF] is None:
            request[AS_OF] = Present.of(now)
        return request, warnings + _untimely(self.contract.interface, request)

    def _features(self, row: FeatureRow) -> dict[str, dict[str, Any]]:
        """Each model input with its value, where it came from and, for a stored one, the age of its row in seconds."""
        values, ages = row.values, {view: age.total_seconds() for view, age in row.ages.items()}
        return {
            name: {"value": values[name], "source": source, "age_seconds": ages[source]}
            if source in ages
            else {"value": values[name], "source": source}
            for name, source in self._sources
        }

    @cached_property
    def _sources(self) -> list[tuple[str, str]]:
        return [(one.name, one.source) for one in self.contract.interface.inputs]


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    """Stored values as JSON can say them: an infinite one as text."""
    names = dict(zip(INFINITE, ("Infinity", "-Infinity"), strict=True))
    return {name: names[value] if value in INFINITE else value for name, value in values.items()}


def _untimely(interface: FeatureInterface, request: dict[str, Any]) -> list[str]:
    """A warning where a request is of a moment that is over as of then, or is asked long before it is due."""
    anchor, lead = request.get(interface.prediction_anchor), timedelta(minutes=interface.prediction_lead_minutes)
    if not isinstance(anchor, datetime) or -LATE <= (ahead := anchor - request[AS_OF]) <= lead + EARLY:
        return []
    side = "after" if ahead < -LATE else "before"
    away = f"{duration(abs(ahead))} {side} {interface.prediction_anchor}"
    return [f"{AS_OF}: {away}; the model was fitted to what is known {duration(lead)} before it"]


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
