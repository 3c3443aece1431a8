"""The service over HTTP beside what else would answer: rates, times, memory, start, workers.

    python -m tests.benchmarks.inference

Each server is a process on one core, started as its users start it; the load comes from another core. All are there at
once and asked in turns, so that what slows the machine down slows all down. All are asked for the
same flights and must give the same probabilities.
"""

from __future__ import annotations

import json
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from deltalake import DeltaTable
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from fti.contract.interface import FeatureInterface
from tests.benchmarks.load import Connection, Load, Target, answers, closed_loop, open_loop, post, posts
from tests.benchmarks.results import Result, table
from tests.benchmarks.servers import ROOT, Cores, Server, on_cores, prediction_service, serving

# The moment as of which the online store is materialized by default.
AS_OF = datetime(2013, 10, 1, tzinfo=UTC)
FIELDS = ("origin", "dest", "carrier", "flight_number", "tailnum", "scheduled_departure", "scheduled_arrival")
FLIGHTS = 500  # and as many rows a batch
CHECKED = 50  # flights for which all stacks are to give the same probability
CONNECTIONS = (1, 16, 64)  # the service refuses more than 64 at once
TURNS, SECONDS = 3, 4.0
OURS, NAIVE, TWO_SERVERS, FLOOR = "ours", "FastAPI", "Feast's and MLflow's servers", "echo"  # of BentoML as it ships
Stacks = dict[str, Target]
Loads = dict[tuple[str, int], Load]  # by stack and number of connections


def rates_and_times(cores: Cores, connections: Sequence[int]) -> list[Result]:
    """How often and how fast all stacks answer, on the feature store that the environment names."""
    with _stacks(cores.server) as (_, stacks, _):
        _require_same_answers(stacks)
        loads = _loads(stacks, connections)
        return [*_rates(loads), *_times(loads)]


def measure() -> list[Result]:
    """Takes about four minutes. Needs the features of the year and a champion; see `make pipeline`."""
    cores = Cores.here()
    with on_cores(cores.load), _stacks(cores.server) as (servers, stacks, flights):
        _require_same_answers(stacks)
        loads = _loads(stacks, CONNECTIONS)
        best = max(loads[OURS, count].rate for count in CONNECTIONS)
        found = [*_rates(loads), *_times(loads), _generator(loads, cores), *_near_the_limit(stacks[OURS], best)]
        found += [*_costs(stacks, servers), _in_bulk(servers[OURS], flights), *_footprints(servers)]
    with on_cores(cores.load):
        found.append(_two_workers(flights, best, cores))
    with on_cores(cores.server):
        found.append(_in_process(flights))
    return [*found, _a_month()]


def next_flights(port: int) -> list[dict[str, Any]]:
    """The next flights to depart as of the moment of materialization, as requests: those whose features are all fresh.

    Feast by itself also gives features that are too old, and with those the other stacks would predict otherwise.
    """
    known = DeltaTable(str(ROOT / "data" / "features" / "flight_schedule")).to_pandas(columns=[*FIELDS, "flight_id"])
    known = known[known.scheduled_departure >= AS_OF].dropna().sort_values(["scheduled_departure", "flight_id"])
    flights: list[dict[str, Any]] = [
        {str(name): value.isoformat() if isinstance(value, pd.Timestamp) else value for name, value in flight.items()}
        | {"as_of": AS_OF.isoformat()}
        for flight in known[list(FIELDS)].head(4 * FLIGHTS).to_dict("records")
    ]
    batches = [flights[start : start + FLIGHTS] for start in range(0, len(flights), FLIGHTS)]
    found = answers(posts(port, "/predict_batch", [{"rows": batch} for batch in batches]), len(batches))
    rows = [row for answer in found for row in json.loads(answer)["rows"]]
    complete = [flight for flight, row in zip(flights, rows, strict=True) if row.get("warnings") == []]
    assert len(complete) >= FLIGHTS, f"only {len(complete)} flights have all their features"
    return complete[:FLIGHTS]


# ---- the stacks -----------------------------------------------------------------------------------------------------


@contextmanager
def _stacks(core: set[int]) -> Iterator[tuple[dict[str, Server], Stacks, list[dict[str, Any]]]]:
    """Start all servers, one after the other, and find flights to ask them for; the echo is as long as the answers."""
    with ExitStack() as running:
        ours = running.enter_context(prediction_service(core))
        flights = next_flights(ours.port)
        served = _model(ours.port)
        uri = f"models:/{served['name']}/{served['version']}"
        interface = served["contract"]["interface"]
        naive = running.enter_context(
            serving(
                ["uvicorn", "tests.benchmarks.baselines.naive_app:app", "--port", "{port}"], "/readyz", core,
                {"FEATURE_SERVICE": interface["feature_service"], "MODEL_URI": uri},
            )
        )  # fmt: skip
        # By default its worker ends after a thousand requests, and requests with it.
        feast = ["feast", "-c", "feature_repo", "serve", "-p", "{port}", "--max-requests", "0"]
        features = running.enter_context(serving(feast, "/health", core))
        mlflow = ["mlflow", "models", "serve", "-m", uri, "-p", "{port}", "--env-manager", "local"]
        model = running.enter_context(serving(mlflow, "/ping", core))
        known = answers(posts(ours.port, "/predict", flights), len(flights))
        echo = ["bentoml", "serve", "tests.benchmarks.baselines.echo_bento:EchoService", "--port", "{port}"]
        size = {"ECHO_BYTES": str(int(median(map(len, known))))}
        floor = running.enter_context(serving(echo, "/readyz", core, size))
        stacks = {
            OURS: posts(ours.port, "/predict", flights),
            NAIVE: posts(naive.port, "/predict", flights),
            TWO_SERVERS: _two_servers(
                features.port, model.port, interface, flights, [json.loads(one) for one in known]
            ),
            FLOOR: posts(floor.port, "/predict", flights),
        }
        servers = {OURS: ours, NAIVE: naive, "feast serve": features, "mlflow models serve": model, FLOOR: floor}
        yield servers, stacks, flights


def _two_servers(
    features_port: int, model_port: int, interface: dict[str, Any], flights: Sequence[dict[str, Any]],
    known: Sequence[dict[str, Any]],
) -> Target:  # fmt: skip
    """The stored features by one request, the prediction by another.

    Feast's server cannot compute these on-demand features: JSON has no times, and it hands on the text. The client is
    given them for nothing.
    """
    stored = {view["name"]: list(view["features"]) for view in interface["stored_views"]}
    references = [f"{view}:{feature}" for view, features in stored.items() for feature in features]
    lookups = [
        post("/get-online-features", {"features": references, "entities": {name: [key] for name, key in keys.items()}})
        for keys in (_keys(interface, flight) for flight in flights)
    ]
    inputs = [one["name"] for one in interface["inputs"]]
    computed = [
        {name: one["value"] for name, one in answer["features"].items() if one["source"] not in stored}
        for answer in known
    ]

    async def ask(connections: Sequence[Connection], number: int) -> bytes:
        features_server, model_server = connections
        number %= len(lookups)
        found = json.loads(await features_server.ask(lookups[number]))
        names, results = found["metadata"]["feature_names"], found["results"]
        values = {name: result["values"][0] for name, result in zip(names, results, strict=True)} | computed[number]
        frame = {"columns": inputs, "data": [[values[name] for name in inputs]]}
        return await model_server.ask(post("/invocations", {"dataframe_split": frame}))

    return Target((features_port, model_port), ask)


def _keys(interface: dict[str, Any], flight: dict[str, Any]) -> dict[str, Any]:
    """The join keys of a request, as the contract says: a field as it is, or a time as the number of its slot."""
    return {
        key["name"]: int(datetime.fromisoformat(flight[key["request_field"]]).timestamp() // key["floor_seconds"])
        if key["floor_seconds"]
        else flight[key["request_field"]]
        for key in interface["join_keys"]
    }


def _model(port: int) -> dict[str, Any]:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/model") as answer:
        return json.load(answer)


def _require_same_answers(stacks: Stacks) -> None:
    """Who is measured predicts what the service predicts."""
    found = {name: [json.loads(one) for one in answers(stacks[name], CHECKED)] for name in stacks if name != FLOOR}
    ours = [answer["probability"] for answer in found[OURS]]
    for others in (
        [answer["probability"] for answer in found[NAIVE]],
        [answer["predictions"][0][1] for answer in found[TWO_SERVERS]],
    ):
        np.testing.assert_allclose(others, ours, rtol=0, atol=1e-6)


def _loads(stacks: Stacks, connections: Sequence[int]) -> Loads:
    return {(name, count): load for count in connections for name, load in _in_turns(stacks, count).items()}


def _in_turns(stacks: Stacks, connections: int) -> dict[str, Load]:
    """The median turn of each stack, by rate, after a turn that only warms up."""
    turns: dict[str, list[Load]] = {name: [] for name in stacks}
    for turn in range(TURNS + 1):
        for name, target in stacks.items():
            load = closed_loop(target, connections, SECONDS if turn else 1.0)
            turns[name] += [load] if turn else []
    return {name: sorted(loads, key=lambda load: load.rate)[TURNS // 2] for name, loads in turns.items()}


# ---- what it comes to -----------------------------------------------------------------------------------------------


def _rates(loads: Loads) -> Iterator[Result]:
    for (stack, connections), load in loads.items():
        name = f"inference: {stack}, {_of(connections, 'connection')}"
        if stack != OURS:
            yield Result(name, load.rate, "req/s")
            continue
        for other, least in ((NAIVE, 8), (TWO_SERVERS, None), (FLOOR, 0.6)):
            rate = loads[other, connections].rate
            ratio, wanted = load.rate / rate, least if connections > 1 else None
            yield Result(
                name, load.rate, "req/s", f"{other}, {rate:.0f} req/s", ratio, f">= {wanted} times" if wanted else None,
                ratio >= wanted if wanted else None,
            )  # fmt: skip


def _times(loads: Loads) -> Iterator[Result]:
    for (stack, connections), load in loads.items():
        name = f"inference: {stack}, {_of(connections, 'connection')}"
        if (stack, connections) == (OURS, 1):
            for other, most in ((FLOOR, 2), (NAIVE, 0.25)):
                p50 = loads[other, 1].p50
                ratio = load.p50 / p50
                baseline = f"{other}, {p50:.2f} ms"
                yield Result(f"{name}, p50", load.p50, "ms", baseline, ratio, f"<= {most} times", ratio <= most)
        else:
            yield Result(f"{name}, p50", load.p50, "ms")
        yield Result(f"{name}, p99", load.p99, "ms")


def _generator(loads: Loads, cores: Cores) -> Result:
    """What the generator could do at most: what it did with the quickest server, and the time it had left."""
    quickest = max(loads.values(), key=lambda load: load.rate)
    able = quickest.rate / quickest.busy
    where = "another core" if len(cores.usable) > 1 else "the servers' core, THE ONLY ONE: rates are too low"
    return Result(
        "inference: load that the generator could make", able, "req/s", f"most made, on {where}", able / quickest.rate,
        ">= 2000 req/s", able >= 2000,
    )  # fmt: skip


def _costs(stacks: Stacks, servers: dict[str, Server]) -> Iterator[Result]:
    """Processor time an answer: other programs on the machine change it less than they change rates."""
    costs = {}
    for name, target in stacks.items():
        used = [server for server in servers.values() if server.port in target.ports]
        before = sum(server.processor_seconds for server in used)
        load = closed_loop(target, 16, SECONDS)
        costs[name] = (sum(server.processor_seconds for server in used) - before) / load.answers * 1000
    for other in (NAIVE, TWO_SERVERS, FLOOR):
        baseline = f"{other}, {costs[other]:.2f} ms"
        yield Result("inference: ours, processor time", costs[OURS], "ms/req", baseline, costs[OURS] / costs[other])


def _near_the_limit(ours: Target, best: float) -> list[Result]:
    load = open_loop(ours, 0.8 * best, max(CONNECTIONS), 3 * SECONDS)
    name, ratio = "inference: ours, asked by chance at 80 % of its best", load.p99 / load.p50
    return [
        Result(name, load.rate, "req/s", f"the best, {best:.0f} req/s", load.rate / best),
        Result(f"{name}, p50", load.p50, "ms"),
        Result(f"{name}, p99", load.p99, "ms", f"its p50, {load.p50:.2f} ms", ratio, "< 5 times", ratio < 5),
    ]


def _in_bulk(ours: Server, flights: Sequence[dict[str, Any]]) -> Result:
    rows = closed_loop(posts(ours.port, "/predict_batch", [{"rows": flights}]), 1, SECONDS).rate * len(flights)
    name = f"inference: ours, /predict_batch, {len(flights)} rows a request"
    return Result(name, rows, "rows/s", target=">= 5000 rows/s", met=rows >= 5000)


def _a_month() -> Result:
    """Batch scoring of what is due in a month, on all cores: from the offline store into a log of its own."""
    from fti.contract.predictions import create, open_log
    from fti.serving.batch import scorer_of
    from fti.serving.settings import ServingSettings

    with TemporaryDirectory() as folder:
        log = open_log(f"sqlite:///{folder}/predictions.db")
        create(log)
        scorer = scorer_of(ServingSettings(), log, "champion", None)
        began = time.perf_counter()
        written = scorer.run(AS_OF, AS_OF + timedelta(days=31), "benchmark", datetime.now(UTC)).written
        rows = written / (time.perf_counter() - began)
    name = f"inference: batch scoring of a month, {written:,} rows from the offline store into the log"
    return Result(name, rows, "rows/s", target=">= 20000 rows/s", met=rows >= 20_000)


def _footprints(servers: dict[str, Server]) -> Iterator[Result]:
    for name, server in servers.items():
        memory = server.worker.memory_full_info()
        yield Result(f"inference: {name}, from start to ready", server.seconds, "s")
        yield Result(f"inference: {name}, memory of the worker", memory.rss / 1e6, "MB")
        yield Result(f"inference: {name}, memory of the worker alone (USS)", memory.uss / 1e6, "MB")


def _two_workers(flights: Sequence[dict[str, Any]], alone: float, cores: Cores) -> Result:
    """Two workers on a core each; the load takes the last core, and where there is no third it takes theirs."""
    with prediction_service(set(cores.usable[:2]), workers=2) as server:
        target = posts(server.port, "/predict", flights)
        rate = [closed_loop(target, 16, seconds).rate for seconds in (2.0, 3 * SECONDS)][-1]
    ratio, measurable = rate / alone, len(cores.usable) > 2
    return Result(
        "inference: ours, two workers, 16 connections", rate, "req/s", f"one worker, {alone:.0f} req/s", ratio,
        ">= 1.7 times" if measurable else ">= 1.7 times, not measurable here: the load takes their second core",
        ratio >= 1.7 if measurable else None,
    )  # fmt: skip


def _in_process(flights: Sequence[dict[str, Any]]) -> Result:
    """Retrieval and model of one row, beside bare SELECTs of the same rows and the same model on values at hand."""
    from mlflow import MlflowClient

    from fti.scoring.loading import load
    from fti.scoring.served_model import Prediction
    from fti.serving.settings import ServingSettings

    settings = ServingSettings()
    served = load(MlflowClient().get_model_version_by_alias(settings.model_name, "champion"), settings.feast_repo)
    interface = served.contract.interface
    requests = [
        flight | {name: datetime.fromisoformat(flight[name]) for name in (*FIELDS[-2:], "as_of")} for flight in flights
    ]
    rows = [one.row.values for one in served.predict(requests) if isinstance(one, Prediction)]
    with sqlite3.connect(ROOT / "data" / "feast" / "online_wal.db") as con:
        asked = [_selects(interface, request) for request in requests]

        def floor(number: int) -> None:
            for statement, key in asked[number]:
                con.execute(statement, (key,)).fetchone()
            served.model.predict([rows[number]])

        calls: list[Callable[[int], Any]] = [lambda number: served.predict([requests[number]]), floor]
        taken = [[_seconds(partial(call, number)) for call in calls] for number in range(len(flights))]
    ours, bare = (median(of_call) * 1000 for of_call in zip(*taken, strict=True))
    name, baseline = "inference: one row in process, retrieval and model", f"bare SELECTs and model, {bare:.2f} ms"
    return Result(name, ours, "ms", baseline, ours / bare, "<= 3 times", ours / bare <= 3)


def _selects(interface: FeatureInterface, request: dict[str, Any]) -> list[tuple[str, bytes]]:
    """A statement and a key for each view that the model reads: the store has a table a view, a row a key."""
    keys = {key.name: (key.dtype, key.of(request[key.request_field])) for key in interface.join_keys}
    selects = []
    for view in interface.stored_views:
        values = [Value(**{f"{keys[name][0]}_val": keys[name][1]}) for name in view.join_keys]
        key = serialize_entity_key(EntityKey(join_keys=view.join_keys, entity_values=values), 3)
        selects.append((f'SELECT event_us, features FROM "flights.{view.name}" WHERE entity_key = ?', key))
    return selects


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _of(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"


if __name__ == "__main__":
    print(table(measure()))
