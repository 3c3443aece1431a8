"""Requests are checked against a contract, here of a problem that nothing else in this repository knows."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fti.contract.feature_contract import FeatureContract
from fti.scoring.schemas import RequestInvalid, parse, parse_row, request_schema
from fti.scoring.served_model import ServedModel
from fti.serving.batch import answerable

REQUEST = {"pump": "P1", "opened_at": "2024-05-01T12:00:00+02:00", "load": 3}
CONTRACT = FeatureContract.model_validate(
    {
        "interface": {
            "feature_service": "pump_failure_v1",
            "inputs": [{"name": "pump", "dtype": "string", "source": "request"}],
            "join_keys": [
                {"name": "pump", "dtype": "string", "request_field": "pump", "unknown": "reject", "noun": "pump"},
                {"name": "site", "dtype": "string", "request_field": "site", "optional": True, "noun": "site"},
            ],
            "request_fields": [
                {"name": "pump", "dtype": "string", "required": True, "description": "Serial number."},
                {"name": "site", "dtype": "string", "required": False, "description": "Where it stands."},
                {"name": "load", "dtype": "int64", "required": True, "description": "Bars."},
                {"name": "speed", "dtype": "double", "required": False, "description": "Turns a minute."},
                {"name": "opened_at", "dtype": "unix_timestamp", "required": True, "description": "Start."},
            ],
            "stored_views": [],
            "on_demand_views": [],
            "spine_view": "runs",
            "label_view": "failures",
            "label": "failed",
            "label_definition": "failed within a day",
            "prediction_anchor": "opened_at",
            "prediction_lead_minutes": 0,
        },
        "known_values": {"pump": [f"P{number}" for number in range(1, 13)]},
        "training_set": {
            "as_of": "2024-05-01T00:00:00Z",
            "start": "2024-01-01T00:00:00Z",
            "end": "2024-04-01T00:00:00Z",
            "rows": 10,
            "sha256": "0",
            "delta_versions": {},
        },
        "example_request": REQUEST,
    }
)
SCHEMA = request_schema(CONTRACT, unused={"colour"})


def read(body: bytes | dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    return parse(SCHEMA, CONTRACT, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_a_request_becomes_python_values_in_utc():
    """Times are moved to UTC, and what an optional field was not given is None."""
    assert read(REQUEST) == (
        {
            "pump": "P1",
            "site": None,
            "load": 3,
            "speed": None,
            "opened_at": datetime(2024, 5, 1, 10, tzinfo=UTC),
            "as_of": None,
        },
        [],
    )


def single(**changed: Any) -> float:
    """What a request's field of 32 bits is read as."""
    interface = CONTRACT.interface
    fields = [
        one.model_copy(update={"dtype": "float"}) if one.name == "speed" else one for one in interface.request_fields
    ]
    contract = CONTRACT.model_copy(update={"interface": interface.model_copy(update={"request_fields": fields})})
    return parse(request_schema(contract), contract, json.dumps(REQUEST | changed).encode())[0]["speed"]


def test_a_number_of_32_bits_is_the_one_that_training_reads():
    """As a column of that type holds it; one that is too large for it is refused."""
    for sent in (0.1, -0.0, 1e-45, 3.4028235e38, 1e-300):
        assert str(single(speed=sent)) == str(float(np.float32(sent)))
    with pytest.raises(RequestInvalid, match=r"speed: Input should be a number of 32 bits, found 1e\+39"):
        single(speed=1e39)


def test_a_field_for_other_models_is_left_alone_with_a_warning():
    """Clients send the same request whichever version the alias points to."""
    request, warnings = read(REQUEST | {"colour": ["any", {"thing": None}]})
    assert "colour" not in request
    assert warnings == ["colour: this model makes no use of it"]


@pytest.mark.parametrize(
    ("as_of", "warned"),
    [
        ("2024-05-01T08:00:00Z", None),
        ("2024-05-01T10:01:00Z", None),
        ("2024-05-01T10:01:00.000001Z", "2 min after opened_at"),
        ("2024-05-03T14:00:00+02:00", "2 d 2 h after opened_at"),
        ("2024-04-30T08:00:00Z", None),
        ("2024-04-30T07:59:00Z", "1 d 2 h 1 min before opened_at"),
        ("2024-04-10T10:00:00Z", "21 d before opened_at"),
    ],
)
def test_a_moment_that_the_model_was_not_fitted_to_is_answered_with_a_warning(as_of, warned):
    """Two hours before is when it is due: a day earlier still counts, and so does a moment after it; `as_of` or now."""
    interface = CONTRACT.interface.model_copy(update={"prediction_lead_minutes": 120})
    contract = CONTRACT.model_copy(update={"interface": interface})
    unasked = dict.fromkeys(("name", "version", "model", "reader", "meanings", "loaded_at", "explainer"))
    served = ServedModel(contract=contract, schema=SCHEMA, **unasked)
    wanted = [f"as_of: {warned}; the model was fitted to what is known 2 h before it"] if warned else []
    moment = datetime.fromisoformat(as_of)
    asked = served.parse(json.dumps(REQUEST | {"as_of": as_of}).encode(), datetime(2030, 1, 1, tzinfo=UTC))
    assert (asked[0]["as_of"], asked[1]) == (moment, wanted)
    assert served.parse_row(REQUEST, moment) == (asked[0] | {"as_of": moment}, wanted)


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"pump": None}, "pump", "valid string, found null"),
        ({"pump": ""}, "pump", "at least 1 character"),
        ({"pump": "P" * 65}, "pump", "at most 64 characters"),
        ({"pump": "P99"}, "pump", 'knows no pump "P99"; it knows P1, P2, P3, P4, P5, P6, P7, P8, P9, P10 and 2 more'),
        ({"load": "3"}, "load", 'valid integer, found "3"'),
        ({"load": True}, "load", "valid integer, found true"),
        ({"load": 2**63}, "load", "less than 9223372036854775808"),
        ({"load": 10**4000}, "load", "less than 9223372036854775808, found 1000"),
        ({"speed": float("nan")}, "speed", "finite number, found NaN"),
        ({"speed": float("inf")}, "speed", "finite number, found Infinity"),
        ({"opened_at": "2024-05-01T12:00:00"}, "opened_at", "ISO 8601 with an offset"),
        ({"opened_at": 1714557600}, "opened_at", "ISO 8601 with an offset"),
        ({"opened_at": "soon"}, "opened_at", "ISO 8601 with an offset"),
        ({"opened_at": "0001-01-01T00:00:00+14:00"}, "opened_at", "between the years 1970 and 2261"),
        ({"opened_at": "9999-12-31T23:59:59-14:00"}, "opened_at", "between the years 1970 and 2261"),
        ({"as_of": "2262-01-01T00:00:00Z"}, "as_of", "between the years 1970 and 2261"),
        ({"pmup": "P1"}, "pmup", "unknown field; the fields are pump, site, load, speed, opened_at, as_of"),
        ({"\u202e\U0001f600": 1}, "\u202e\U0001f600", "unknown field"),
    ],
)
def test_a_bad_field_is_named_with_what_was_found_and_expected(change, field, said):
    """Each problem stands under its own field, in one line."""
    with pytest.raises(RequestInvalid) as error:
        read(REQUEST | change)
    assert list(error.value.problems) == [field]
    assert said in error.value.problems[field]
    assert str(error.value) == f"{field}: {error.value.problems[field]}"
    assert len(str(error.value)) < 300


def test_every_missing_field_is_described():
    """The answer to an empty object tells what to send."""
    with pytest.raises(RequestInvalid) as error:
        read({})
    assert error.value.problems == {
        "pump": "missing; expected: Serial number.",
        "load": "missing; expected: Bars.",
        "opened_at": "missing; expected: Start.",
    }


DEEP = b'{"a":' * 10_000 + b"1" + b"}" * 10_000


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"7", b"NaN", b'"x"', b"\xff\xfe", b"[" * 10_000, DEEP], ids=range(10)
)
def test_what_is_not_an_object_says_which_fields_one_has(body):
    """However the body is broken, however deep it nests, the problem is the body's, and says what to send."""
    with pytest.raises(RequestInvalid) as error:
        read(body)
    assert list(error.value.problems) == ["body"]
    assert error.value.problems["body"].endswith("one object with the fields pump, site, load, speed, opened_at, as_of")


def test_thousands_of_problems_get_a_short_answer():
    """A client cannot make the service send back much more than it was sent."""
    with pytest.raises(RequestInvalid) as error:
        read({f"{number}{'x' * 1000}": 1 for number in range(60)})
    assert error.value.problems["body"] == "53 more problems"
    assert len(str(error.value)) < 3000


def test_a_row_of_unknown_fields_alone_is_refused_without_an_account_of_each():
    """Ten are named, and a hundred thousand take next to no memory, nor then time: others wait for it."""
    row = REQUEST | {f"unknown{number}": 1 for number in range(100_000)}
    tracemalloc.start()
    with pytest.raises(RequestInvalid) as error:
        parse_row(SCHEMA, CONTRACT, row)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2_000_000
    assert error.value.problems == {
        **{
            f"unknown{number}": "unknown field; the fields are pump, site, load, speed, opened_at, as_of"
            for number in range(10)
        },
        "body": "99990 more unknown fields",
    }


def test_a_row_with_a_few_unknown_fields_hears_of_all_its_problems():
    """As many as are shown anyway: other problems are told along with them."""
    row = {name: value for name, value in REQUEST.items() if name != "load"} | {f"u{n}": 1 for n in range(9)}
    with pytest.raises(RequestInvalid) as error:
        parse_row(SCHEMA, CONTRACT, row)
    assert error.value.problems.keys() == {"load", *(f"u{n}" for n in range(9))}


def test_the_schema_describes_the_request():
    """OpenAPI shows which fields are required, that others are refused, and a request that works."""
    schema = SCHEMA.model_json_schema()
    assert schema["required"] == ["pump", "load", "opened_at"]
    assert schema["additionalProperties"] is False
    assert schema["example"] == REQUEST
    assert schema["properties"]["load"]["description"] == "Bars."


def test_known_values_of_a_key_may_be_whole_numbers_or_slots_of_time():
    """A value that training saw is let through, another is refused by name; a moment is judged by the slot it is in."""
    written = CONTRACT.model_dump(mode="json")
    by_load = {"name": "load", "dtype": "int64", "request_field": "load", "unknown": "reject", "noun": "load"}
    by_hour = by_load | {"name": "hour", "request_field": "opened_at", "floor_seconds": 3600, "noun": "hour"}
    hour = int(datetime(2024, 5, 1, 10, tzinfo=UTC).timestamp()) // 3600
    written["interface"]["join_keys"] = [by_load, by_hour]
    contract = FeatureContract.model_validate(written | {"known_values": {"load": [3, 12], "hour": [hour]}})
    assert FeatureContract.model_validate_json(contract.canonical()) == contract
    schema = request_schema(contract)
    assert parse(schema, contract, json.dumps(REQUEST | {"site": None}).encode())[0]["load"] == 3
    with pytest.raises(RequestInvalid) as error:
        parse(schema, contract, json.dumps(REQUEST | {"load": 4, "opened_at": "2024-05-01T11:00:00Z"}).encode())
    assert error.value.problems == {
        "load": "the model knows no load 4; it knows 3, 12",
        "opened_at": f'the model knows no hour "2024-05-01 11:00:00+00:00"; it knows {hour}',
    }
    loads = pd.Series([3.0, 4.0, None])
    moments = pd.Series(pd.to_datetime(["2024-05-01T10:59Z", "2024-05-01T10:00Z", "2024-05-01T11:00Z"], utc=True))
    rows = pd.DataFrame({"pump": "P1", "site": None, "load": loads, "speed": 1.0, "opened_at": moments})
    kept, reasons = answerable(contract, rows)
    assert list(kept.index) == [0]
    assert reasons == {"the model knows no load 4.0": 1, f"the model knows no hour {moments[2]}": 1}


def test_contracts_of_before_keep_their_hash():
    """What was written as text is text still, also where it looks like a number."""
    text = CONTRACT.model_copy(update={"known_values": {"pump": ["1", "2"]}}).canonical()
    assert FeatureContract.model_validate_json(text).canonical() == text
    assert '"known_values":{"pump":["1","2"]}' in text
