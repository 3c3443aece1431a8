"""The request schema of a model, built from its contract: JSON in, checked values or one problem a field out."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import StoredView
from fti.contract.request_limits import EARLIEST, LATEST, MAX_TEXT, WHOLE, YEARS

SHOWN = 10
MAX_REQUESTS = 200
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
        raise PydanticCustomError("moment", "Input should be ISO 8601 with an offset, such as 2013-10-01T02:00Z")
    if not EARLIEST <= moment < LATEST:
        raise PydanticCustomError("moment", f"Input should lie {YEARS}")
    return moment


def _single(value: float) -> float:
    """The number of 32 bits that a column of the type has for it: training read that one."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        raise PydanticCustomError("single", "Input should be a number of 32 bits") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_iso)]
TYPES: dict[str, Any] = {
    "string": Annotated[str, Field(min_length=1, max_length=MAX_TEXT)],
    "int64": Annotated[int, Field(ge=-WHOLE["int64"], lt=WHOLE["int64"])],
    "int32": Annotated[int, Field(ge=-WHOLE["int32"], lt=WHOLE["int32"])],
    "double": Annotated[float, Field(allow_inf_nan=False)],
    "float": Annotated[float, Field(allow_inf_nan=False), AfterValidator(_single)],
    "bool": bool,
    "unix_timestamp": Moment,
}


def request_schema(contract: FeatureContract, unused: Collection[str] = ()) -> type[BaseModel]:
    """A pydantic model with the contract's request fields and an optional `as_of`; fields it does not know are refused.

    `unused` names fields that other models of the same feature store take: they are accepted and left alone, so that
    the alias can move between models while clients send the same requests.
    """
    fields: dict[str, Any] = {
        name: (Any, _optional("For other models; this one makes no use of it.")) for name in sorted(unused)
    }
    for field in contract.interface.request_fields:
        kind, described = TYPES[field.dtype], Field(description=field.description)
        fields[field.name] = (kind, described) if field.required else (kind | None, _optional(field.description))
    fields[AS_OF] = (Moment | None, _optional("Predict as it was known then, UTC; unset means now."))
    # Numbers in quotes and the like are refused: a client that sends them is about to send something worse.
    schema = create_model("Prediction request", __config__=ConfigDict(extra="forbid", strict=True), **fields)
    schema.model_config["json_schema_extra"] = {"example": contract.example_request}
    schema.model_rebuild(force=True)
    return schema


def _optional(description: str) -> Any:
    return Field(default=None, description=description)


def parse(schema: type[BaseModel], contract: FeatureContract, body: bytes) -> tuple[dict[str, Any], list[str]]:
    """The contract's fields as Python values, times in UTC, `as_of` None when unset; and warnings for people.

    Raises RequestInvalid.
    """
    return _checked(contract, lambda: schema.model_validate_json(body))


def parse_row(schema: type[BaseModel], contract: FeatureContract, row: Any) -> tuple[dict[str, Any], list[str]]:
    """As `parse`, of one of `rows_of`. Raises RequestInvalid."""
    _require_few_unknown(schema, contract, row)
    return _checked(contract, lambda: schema.model_validate(row))


def rows_of(body: bytes, limit: int) -> tuple[list[Any], bool]:
    """The rows of a batch request, and whether it wants their features. Raises RequestInvalid."""
    expected = 'expected {"rows": [one object a prediction, ...]}, and "features": true to see what each was made of'
    try:
        batch = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestInvalid({"body": f"Invalid JSON: {error}; {expected}"}) from error
    if not isinstance(batch, dict) or not isinstance(batch.get("rows"), list) or not batch["rows"]:
        raise RequestInvalid({"body": f"found {_shown(batch)}; {expected}"})
    unknown = sorted(batch.keys() - {"rows", "features"})
    if unknown or not isinstance(batch.get("features", False), bool):
        raise RequestInvalid({(unknown or ["features"])[0][:MAX_TEXT]: expected})
    if len(batch["rows"]) > limit:
        raise RequestInvalid({"rows": f"found {len(batch['rows'])}; at most {limit} at once"})
    return batch["rows"], batch.get("features", False)


def parse_lookup(
    contract: FeatureContract, name: str, query: list[tuple[str, str]]
) -> tuple[StoredView, dict[str, Any], datetime | None]:
    """The view of that name, the join keys that a query string's request fields make, and its `as_of`.

    Raises RequestInvalid.
    """
    views = {view.name: view for view in contract.interface.stored_views}
    if name not in views:
        raise RequestInvalid({"view": f"the model reads no view {_shown(name)}; it reads {', '.join(views)}"})
    keys = {key.name: key for key in contract.interface.join_keys if key.name in views[name].join_keys}
    described = {field.name: field for field in contract.interface.request_fields}
    wanted: dict[str, Any] = {
        key.request_field: (TYPES[described[key.request_field].dtype], ...) for key in keys.values()
    }
    schema = create_model("Keys", __config__=ConfigDict(extra="forbid"), **wanted | {AS_OF: (Moment | None, None)})
    given = dict(query)
    if len(given) < len(query):
        raise RequestInvalid({"query": f"a field is given twice; the fields are {', '.join(schema.model_fields)}"})
    try:
        checked = schema.model_validate(given)
    except ValidationError as error:
        fields = {one: described[one].description for one in wanted} | {AS_OF: ""}
        raise RequestInvalid(_problems(error, fields)) from error
    found = {key.name: key.of(getattr(checked, key.request_field)) for key in keys.values()}
    as_of = getattr(checked, AS_OF)
    return views[name], found, as_of.astimezone(UTC) if as_of else None


def parse_limit(query: list[tuple[str, str]]) -> int:
    """How many are wanted by a query string. Raises RequestInvalid."""
    try:
        limit = int(dict(query).pop("limit", "50"))
    except ValueError:
        limit = 0
    if len(query) > 1 or {name for name, _ in query} - {"limit"} or not 1 <= limit <= MAX_REQUESTS:
        raise RequestInvalid({"limit": f"expected one number from 1 to {MAX_REQUESTS}, and nothing else"})
    return limit


def _checked(contract: FeatureContract, validate: Callable[[], BaseModel]) -> tuple[dict[str, Any], list[str]]:
    used = _described(contract)
    try:
        checked = validate()
    except ValidationError as error:
        raise RequestInvalid(_problems(error, used)) from error
    request = {name: getattr(checked, name) for name in used}
    request = {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in request.items()}
    unknown = _unknown_values(contract, request)
    if unknown:
        raise RequestInvalid(unknown)
    unused = sorted(checked.model_fields_set - used.keys())
    return request, [f"{name}: this model makes no use of it" for name in unused]


def _described(contract: FeatureContract) -> dict[str, str]:
    return {field.name: field.description for field in contract.interface.request_fields} | {AS_OF: ""}


def _require_few_unknown(schema: type[BaseModel], contract: FeatureContract, row: Any) -> None:
    """Raises RequestInvalid for more unknown fields than are shown: pydantic makes an account of each of them, which
    took a second for a row of a megabyte, and the worker answered nobody meanwhile."""
    if not isinstance(row, dict) or len(row) <= SHOWN:
        return
    unknown = [name for name in row if name not in schema.model_fields]
    if len(unknown) > SHOWN:
        problem = _unknown_field(_described(contract))
        problems = {name[:MAX_TEXT]: problem for name in unknown[:SHOWN]}
        raise RequestInvalid(problems | {"body": f"{len(unknown) - SHOWN} more unknown fields"})


def _unknown_field(fields: dict[str, str]) -> str:
    return f"unknown field; the fields are {', '.join(fields)}"


def _unknown_values(contract: FeatureContract, request: dict[str, Any]) -> dict[str, str]:
    problems = {}
    for key in contract.interface.join_keys:
        known = contract.known_values.get(key.name)
        value = request[key.request_field]
        if known is not None and value is not None and key.of(value) not in known:
            more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
            listed = ", ".join(map(str, known[:SHOWN])) + more
            problems[key.request_field] = f"the model knows no {key.noun} {_shown(value)}; it knows {listed}"
    return problems


def _problems(error: ValidationError, fields: dict[str, str]) -> dict[str, str]:
    """The first problems by field; those of the body as a whole under `body`."""
    found = error.errors()
    problems = {
        (".".join(map(str, problem["loc"])) or "body")[:MAX_TEXT]: _words(problem, fields) for problem in found[:SHOWN]
    }
    if len(found) > SHOWN:
        problems["body"] = f"{len(found) - SHOWN} more problems"
    return problems


def _words(problem: ErrorDetails, fields: dict[str, str]) -> str:
    """What was found and what was expected: pydantic's own words say only the latter. `fields` are the descriptions."""
    listed = ", ".join(fields)
    match problem["type"]:
        case "missing":
            return f"missing; expected: {fields[str(problem['loc'][0])]}"
        case "extra_forbidden":
            return _unknown_field(fields)
        case "json_invalid":
            return f"{problem['msg']}; expected one object with the fields {listed}"
        case "model_type":
            return f"found {_shown(problem['input'])}; expected one object with the fields {listed}"
        case _:
            return f"{problem['msg']}, found {_shown(problem['input'])}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
