"""Feast repositories with every value type that Feast has, in every use: the matrix test plans and runs them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import feast.types
import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from feast.types import Array, Int64, Set, Struct
from feast.value_type import ValueType

EPOCH, NOON = datetime(1970, 1, 1, tzinfo=UTC), datetime(2024, 5, 1, 12, tzinfo=UTC)
MICROSECOND, INF = timedelta(microseconds=1), float("inf")
SETTINGS = """
project: types
provider: local
registry: ../data/registry.db
offline_store: {type: fti.stores.asof_duckdb.AsofDuckDBOfflineStore}
online_store: {type: fti.stores.wal_sqlite.WalSqliteOnlineStore, path: ../data/online.db}
entity_key_serialization_version: 3
materialization: {pull_latest_features: true, online_write_batch_size: 10000}
"""
# What Feast's own table of types leaves out, an example of each.
NESTED = {
    ValueType.STRUCT: Struct({"a": Int64}), ValueType.STRUCT_LIST: Array(Struct({"a": Int64})),
    ValueType.VALUE_LIST: Array(Array(Int64)), ValueType.VALUE_SET: Set(Array(Int64)),
}  # fmt: skip
NO_TYPES = (ValueType.UNKNOWN, ValueType.NULL)
USES = ("stored feature", "on-demand input", "on-demand output", "request field", "join key", "label")


def types() -> dict[str, Any]:
    """Feast's types by the name that a definition has for them; a type that is new in Feast is among them."""
    known = feast.types.VALUE_TYPES_TO_FEAST_TYPES | NESTED
    return {str(known[one]): known[one] for one in ValueType if one not in NO_TYPES}


# ---- one service a type, to be planned ------------------------------------------------------------------------------

HEAD = """
from datetime import datetime, timezone

from feast import Entity, FeatureService, FeatureView, Field, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp

from fti.features.declare import delta_source
from tests.type_repo import types

run = Entity(name="run", join_keys=["run"], value_type=ValueType.STRING)
pump = Entity(name="pump", join_keys=["pump"], value_type=ValueType.STRING)
SPINE = {"prediction_anchor": "starts_at", "prediction_lead_minutes": "60"}
FIELDS = [("pump", String), ("starts_at", UnixTimestamp)]


def view(name, entity, *fields, **more):
    schema = [Field(name=field, dtype=dtype) for field, dtype in fields]
    return FeatureView(name=name, entities=[entity], schema=schema, source=delta_source(name, name), **more)


wear = view("wear", pump, ("turns", Int64))
label = view("label", run, ("failed", Int64), online=False, tags={"label": "failed", "definition": "it broke"})
spine = view("spine", run, *FIELDS, online=False, tags=SPINE)
"""
CODE = """

@on_demand_feature_view(sources=[SOURCE], schema=[Field(name="out_NAME", dtype=KIND)], mode="python")
def code_NAME(inputs):
    import numpy as np

    return {"out_NAME": [RESULT for _ in inputs["READ"]]}
"""
NUMBER = CODE.replace("KIND", "Float64").replace("RESULT", "1.5").replace("READ", "value_NAME")
SPINE_OF = 'spine_NAME = view("spine_NAME", run, *FIELDS, ("COLUMN_NAME", TYPE), online=False, tags=SPINE)\n'
PLANNED = {
    "stored feature": 'view_NAME = view("view_NAME", pump, ("value_NAME", TYPE))\n',
    "on-demand input": 'view_NAME = view("view_NAME", pump, ("value_NAME", TYPE))\n'
    + NUMBER.replace("SOURCE", "view_NAME"),
    "on-demand output": CODE.replace("SOURCE", "wear").replace("KIND", "TYPE").replace("READ", "turns"),
    "request field": 'source_NAME = RequestSource(name="source_NAME", schema=[Field(name="value_NAME", dtype=TYPE)])\n'
    + SPINE_OF.replace("COLUMN", "value")
    + NUMBER.replace("SOURCE", "source_NAME"),
    "join key": 'key_NAME = Entity(name="key_NAME", join_keys=["key_NAME"], value_type=TYPE.to_value_type())\n'
     'view_NAME = view("view_NAME", key_NAME, ("value_NAME", Int64))\n' + SPINE_OF.replace("COLUMN", "key"),
    "label": 'label_NAME = view("label_NAME", run, ("value_NAME", TYPE), online=False, '
     'tags={"label": "value_NAME", "definition": "it broke"})\n',
}  # fmt: skip
SERVICE = """
service_NAME = FeatureService(
    name="service_NAME", features=[FEATURES], tags={"spine": SPINE_USED.name, "label": LABEL_USED.name}
)
"""
FEATURES = {
    "stored feature": "view_NAME", "on-demand input": "code_NAME", "on-demand output": "code_NAME",
    "request field": "wear, code_NAME", "join key": "view_NAME", "label": "wear",
}  # fmt: skip
# What code returns that is declared to return a type; of others Feast knows no value that is one.
RESULTS = {
    "Int32": "np.int32(1)", "Int64": "1", "Float32": "np.float32(1.5)", "Float64": "1.5", "Bool": "True",
    "String": "'a'", "Bytes": "b'a'", "UnixTimestamp": "datetime(2024, 5, 1, tzinfo=timezone.utc)",
    "Array(Int64)": "[1, 2]", "Map": "{'a': 1}",
}  # fmt: skip


def planned(use: str, chosen: Collection[str]) -> str:
    """Definitions with a service for each of these types, which has it in one use; its objects have its number."""
    text = HEAD
    for number, shown in enumerate(types()):
        if shown not in chosen:
            continue
        own = {"SPINE_USED": "spine_NAME" if use in ("request field", "join key") else "spine",
               "LABEL_USED": "label_NAME" if use == "label" else "label"}  # fmt: skip
        words = {"RESULT": RESULTS.get(shown, "None"), "FEATURES": FEATURES[use], **own, "TYPE": f"types()[{shown!r}]"}
        block = PLANNED[use] + SERVICE
        for word, put in (words | {"NAME": f"t{number}"}).items():
            block = block.replace(word, put)
        text += block
    return text


def write(folder: Path, definitions: str) -> Path:
    repo = folder / "feature_repo"
    repo.mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(SETTINGS)
    (repo / "definitions.py").write_text(definitions)
    return repo


# ---- every value of the types that are supported, in every use at once ----------------------------------------------

EQUAL = """
from feast import Entity, FeatureService, FeatureView, Field, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

from fti.features.declare import delta_source

run = Entity(name="run", join_keys=["run"], value_type=ValueType.STRING)
case = Entity(name="case", join_keys=["case"], value_type=ValueType.STRING)
KINDS = {"int32": Int32, "int64": Int64, "float32": Float32, "float64": Float64, "bool": Bool, "text": String}
OPTIONAL = {"optional": "true"}
key_int32 = Entity(name="key_int32", join_keys=["key_int32"], value_type=ValueType.INT32, tags=OPTIONAL)
key_int64 = Entity(name="key_int64", join_keys=["key_int64"], value_type=ValueType.INT64, tags=OPTIONAL)
key_text = Entity(name="key_text", join_keys=["key_text"], value_type=ValueType.STRING, tags=OPTIONAL)


def view(name, entity, fields, **more):
    schema = [Field(name=field, dtype=dtype) for field, dtype in fields.items()]
    return FeatureView(name=name, entities=[entity], schema=schema, source=delta_source(name, name), **more)


def fields(dtype, *names):
    return [Field(name=name, dtype=dtype) for name in names]


values = view("values", case, {f"s_{kind}": dtype for kind, dtype in KINDS.items()})
by_int32 = view("by_int32", key_int32, {"found_int32": Int64})
by_int64 = view("by_int64", key_int64, {"found_int64": Int64})
by_text = view("by_text", key_text, {"found_text": Int64})
ASKED = {f"a_{kind}": dtype for kind, dtype in KINDS.items()} | {"a_moment": UnixTimestamp}
spine = view(
    "spine", run,
    {"case": String, "key_int32": Int32, "key_int64": Int64, "key_text": String, "starts_at": UnixTimestamp} | ASKED,
    online=False, tags={"prediction_anchor": "starts_at", "prediction_lead_minutes": "60"},
)
LABEL = {"label": "l_int64", "definition": "it broke"}
labels = view(
    "labels", run, {f"l_{kind}": dtype for kind, dtype in KINDS.items() if kind != "text"}, online=False, tags=LABEL,
)
asked = RequestSource(name="asked", schema=[Field(name=name, dtype=dtype) for name, dtype in ASKED.items()])


@on_demand_feature_view(sources=[values, asked], schema=[
    *fields(Int64, "p_s_int32", "p_s_int64", "p_s_text", "p_a_int32", "p_a_int64", "p_a_text", "p_a_moment"),
    *fields(Float64, "p_s_float32", "p_s_float64", "p_a_float32", "p_a_float64"),
    *fields(Bool, "p_s_bool", "p_a_bool"), *fields(Int64, "p_low_int64", "p_low_asked"), *fields(String, "p_word"),
], mode="python")
def in_python(inputs):
    from datetime import datetime, timedelta, timezone
    from zlib import crc32

    start = datetime(1970, 1, 1, tzinfo=timezone.utc)
    texts, moments = ("s_text", "a_text"), inputs["a_moment"]
    found = {f"p_{name}": list(values) for name, values in inputs.items() if name not in (*texts, "a_moment")}
    for name in texts:
        found[f"p_{name}"] = [None if text is None else crc32(text.encode()) for text in inputs[name]]
    found["p_a_moment"] = [(moment - start) // timedelta(microseconds=1) for moment in moments]
    found["p_low_int64"] = [None if number is None else number % 1000 for number in inputs["s_int64"]]
    found["p_low_asked"] = [number % 1000 for number in inputs["a_int64"]]
    found["p_word"] = [None if text is None else "<" + text + ">" for text in inputs["s_text"]]
    return found


@on_demand_feature_view(sources=[values, asked], schema=[
    *fields(Float64, "d_s_int32", "d_s_float32", "d_s_float64", "d_s_bool", "d_s_text", "d_a_text", "d_a_moment"),
    *fields(Float64, "d_low_int64", "d_low_asked"), *fields(Float32, "d_a_float32"), *fields(Int32, "d_a_int32"),
], mode="pandas")
def in_pandas(inputs):
    from zlib import crc32

    import pandas as pd

    def sums(texts):
        return [float("nan") if pd.isna(text) else float(crc32(text.encode())) for text in texts]

    def low(numbers):
        return [float("nan") if pd.isna(number) else float(int(number) % 1000) for number in numbers]

    start = pd.Timestamp("1970-01-01", tz="UTC")
    return pd.DataFrame({
        "d_s_int32": inputs["s_int32"].astype("float64"), "d_s_float32": inputs["s_float32"].astype("float64"),
        "d_s_float64": inputs["s_float64"], "d_s_bool": inputs["s_bool"].astype("float64"),
        "d_s_text": sums(inputs["s_text"]), "d_a_text": sums(inputs["a_text"]),
        "d_a_moment": ((inputs["a_moment"] - start) // pd.Timedelta(microseconds=1)).astype("float64"),
        "d_low_int64": low(inputs["s_int64"]), "d_low_asked": low(inputs["a_int64"]),
        "d_a_float32": inputs["a_float32"].astype("float32"), "d_a_int32": inputs["a_int32"].astype("int32"),
    })


types_v1 = FeatureService(
    name="types_v1", features=[values, by_int32, by_int64, by_text, in_python, in_pandas],
    tags={"spine": "spine", "label": "labels", "key_features": "key_text, key_int32, key_int64"},
)
"""


TINY, LOW, HIGH = 2**-149, -(2**63), 2**63 - 1
STORED: dict[str, list[Any]] = {
    "int32": [-(2**31), 2**31 - 1, 0, -1, None, 7],
    "int64": [LOW, HIGH, 2**53 + 1, None, -(2**53) - 1, 0, 1_000_000_007],
    "float32": [np.float32(0.1).item(), INF, -INF, float("nan"), -0.0, TINY, 3.4028234663852886e38, None],
    "float64": [0.1, 5e-324, INF, -INF, float("nan"), -0.0, 1.7976931348623157e308, 2.0**53 + 2, None],
    "bool": [True, None, False],
    "text": [
        "", "NA", "null", "None", "nan", "é", "e\u0301", "\U0001f469\u200d\U0001f680", "\ufffe", "a\nb\t,;|'\"\\",
        " a ", None, "x" * 5000, "\x00", "other", "missing", "1", "true",
    ],
}  # fmt: skip
ASKED: dict[str, list[Any]] = {
    "int32": [-(2**31), 2**31 - 1, 0, -1],
    "int64": [LOW, HIGH, 2**53 + 1, -(2**53) - 1, 0],
    "float32": [0.1, -0.0, TINY, 3.4028234663852886e38],
    "float64": [0.1, 5e-324, -0.0, 1.7976931348623157e308],
    "bool": [True, False],
    "text": [text for text in STORED["text"] if text and len(text) <= 64],
    "moment": [
        EPOCH, EPOCH + MICROSECOND, datetime(2261, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), NOON,
        datetime(2000, 2, 29, 23, 59, 59, 1, tzinfo=UTC),
    ],
}  # fmt: skip
KEYS: dict[str, list[Any]] = {
    "int32": [-(2**31), 2**31 - 1, 0, -1, None],
    "int64": [LOW, HIGH, 2**53 + 1, 2**53, -1, None, 0],
    "text": [*ASKED["text"], None],
}
# When rows were so: the epoch itself, and around it, are moments like others.
STAMPS = [
    NOON + MICROSECOND, EPOCH, EPOCH - MICROSECOND, EPOCH + timedelta(milliseconds=500),
    datetime(1900, 1, 1, tzinfo=UTC),
]  # fmt: skip
ROWS = 72
ARROW = {
    "int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(), "float64": pa.float64(), "bool": pa.bool_(),
    "text": pa.string(), "moment": pa.timestamp("us", "UTC"),
}  # fmt: skip


def cycled(values: list[Any], rows: int = ROWS, step: int = 1) -> list[Any]:
    return [values[number * step % len(values)] for number in range(rows)]


def tables() -> dict[str, pa.Table]:
    """The rows of every view of EQUAL."""
    cases = len(STORED["text"])
    stored = {"case": [f"case {number}" for number in range(cases)]}
    stored |= {f"s_{kind}": cycled(values, cases) for kind, values in STORED.items()}
    made = {"values": _table(stored, cycled(STAMPS, cases))}
    for kind, keys in KEYS.items():
        columns = {f"key_{kind}": [*keys, *([""] if kind == "text" else [])]}
        columns[f"found_{kind}"] = [None, *range(2**53 + 1, 2**53 + len(columns[f"key_{kind}"]))]
        made[f"by_{kind}"] = _table(columns, [NOON] * len(columns[f"found_{kind}"]))
    runs = [f"run {number:03}" for number in range(ROWS)]
    starts = [NOON + timedelta(days=30, minutes=number) for number in range(ROWS)]
    spine: dict[str, list[Any]] = {"run": runs, "starts_at": starts}
    spine["case"] = [f"case {number}" for number in cycled([*range(cases), 999])]
    spine |= {f"key_{kind}": cycled(keys) for kind, keys in KEYS.items()}
    spine |= {f"a_{kind}": cycled(values) for kind, values in ASKED.items()}
    made["spine"] = _table(spine, [NOON + timedelta(days=1)] * ROWS)
    labels: dict[str, list[Any]] = {"run": runs}
    labels |= {f"l_{kind}": cycled([0, 1, 1, 0, 1], ROWS) for kind in ("int32", "int64", "float32", "float64")}
    labels["l_bool"] = [bool(value) for value in labels["l_int64"]]
    made["labels"] = _table(labels, [moment + timedelta(days=1) for moment in starts])
    return made


def _table(columns: dict[str, list[Any]], stamps: list[datetime]) -> pa.Table:
    """Columns are named after their types, as s_int32 and key_text are, or are numbers that a key finds."""
    kinds = {name: "int64" if name.startswith("found_") else name.partition("_")[2] for name in columns}
    kinds |= {"run": "text", "case": "text", "starts_at": "moment"}
    arrays = {name: pa.array(values, ARROW[kinds[name]]) for name, values in columns.items()}
    moments = pa.array(stamps, ARROW["moment"])
    return pa.table(arrays | {"event_timestamp": moments, "created_timestamp": moments})


def fill(folder: Path) -> None:
    """Write the tables of EQUAL."""
    for name, rows in tables().items():
        write_deltalake(str(folder / "data" / "features" / name), rows)
