"""Definitions that Feast allows and the rest cannot honour are refused in one line, by the real command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from feast import FeatureStore

from fti.contract.declared_types import FieldMistyped
from fti.contract.definitions import DefinitionUnsound, problems
from fti.features import run
from fti.features.feast_steps import materialize
from fti.times import utc
from fti.training.train import read_interface

SETTINGS = """
project: pumps
provider: local
registry: ../data/registry.db
offline_store: {type: fti.stores.asof_duckdb.AsofDuckDBOfflineStore}
online_store: {type: fti.stores.wal_sqlite.WalSqliteOnlineStore, path: ../data/online.db}
entity_key_serialization_version: 3
materialization: {pull_latest_features: true, online_write_batch_size: 10000}
"""
DEFINITIONS = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, Json, Map, String, UnixTimestamp

from fti.features.declare import delta_source

pump = Entity(name="pump", join_keys=["pump"], value_type=ValueType.STRING, tags={"unknown": "warn"})
hour = Entity(
    name="hour", join_keys=["hour"], value_type=ValueType.INT64,
    tags={"from_request": "starts_at", "floor_seconds": "3600"},
)
run = Entity(name="run", join_keys=["run"], value_type=ValueType.STRING)


def view(name, entity, *fields, **more):
    schema = [Field(name=name, dtype=dtype) for name, dtype in fields]
    return FeatureView(
        name=name, entities=[entity], ttl=timedelta(hours=1), schema=schema, source=delta_source(name, name), **more
    )


wear = view("wear", pump, ("turns", Int64), ("heat", Float64), ("make", String))
shift = view("shift", hour, ("crew", Int64))
runs = view(
    "runs", run, ("pump", String), ("next_pump", String), ("starts_at", UnixTimestamp), ("litres", Float64),
    online=False, tags={"prediction_anchor": "starts_at", "prediction_lead_minutes": "60"},
)
failures = view("failures", run, ("failed", Int64), online=False, tags={"label": "failed", "definition": "broke"})
asked = RequestSource(name="asked", schema=[
    Field(name="starts_at", dtype=UnixTimestamp), Field(name="litres", dtype=Float64),
])


@on_demand_feature_view(
    sources=[wear[["heat", "make"]], asked], schema=[Field(name="hot", dtype=Float64)], mode="python"
)
def hotness(inputs):
    rows = zip(inputs["heat"], inputs["litres"])
    return {"hot": [None if heat is None else heat * litres for heat, litres in rows]}


TAGS = {"spine": "runs", "label": "failures"}
pump_v1 = FeatureService(name="pump_v1", features=[wear[["turns", "heat"]], shift, hotness], tags=TAGS)
"""
SERVICE = 'features=[wear[["turns", "heat"]], shift, hotness]'
CODE = 'return {"hot": [None if heat is None else heat * litres for heat, litres in rows]}'
BODY = '    rows = zip(inputs["heat"], inputs["litres"])\n    ' + CODE
TYPE, STRING = '("turns", Int64)', "value_type=ValueType.STRING, tags"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pumps")


@pytest.fixture(autouse=True)
def _no_registry_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    """A repository that says this. Compiled files go: an edit within a second of the last would not be seen."""
    repo, text = folder / "feature_repo", DEFINITIONS
    repo.mkdir(exist_ok=True)
    shutil.rmtree(repo / "__pycache__", ignore_errors=True)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (repo / "feature_store.yaml").write_text(SETTINGS)
    (repo / "definitions.py").write_text(text)
    return repo


def refused(repo: Path, command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line in which a command refuses; nothing is written by it."""
    data = repo.parent / "data"
    before = {file: file.read_bytes() for file in data.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert run.main([command, "--repo", str(repo)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback"))]
    after = {file: file.read_bytes() for file in data.rglob("*") if file.is_file() and file.suffix != ".lock"}
    assert after == {file: content for file, content in before.items() if file.suffix != ".lock"}
    return line


def pandas_code(body: str) -> tuple[tuple[str, str], ...]:
    return ('mode="python"', 'mode="pandas"'), (BODY, body)


REFUSALS = {
    # ---- keys and names of another role
    "map of no key": ([("wear[[", 'wear.with_join_key_map({"pmup": "next_pump"})[[')], "maps ['pmup'] of view 'wear'"),
    "map of a slot": (
        [("shift,", 'shift.with_join_key_map({"hour": "last_hour"}),')],
        "Join key 'last_hour' takes the place of 'hour'",
    ),
    "map to no column of the spine": (
        [("shift,", 'shift, wear[["turns"]].with_name("next_wear").with_join_key_map({"pump": "other_pump"}),')],
        "needs the request field 'other_pump', which its spine 'runs' lacks",
    ),
    "one name, two maps": (
        [("shift,", 'shift, wear[["make"]].with_join_key_map({"pump": "next_pump"}),')],
        "reads as 'wear' both 'wear', by the key map {}, and 'wear', by {'pump': 'next_pump'}",
    ),
    "a name of another view": (
        [("shift,", 'shift.with_name("wear"),')],
        "reads as 'wear' both 'wear', by the key map {}, and 'shift'",
    ),
    "a name of code": ([("shift,", 'shift.with_name("hotness"),')], "reads as 'hotness' both 'shift'"),
    "code beside a map": (
        [(SERVICE, 'features=[wear[["turns"]].with_join_key_map({"pump": "next_pump"}), hotness]')],
        "reads as 'wear' both 'wear', by the key map {'pump': 'next_pump'}, and 'wear', by {}",
    ),
    "code of a mapped view": (
        [("sources=[wear[[", 'sources=[wear.with_join_key_map({"pump": "next_pump"})[[')],
        "under other keys or names",
    ),
    "code by another name": ([("shift, hotness", 'shift, hotness.with_name("warmth")')], "Take it without `with_name`"),
    "two names for one column": (
        [(TYPE, '("litres", Float64)'), ('"turns"', '"litres"')],
        "reads a feature 'litres', also the name of a column",
    ),
    "code and view of one name": ([(TYPE, '("hot", Int64)'), ('"turns"', '"hot"')], "also the name of another feature"),
    # ---- on-demand code
    "singleton": (
        [('mode="python"', 'mode="python", singleton=True'), (BODY, '    return {"hot": 1.0}')],
        "singleton=True",
    ),
    "code that fails": (
        [(CODE, 'return {"hot": [float("x")]}')],
        "On-demand view 'hotness' fails on the row that Feast",
    ),
    "an output missing": (
        [(CODE, 'return {"hot": [1.5]} if len(inputs["heat"]) == 1 else {}')],
        "returned no 'hot', which its schema declares",
    ),
    "too few outputs": ([(CODE, 'return {"hot": [1.5]}')], "returned 1 value(s) of 'hot' for 2 row(s)"),
    "code that takes no null": (
        [(CODE, 'return {"hot": [heat * litres for heat, litres in rows]}')],
        "run on a row without heat, make, as of a key",
    ),
    "code over rows": (
        [(CODE, 'known = [heat or 0.0 for heat, _ in rows]; return {"hot": [heat - sum(known) for heat in known]}')],
        "computes 'hot' of a row from other rows, too",
    ),
    "pandas over rows": (
        [*pandas_code('    return (inputs[["heat"]] - inputs[["heat"]].mean()).rename(columns={"heat": "hot"})')],
        "computes 'hot' of a row from other rows, too",
    ),
    "pandas in another order": (
        [*pandas_code('    return inputs.sort_values("heat")[["heat"]].rename(columns={"heat": "hot"})')],
        "computes 'hot' of a row from other rows, too",
    ),
    "a stored time for code": (
        [('("make", String)', '("make", UnixTimestamp)')],
        "On-demand view 'hotness' reads 'make', a unix_timestamp",
    ),
    # ---- types
    "a time": ([(TYPE, '("turns", UnixTimestamp)')], "which is of type unix_timestamp; a model takes double"),
    "an array": ([(TYPE, '("turns", Array(Float64))')], "which is of type double_list"),
    "bytes": ([(TYPE, '("turns", Bytes)')], "which is of type bytes"),
    "a map": ([(TYPE, '("turns", Map)')], "which is of type map"),
    "json": ([(TYPE, '("turns", Json)')], "which is of type json"),
    "a map that nothing reads": ([('("make", String)', '("make", String), ("parts", Map)')], "stores 'parts', a map"),
    "a time that nothing reads": (
        [('("make", String)', '("make", String), ("built", UnixTimestamp)')],
        "stores 'built', a unix_timestamp, which is not the same online as offline",
    ),
    "a map in a view that nothing reads": (
        [("shift = view", 'parts = view("parts", pump, ("list", Map))\nshift = view')],
        "Feature view 'parts' stores 'list', a map",
    ),
    "an entity without a type": ([(STRING, "tags")], "Entity 'pump' has no value_type"),
    "an entity of another type": ([(STRING, "value_type=ValueType.DOUBLE, tags")], "Entity 'pump' has no"),
    "an entity's tag": (
        [('"unknown": "warn"', '"unknown": "maybe"')],
        "the tag unknown='maybe'; expected warn or reject",
    ),
    "a slot of no length": ([('"floor_seconds": "3600"', '"floor_seconds": "hour"')], "the tag floor_seconds='hour'"),
    "a slot of a number": (
        [('"from_request": "starts_at"', '"from_request": "litres"')],
        "a double; expected unix_timestamp",
    ),
    "two entities of one key": (
        [("run = Entity", 'well = Entity(name="well", join_keys=["pump"], value_type=ValueType.STRING)\nrun = Entity')],
        "Entities ['pump', 'well'] share the join key 'pump'",
    ),
    # ---- services, spines and labels
    "no spine": ([('"spine": "runs", ', "")], "has no tag 'spine'"),
    "no label": ([(', "label": "failures"}', "}")], "has no tag 'label'"),
    "a spine that is not there": ([('"spine": "runs"', '"spine": "rnus"')], "spine='rnus', which is no feature view"),
    "no features": ([(SERVICE, "features=[]")], "Feature service 'pump_v1' takes no features"),
    "no such task": (
        [('"definition": "broke"', '"definition": "broke", "task": "ranking"')],
        "task='ranking'; expected one of",
    ),
    "a key that is none": ([("tags=TAGS", 'tags=TAGS | {"key_features": "site"}')], "['site'] are no join keys"),
    "no anchor": (
        [('"prediction_anchor": "starts_at", ', "")],
        "'runs' is a spine without the tag 'prediction_anchor'",
    ),
    "no lead": ([(', "prediction_lead_minutes": "60"', "")], "is a spine without the tag 'prediction_lead_minutes'"),
    "a lead in words": (
        [('"prediction_lead_minutes": "60"', '"prediction_lead_minutes": "1h"')],
        "expected a whole number of minutes",
    ),
    "an anchor that is no time": (
        [('"prediction_anchor": "starts_at"', '"prediction_anchor": "pump"')],
        "UnixTimestamp fields ['starts_at']",
    ),
    "no label column": ([('"label": "failed", ', "")], "'failures' is a label view without the tag 'label'"),
    "no definition": ([(', "definition": "broke"', "")], "'failures' is a label view without the tag 'definition'"),
    "a label that is no field": (
        [('"label": "failed"', '"label": "fialed"')],
        "expected one of its number fields ['failed']",
    ),
    "a label by another key": ([('"failures", run,', '"failures", pump,')], "Give both the same entity"),
    "a view that is not online": (
        [('("make", String))', '("make", String), online=False)')],
        "'wear' has online=False",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_plan_refuses_what_the_rest_cannot_honour(folder, capsys, case):
    """In one line that names the object and the fix; nothing is written, not even a registry."""
    changes, said = REFUSALS[case]
    line = refused(write(folder, *changes), "plan", capsys)
    assert said in line, line
    assert not (folder / "data").exists()


@pytest.mark.parametrize("command", ["apply", "all"])
def test_other_commands_refuse_as_a_plan_does(folder, capsys, command):
    """An apply, and all steps in one, which lands no event first."""
    line = refused(write(folder, ('"spine": "runs", ', "")), command, capsys)
    assert "has no tag 'spine'" in line
    assert not (folder / "data").exists()


SOUND = {
    "as it is": [],
    "pandas": pandas_code('    return (inputs[["heat"]] * 2.0).rename(columns={"heat": "hot"})'),
    "a view in two roles": [
        ("shift,", 'shift, wear[["turns"]].with_name("next_wear").with_join_key_map({"pump": "next_pump"}),'),
    ],
    "a text for code": [("rows = zip(inputs", 'inputs["make"]; rows = zip(inputs')],
    "numbers of all kinds": [(TYPE, '("turns", Int32), ("flow", Float32), ("open", Bool)')],
    "a map that is not online": [
        ("shift = view", 'parts = view("parts", pump, ("list", Map), online=False)\nshift = view'),
    ],
    "a spine that is online": [('("litres", Float64),\n    online=False, ', '("litres", Float64),\n    ')],
    "a key as a category": [("tags=TAGS", 'tags=TAGS | {"key_features": "pump"}')],
    "a text as a category": [('"turns", "heat"]], shift', '"turns", "make"]], shift')],
}  # fmt: skip


@pytest.mark.parametrize("case", SOUND)
def test_a_plan_passes_what_the_rest_can_honour(folder, case):
    """Python and pandas code, two roles of one view, every type of number."""
    assert run.main(["plan", "--repo", str(write(folder, *SOUND[case]))]) == 0


# ---- what is declared, and what the tables hold ---------------------------------------------------------------------


def fill(folder: Path, values: list[float | None], kind: pa.DataType) -> None:
    """The table of `wear`, with a row a value."""
    stamps, rows = pa.timestamp("us", "UTC"), len(values)
    moments = pa.array([utc("2024-05-01")] * rows, stamps)
    texts = {name: pa.array(["P1"] * rows) for name in ("pump", "make")}
    numbers = {"turns": pa.array(values).cast(kind), "heat": pa.array([0.5] * rows)}
    table = pa.table(texts | numbers | {"event_timestamp": moments, "created_timestamp": moments})
    write_deltalake(str(folder / "data" / "features" / "wear"), table, mode="overwrite", schema_mode="overwrite")


@pytest.mark.parametrize(("declared", "column", "values", "said"), [
    ("Int64", pa.float64(), [114.875, 2.0], "and 1 value(s) would change, such as 114.875"),
    ("Float32", pa.float64(), [131.285714], "declares 'turns' as Float32, but the column 'turns'"),
    ("Int32", pa.int64(), [2**40], "is int64 and 1 value(s) would change"),
    ("Float64", pa.int64(), [2**53 + 1], "is int64 and 1 value(s) would change"),
    ("Int64", pa.string(), [1], "is string, which is no such value"),
    ("Bool", pa.int64(), [1], "is int64, which is no such value"),
])  # fmt: skip
def test_a_type_that_changes_values_of_the_table_is_refused(folder, capsys, declared, column, values, said):
    """By a plan; a type that the table's values would not survive is no type of theirs."""
    fill(folder, values, column)
    try:
        line = refused(write(folder, (TYPE, f'("turns", {declared})')), "plan", capsys)
        assert said in line, line
        assert "cast it in feature_repo/transforms.py" in line
    finally:
        shutil.rmtree(folder / "data")


@pytest.mark.parametrize(("declared", "column", "values"), [
    ("Int64", pa.int32(), [7]), ("Int64", pa.float64(), [7.0, None]), ("Int32", pa.int64(), [7]),
    ("Float64", pa.float32(), [0.1]), ("Float64", pa.int64(), [7]), ("Float32", pa.float32(), [0.1]),
    ("Float32", pa.float64(), [0.5]), ("Float64", pa.float64(), [float("nan"), None]),
])  # fmt: skip
def test_a_type_that_holds_every_value_of_the_table_passes(folder, declared, column, values):
    """Widening loses nothing, nor do whole numbers in a float column with nulls."""
    fill(folder, values, column)
    try:
        assert run.main(["plan", "--repo", str(write(folder, (TYPE, f'("turns", {declared})')))]) == 0
    finally:
        shutil.rmtree(folder / "data")


def test_training_and_materialize_refuse_what_came_into_the_table_after_the_apply(tmp_path):
    """A fraction under an `Int64` would be cut off online; a plan saw whole numbers only."""
    repo = write(tmp_path)
    fill(tmp_path, [7.0], pa.float64())
    assert run.main(["apply", "--repo", str(repo)]) == 0
    store = FeatureStore(repo_path=str(repo))
    assert problems(store, "pump_v1") == []
    read_interface(store, "pump_v1")
    fill(tmp_path, [7.0, 114.875], pa.float64())
    with pytest.raises(FieldMistyped, match=r"114\.875"):
        read_interface(store, "pump_v1")
    with pytest.raises(FieldMistyped, match=r"114\.875"):
        materialize(repo, utc("2024-04-30"), utc("2024-05-02"))
    service = store.get_feature_service("pump_v1")
    service.tags = {}
    store.registry.apply_feature_service(service, store.project)
    with pytest.raises(DefinitionUnsound, match="has no tag 'spine'"):
        read_interface(store, "pump_v1")
