"""Each value type of Feast, in each use: its values are equal everywhere, or `plan` refuses the definition in one line.

The table that this finds is the one of docs/reference/types.md.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from pydantic_core import from_json

from fti.contract.definitions import DefinitionUnsound
from fti.contract.feature_contract import FeatureContract, TrainingSet
from fti.contract.predictions import BATCH, CHAMPION, create, open_log
from fti.contract.registered import DIGEST_TAG, GOLDEN_NAME, MODEL_DIGEST_TAG, SERVICE_TAG, fetch_version
from fti.contract.request import value_type
from fti.features import guard, run
from fti.features.feast_steps import materialize
from fti.monitoring.consistency import consistency
from fti.monitoring.logged import Logged, logged, together
from fti.scoring.compiled import Compiled
from fti.scoring.features import FeatureReader, open_store
from fti.scoring.loading import checked_model, load
from fti.scoring.schemas import RequestInvalid
from fti.scoring.served_model import Prediction, ServedModel
from fti.serving.batch import BatchScorer
from fti.serving.http import api
from fti.serving.model.scorer import Scorer
from fti.serving.prediction_log import PredictionLog
from fti.stores.repository import open_repository
from fti.training.config import load_config
from fti.training.dataset import LabelledRows, labelled_rows, pin_versions, upcoming_request
from fti.training.run_record import log_model
from fti.training.train import fit, read_interface
from tests import type_repo
from tests.type_repo import ASKED, INF, KEYS, NOON, STORED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "types.md"
DAY = timedelta(days=1)
START, END = NOON + 28 * DAY, NOON + 40 * DAY
LONG_AGO = datetime(1800, 1, 1, tzinfo=NOON.tzinfo)
MODEL = "types"


@dataclass(frozen=True)
class World:
    """Tables with every value, the stores filled from them, a model trained on them, and what serves it."""

    root: Path
    redis: Path
    uri: str

    @property
    def repo(self) -> Path:
        return self.root / "feature_repo"

    @cached_property
    def store(self) -> Any:
        return open_repository(self.repo)

    @cached_property
    def rows(self) -> LabelledRows:
        interface = read_interface(self.store, "types_v1")
        return labelled_rows(self.store, interface, START, END)

    @cached_property
    def version(self) -> Any:
        """A registered version, as training makes one."""
        config = load_config({"as_of": "2024-08-01"})
        parameters = config.model.model_copy(update={"max_iter": 8, "min_samples_leaf": 3, "calibration": "none"})
        config = config.model_copy(update={"model": parameters})
        rows = self.rows
        contract = FeatureContract(
            interface=rows.interface, known_values={},
            training_set=TrainingSet(as_of=END, start=START, end=END, rows=len(rows), sha256=rows.sha256,
                                     delta_versions=pin_versions(self.store, rows.interface)),
            example_request=upcoming_request(self.store, rows, START),
        )  # fmt: skip
        with mlflow.start_run():
            source, digest = log_model(fit(rows, config), contract, rows.inputs)
        client = MlflowClient()
        client.create_registered_model(MODEL)
        tags = {SERVICE_TAG: "types_v1", DIGEST_TAG: contract.sha256, MODEL_DIGEST_TAG: digest}
        return client.create_model_version(MODEL, source=source, tags=tags)

    @cached_property
    def served(self) -> ServedModel:
        return load(self.version, self.repo)

    @cached_property
    def requests(self) -> list[dict[str, Any]]:
        """The requests of the spine, as Python has them, each as of when its prediction is due."""
        rows = type_repo.tables()["spine"].to_pylist()
        for row, sent in zip(rows, type_repo.cycled(ASKED["float32"]), strict=True):
            row["a_float32"] = sent  # a client knows no number of 32 bits
        fields = [one.name for one in self.rows.interface.request_fields]
        return [{name: row[name] for name in fields} | {"as_of": row["starts_at"] - timedelta(hours=1)} for row in rows]

    @cached_property
    def said(self) -> dict[str, list[dict[str, Any]]]:
        """What the service says over HTTP: of each request alone, of all of them together, and of the rows of `values`.

        Only what is asked alone is logged."""
        return asyncio.run(self._ask())

    @property
    def answers(self) -> list[dict[str, Any]]:
        return self.said["alone"]

    async def _ask(self) -> dict[str, list[dict[str, Any]]]:
        log = PredictionLog(self.uri)
        service = SimpleNamespace(
            predictor=SimpleNamespace(served=self.served), scorer=Scorer(50), log=log, shadow=None,
        )  # fmt: skip
        found: dict[str, list[dict[str, Any]]] = {"alone": [], "looked up": []}
        with pytest.MonkeyPatch.context() as here:
            here.setattr(api, "_service", lambda: service)
            transport = httpx.ASGITransport(api.ENTRANCE)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3000") as client:
                for request in self.requests:
                    answer = await client.post("/predict", content=body(request))
                    assert answer.status_code == 200, answer.text
                    found["alone"].append(answer.json())
                log.close()
                service.log = None
                rows = ",".join(body(request).decode() for request in self.requests)
                answer = await client.post("/predict_batch", content=f'{{"rows": [{rows}], "features": true}}')
                found["together"] = answer.json()["rows"]
                for number in range(len(STORED["text"])):
                    answer = await client.get("/features/values", params={"case": f"case {number}"})
                    found["looked up"].append(answer.json())
        service.scorer.close()
        assert log.dropped == 0
        return found

    @cached_property
    def scored(self) -> str:
        """What batch scoring says of the same rows."""
        engine = open_log(self.uri)
        create(engine)
        folder, contract = fetch_version(self.version)
        model = checked_model(self.version, folder, contract, self.store)
        scorer = BatchScorer(MODEL, "1", contract, model, self.store, engine)
        return str(scorer.run(START, END, "batch", END))

    @cached_property
    def log(self) -> dict[str, Logged]:
        assert self.answers
        assert self.scored
        read = logged(open_log(self.uri), MODEL, START, END)
        return {one.role: together([*one.batches()]) for one in read}


def body(request: dict[str, Any]) -> bytes:
    return json.dumps(request, default=lambda moment: moment.isoformat()).encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, valkey: str) -> Iterator[World]:
    root = tmp_path_factory.mktemp("types")
    repo = type_repo.write(root, type_repo.EQUAL)
    type_repo.fill(root)
    with pytest.MonkeyPatch.context() as here:
        here.chdir(root)
        here.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        here.setenv("SERVING_FEAST_REPO", str(repo))
        assert run.main(["apply", "--repo", str(repo)]) == 0
        materialize(repo, LONG_AGO, NOON + DAY)
        redis = root / "redis"
        redis.mkdir()
        online = f"{{type: fti.stores.restating_redis.RestatingRedisOnlineStore, connection_string: '{valkey}'}}"
        settings = "\n".join(
            f"online_store: {online}" if line.startswith("online_store") else line
            for line in type_repo.SETTINGS.splitlines()
        )
        (redis / "feature_store.yaml").write_text(settings)
        materialize(redis, LONG_AGO, NOON + DAY)
        yield World(root, redis, f"sqlite:///{root / 'predictions.db'}")


# ---- what is equal --------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A value as it can be compared: a number with the sign of its zero, a missing one as None."""
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    return (value, math.copysign(1, value)) if isinstance(value, float) and value == 0 else value


def finite(value: Any) -> Any:
    """As a model takes it: what is infinite is unknown."""
    return None if isinstance(value, float) and math.isinf(value) else value


@pytest.fixture(scope="module")
def truth() -> list[dict[str, Any]]:
    """What the tables say of each row of the spine, joined by Python alone."""
    tables = {name: table.to_pylist() for name, table in type_repo.tables().items()}
    cases = {row["case"]: row for row in tables["values"]}
    found = []
    for row in tables["spine"]:
        values = {f"s_{kind}": cases.get(row["case"], {}).get(f"s_{kind}") for kind in STORED}
        for kind in KEYS:
            of_key = {one[f"key_{kind}"]: one[f"found_{kind}"] for one in tables[f"by_{kind}"]}
            key = row[f"key_{kind}"]
            values[f"found_{kind}"] = None if key is None else of_key.get(key)
        values |= {f"key_{kind}": row[f"key_{kind}"] for kind in KEYS}
        found.append({"run": row["run"]} | values | computed(values, row))
    return found


def computed(values: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """What the on-demand code of both modes makes of a row, said again."""
    from zlib import crc32

    asked = {f"a_{kind}": row[f"a_{kind}"] for kind in ASKED}
    moment = asked.pop("a_moment")
    micros = (moment - type_repo.EPOCH) // type_repo.MICROSECOND
    found: dict[str, Any] = {}
    for name, value in (values | asked).items():
        if name[:2] not in ("s_", "a_"):
            continue
        sums = None if plain(value) is None else crc32(value.encode()) if name.endswith("_text") else value
        found[f"p_{name}"] = found[f"d_{name}"] = sums
    low = values["s_int64"]
    found |= dict.fromkeys(("p_low_int64", "d_low_int64"), None if low is None else low % 1000)
    found |= dict.fromkeys(("p_low_asked", "d_low_asked"), asked["a_int64"] % 1000)
    found |= dict.fromkeys(("p_a_moment", "d_a_moment"), micros)
    found["p_word"] = None if values["s_text"] is None else f"<{values['s_text']}>"
    return {
        name: as_float(value) if name.startswith("d_") and name != "d_a_int32" else value
        for name, value in found.items()
    }


def differences(
    names: list[str], found: list[dict[str, Any]], truth: list[dict[str, Any]], of: Any = plain
) -> dict[str, Any]:
    """By feature the values that differ from the tables': found, expected."""
    apart: dict[str, Any] = {}
    for one, known in zip(found, truth, strict=True):
        for name in names:
            mine, wanted = plain(one[name]), plain(of(known[name]))
            if mine != wanted or isinstance(mine, str) != isinstance(wanted, str):
                apart.setdefault(name, []).append((mine, wanted))
    return {name: pairs[:4] for name, pairs in apart.items()}


def test_offline_rows_are_those_of_the_tables(world, truth):
    frame = world.rows.frame.set_index("run").loc[[row["run"] for row in truth]].reset_index()
    found = [{name: frame[name].iloc[place] for name in frame} for place in range(len(frame))]
    names = [one.name for one in world.rows.interface.inputs]
    assert differences(names, found, truth, finite) == {}


@pytest.mark.parametrize("online", ["sqlite", "redis"])
def test_online_rows_are_those_of_the_tables(world, truth, online):
    store = open_store(world.repo if online == "sqlite" else world.redis)
    interface = world.rows.interface
    requests = [world.served.parse(body(one), NOON)[0] for one in world.requests]
    rows = FeatureReader(store, interface).read(requests, [one["as_of"] for one in requests])
    assert differences([one.name for one in interface.inputs], [row.values for row in rows], truth, finite) == {}


@pytest.mark.parametrize("asked", ["alone", "together"])
def test_answers_show_the_values_of_the_tables(world, truth, asked):
    answers = world.said[asked]
    found = [{name: one["value"] for name, one in answer["features"].items()} for answer in answers]
    assert differences([*found[0]], found, truth, finite) == {}
    assert [one["probability"] for one in answers] == pytest.approx([one["probability"] for one in world.answers])


def test_a_look_up_shows_what_is_stored(world):
    """Infinity, which JSON does not have, as text."""
    names = {INF: "Infinity", -INF: "-Infinity"}
    stored = type_repo.tables()["values"].to_pylist()
    found = [answer["features"] for answer in world.said["looked up"]]
    known = [{name: names.get(value, value) for name, value in row.items()} for row in stored]
    assert differences([f"s_{kind}" for kind in STORED], found, known) == {}


@pytest.mark.parametrize("role", [CHAMPION, BATCH])
def test_the_log_holds_the_values_of_the_tables(world, truth, role):
    """As numbers that a model takes, from the service and from batch scoring."""
    features = world.log[role].features
    found = features.to_dict("records")
    known = [
        {name: row[name] if isinstance(row[name], str) else as_float(finite(row[name])) for name in features}
        for row in truth
    ]
    assert differences([*features], found, known) == {}


def as_float(value: Any) -> float | None:
    return None if value is None else float(value)


def test_service_and_batch_predict_the_same(world):
    one, other = (world.log[role].predictions for role in (CHAMPION, BATCH))
    assert len(one) == type_repo.ROWS
    np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("role", [CHAMPION, BATCH])
def test_the_monitor_finds_nothing_to_differ(world, role):
    results = consistency(world.store, world.log[role], START, END)
    assert {one.metric: one.value for one in results if one.metric == "consistency"} == {"consistency": 1.0}
    assert {one.metric: one.details for one in results if one.value and one.metric != "consistency"} == {}
    assert results[0].details.startswith("0 of ")


def test_golden_rows_are_rows_of_the_training_set(world):
    folder, _ = fetch_version(world.version)
    golden = json.loads((folder / "extra_files" / GOLDEN_NAME).read_text())["inputs"]
    inputs = world.rows.inputs
    places = np.linspace(0, len(inputs) - 1, len(golden)).astype(int)
    known = [{name: inputs[name].iloc[place] for name in inputs} for place in places]
    assert differences([*inputs], golden, known) == {}


def test_labels_are_those_of_the_table(world):
    known = {row["run"]: row for row in type_repo.tables()["labels"].to_pylist()}
    for kind in ("int32", "int64", "float32", "float64", "bool"):
        interface = world.rows.interface.model_copy(update={"label": f"l_{kind}"})
        rows = labelled_rows(world.store, interface, START, END)
        assert len(rows) == type_repo.ROWS
        assert rows.labels.tolist() == [known[run][f"l_{kind}"] for run in rows.frame.run]


OTHERWISE = [
    *(("key_int32", sent) for sent in ("7", 7.0, 7.5, True, 2**31, -(2**31) - 1, [7])),
    *(("key_int64", sent) for sent in ("7", 7.0, False, 2**63, -(2**63) - 1, 1e19)),
    *(("key_text", sent) for sent in ("", "x" * 65, 7, True)),
    *(("case", sent) for sent in ("", None, 7)),
    *(("a_int64", sent) for sent in ("7", 7.0, True, None)),
    *(("a_float32", sent) for sent in ("0.1", 1e39, -1e39, math.inf, math.nan, True, None)),
    *(("a_float64", sent) for sent in ("0.1", math.inf, math.nan, False, None)),
    *(("a_bool", sent) for sent in (0, 1, "true", None)),
    *(("a_text", sent) for sent in ("", "x" * 65, 7, None)),
    *(
        ("a_moment", sent)
        for sent in (0, "1969-12-31T23:59:59.999999Z", "2262-01-01T00:00Z", "2024-05-01T00:00", "now")
    ),
]


@pytest.mark.parametrize(("field", "sent"), OTHERWISE)
def test_a_request_of_another_type_is_refused(world, field, sent):
    """Alone and as a row of a batch, by the name of the field; no number is read out of text."""
    request = json.dumps(json.loads(body(world.requests[1])) | {field: sent}).encode()
    with pytest.raises(RequestInvalid) as refused:
        world.served.parse(request, NOON)
    assert [*refused.value.problems] == [field]
    with pytest.raises(RequestInvalid) as refused:
        world.served.parse_row(from_json(request), NOON)
    assert [*refused.value.problems] == [field]


def test_what_moved_an_answer_is_told_of_text_too(world):
    """The model is served as tables and trees, and each of its inputs has a contribution."""
    assert isinstance(world.served.model, Compiled)
    (found,) = world.served.predict([world.served.parse(body(world.requests[1]), NOON)[0]])
    assert isinstance(found, Prediction)
    moved = {one["feature"] for one in world.served.explain(found)["contributions"]}
    assert {"s_text", "p_word", "key_text", "s_int64"} <= moved


# ---- what is refused ------------------------------------------------------------------------------------------------

# By use, what a refusal says of the type, and how the table has it.
REFUSED = {
    "stored feature": ("Store what it says as one of those", "no model takes it"),
    "on-demand input": ("Store it as one of those", "not the same online and offline"),
    "on-demand output": ("Store what it says as one of those", "no model takes it"),
    "request field": ("Let requests carry it as one of those", "no value of JSON"),
    "join key": ("Give it one, such as value_type=ValueType.STRING", "no value that a request finds rows by"),
    "label": ("Store the outcome as", "no number"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """By use and type, the line with which a plan refuses it."""
    found: dict[str, dict[str, str]] = {}
    for use in type_repo.USES:
        repo = type_repo.write(tmp_path_factory.mktemp("planned"), type_repo.planned(use, type_repo.types()))
        with pytest.raises(DefinitionUnsound) as refused:
            guard.check(repo)
        lines = str(refused.value).splitlines()
        of_type = {
            shown: [line for line in lines if re.search(rf"_t{number}\b", line)]
            for number, shown in enumerate(type_repo.types())
        }
        found[use] = {shown: said for shown, (said,) in ((shown, said) for shown, said in of_type.items() if said)}
        assert len(found[use]) == len(lines)
    return found


@pytest.mark.parametrize("use", type_repo.USES)
def test_a_plan_names_the_type_and_the_remedy_and_writes_nothing(refusals, tmp_path, capsys, use):
    """Of a type that is refused; the others of the use pass."""
    remedy, _ = REFUSED[use]
    types = type_repo.types()
    for shown, line in refusals[use].items():
        assert types[shown].to_value_type().name in line.upper(), line
        assert remedy in line
    repo = type_repo.write(tmp_path / "refused", type_repo.planned(use, ["Json"]))
    assert run.main(["plan", "--repo", str(repo)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {refusals[use]['Json']}"
    assert not (tmp_path / "refused" / "data").exists()
    sound = type_repo.write(tmp_path / "sound", type_repo.planned(use, types.keys() - refusals[use].keys()))
    assert run.main(["plan", "--repo", str(sound)]) == 0


def proved(world: World) -> dict[str, set[str]]:
    """By use, the types of which the tests above find every value equal."""
    store, interface = world.store, world.rows.interface
    stored = {str(field.dtype) for field in store.get_feature_view("values").features}
    code = store.list_on_demand_feature_views()
    asked = {str(field.dtype) for view in code for one in view.source_request_sources.values() for field in one.schema}
    keys = {one.dtype for one in interface.join_keys}
    return {
        "stored feature": stored,
        "on-demand input": stored,
        "on-demand output": {str(field.dtype) for view in code for field in view.features},
        "request field": asked,
        "join key": {shown for shown, dtype in type_repo.types().items() if value_type(dtype) in keys},
        "label": {str(field.dtype) for field in store.get_feature_view("labels").features},
    }


def table(refusals: dict[str, dict[str, str]], equal: dict[str, set[str]]) -> str:
    """The table of docs/reference/types.md. A type that is neither refused nor proved equal is to be decided on."""
    lines = [f"| type | {' | '.join(type_repo.USES)} |", "|---" * (len(type_repo.USES) + 1) + "|"]
    for shown in type_repo.types():
        cells = []
        for use in type_repo.USES:
            refused = shown in refusals[use]
            assert refused or shown in equal[use], f"Feast has the type {shown}: decide what it is as a {use}"
            cells.append(f"refused: {REFUSED[use][1]}" if refused else "equal")
        lines.append(f"| `{shown}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_table_of_the_reference_is_what_is_found(world, refusals):
    """A row a type that Feast has, a column a use. When this fails, the table to put there is in the output."""
    found = table(refusals, proved(world))
    sys.stdout.write(f"{found}\n")
    assert found in PAGE.read_text()
