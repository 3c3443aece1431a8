"""The request schema of a model, built from its contract: JSON in, checked values or one problem a field out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from validation.contract import FeatureContract

MAX_TEXT = 64
SHOWN_VALUES = 10
AS_OF = "as_of"


class RequestInvalid(ValueError):
    """A request that the model cannot answer. `problems` has one entry a field: where, and what is wrong."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {problem}" for field, problem in problems.items()))
        self.problems = problems


def _iso(value: Any) -> datetime:
    """Only ISO 8601 with an offset: pydantic would also take numbers, and guess seconds or milliseconds."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("expected ISO 8601 with an offset, such as 2013-10-01T02:00Z")
    return moment


Moment = Annotated[AwareDatetime, BeforeValidator(_iso)]
TYPES: dict[str, Any] = {
    "string": Annotated[str, Field(min_length=1, max_length=MAX_TEXT)],
    "int64": Annotated[int, Field(ge=-(2**63), lt=2**63)],
    "int32": Annotated[int, Field(ge=-(2**31), lt=2**31)],
    "double": Annotated[float, Field(allow_inf_nan=False)],
    "float": Annotated[float, Field(allow_inf_nan=False)],
    "bool": bool,
    "unix_timestamp": Moment,
}


def request_schema(contract: FeatureContract) -> type[BaseModel]:
    """A pydantic model with the contract's request fields and an optional `as_of`; unknown fields are refused."""
    fields: dict[str, Any] = {}
    for field in contract.interface.request_fields:
        kind = TYPES[field.dtype]
        described = {"description": field.description}
        fields[field.name] = (kind, Field(**described)) if field.required else (kind | None, Field(default=None, **described))
    fields[AS_OF] = (Moment | None, Field(default=None, description="Predict as it was known then, UTC; unset means now."))
    # Numbers in quotes and the like are refused: a client that sends them is about to send something worse.
    schema = create_model("Prediction request", __config__=ConfigDict(extra="forbid", strict=True), **fields)
    schema.model_config["json_schema_extra"] = {"example": contract.example_request}
    schema.model_rebuild(force=True)
    return schema


def parse(schema: type[BaseModel], contract: FeatureContract, body: bytes) -> dict[str, Any]:
    """The request's fields as Python values, times in UTC, `as_of` None when unset. Raises RequestInvalid."""
    try:
        request = schema.model_validate_json(body).model_dump()
    except ValidationError as error:
        raise RequestInvalid(
            {".".join(map(str, found["loc"])) or "body": found["msg"] for found in error.errors(include_input=False)}
        ) from error
    request = {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in request.items()}
    problems = {}
    for key in contract.interface.join_keys:
        known = contract.known_values.get(key.name)
        value = request[key.request_field]
        if known is not None and value is not None and value not in known:
            listed = ", ".join(known[:SHOWN_VALUES]) + (f" and {len(known) - SHOWN_VALUES} more" if len(known) > SHOWN_VALUES else "")
            problems[key.request_field] = f"{value!r} is not a {key.noun} that the model knows; it knows {listed}"
    if problems:
        raise RequestInvalid(problems)
    return request
