"""The production profile's online store, a real Valkey: filling it, reading it, and `/predict` on it.

    python -m tests.benchmarks.production

Stock Feast on Redis holds the same rows in the same server; the floors are a bare pipeline of HMGETs of the same keys
and fields, and a bare PING. `/predict` has the baselines of the part `inference`, all on this store.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import redis
from redis.client import Pipeline

from fti.deploy.programs import valkey_binary
from fti.features.definitions import copy_definitions
from tests.benchmarks import inference
from tests.benchmarks.online import (
    REPEATS,
    ROWS,
    TURNS,
    YEAR,
    next_of_the_year,
    open_repo,
    reader,
    seconds_of,
    seconds_to_fill,
)
from tests.benchmarks.results import Result, table
from tests.benchmarks.servers import ROOT, Cores, free_port, on_cores

OURS = "fti.stores.restating_redis.RestatingRedisOnlineStore"
KINDS = {"ours": OURS, "stock": "redis"}
CONNECTIONS = (1, 16)


def measure() -> list[Result]:
    """Takes about six minutes. Needs the tables of the year in data/ and a champion; see `make pipeline`."""
    cores = Cores.here()
    with TemporaryDirectory() as name, _valkey(cores.server) as port, on_cores(cores.load):
        places = {kind: _place(Path(name) / kind, store, port, db) for db, (kind, store) in enumerate(KINDS.items())}
        found = [*_filling(places, port), *_reading(places, port)]
    with TemporaryDirectory() as name, _valkey(cores.server) as port:
        found += _predictions(Path(name), port, cores)
    return found


@contextmanager
def _valkey(core: set[int]) -> Iterator[int]:
    """A server on its own core; its port."""
    port = free_port()
    with on_cores(core):
        command = [valkey_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis("127.0.0.1", port, retry=None)
        while True:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def _place(folder: Path, kind: str, port: int, db: int) -> Path:
    """A Feast repository over the tables of data/, as the production profile has it, with a registry of its own."""
    copy_definitions(folder / "feature_repo")
    settings = (ROOT / "feature_repo" / "production" / "feature_store.yaml").read_text()
    settings = settings.replace("${FEAST_REGISTRY}", f"sqlite:///{folder}/registry.db").replace(OURS, kind)
    settings = settings.replace("${FEAST_REDIS}", f"127.0.0.1:{port},db={db}")
    (folder / "feature_repo" / "feature_store.yaml").write_text(settings)
    (folder / "data").mkdir()
    (folder / "data" / "features").symlink_to(ROOT / "data" / "features")
    return folder


def _filling(places: dict[str, Path], port: int) -> Iterator[Result]:
    seconds = {kind: seconds_to_fill(place / "feature_repo", YEAR[1]) for kind, place in places.items()}
    keys = redis.Redis("127.0.0.1", port).dbsize()
    yield Result(
        f"production: the year materialized into Valkey, {keys:,} keys", seconds["ours"], "s",
        f"stock Redis, {seconds['stock']:.0f} s", seconds["ours"] / seconds["stock"],
    )  # fmt: skip


def _reading(places: dict[str, Path], port: int) -> Iterator[Result]:
    flights = next_of_the_year()
    stores = {kind: open_repo(place) for kind, place in places.items()}
    client = redis.Redis("127.0.0.1", port)
    ping = np.median([seconds_of(client.ping) for _ in range(2000)]) * 1000
    for count in ROWS:
        calls: dict[str, Callable[[], Any]] = {kind: reader(store, flights[:count]) for kind, store in stores.items()}
        commands, trips = _asked(client, calls["ours"])
        calls["floor"] = lambda commands=commands: _pipeline(client, commands)
        taken: dict[str, list[float]] = {kind: [] for kind in calls}
        for _ in range(TURNS):  # in turns, so that what slows the machine down slows all down
            for kind, call in calls.items():
                call()
                taken[kind] += [seconds_of(call) * 1000 for _ in range(REPEATS[count])]
        name = f"production: read of {count} row{'s' if count > 1 else ''} on Valkey"
        yield Result(f"{name}, round trips", trips, "", f"{len(commands)} HMGETs")
        for which, of in {"median": 50, "p99": 99}.items():
            ours, stock, floor = (float(np.percentile(taken[kind], of)) for kind in ("ours", "stock", "floor"))
            yield Result(f"{name}, {which}", ours, "ms", f"stock Feast on Redis, {stock:.2f} ms", ours / stock)
            yield Result(f"{name}, {which}", ours, "ms", f"bare HMGETs, {floor:.2f} ms", ours / floor)
            yield Result(f"{name}, {which}", ours, "ms", f"a bare PING, {ping:.3f} ms", ours / ping)


def _asked(client: redis.Redis, call: Callable[[], Any]) -> tuple[list[tuple[Any, ...]], int]:
    """The HMGETs that a read sends, and how often it waits for an answer."""
    commands: list[tuple[Any, ...]] = []
    trips = 0
    execute = Pipeline.execute

    def noted(self: Pipeline, *args: Any, **kwargs: Any) -> Any:
        nonlocal trips
        trips += 1
        commands.extend(args for args, _ in self.command_stack)
        return execute(self, *args, **kwargs)

    call()
    before = client.info("commandstats")["cmdstat_hmget"]["calls"]
    Pipeline.execute = noted  # type: ignore[method-assign]
    try:
        call()
    finally:
        Pipeline.execute = execute  # type: ignore[method-assign]
    # All that reached the server came by these pipelines.
    assert client.info("commandstats")["cmdstat_hmget"]["calls"] - before == len(commands)
    return commands, trips


def _pipeline(client: redis.Redis, commands: list[tuple[Any, ...]]) -> Any:
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        return pipe.execute()


def _predictions(folder: Path, port: int, cores: Cores) -> list[Result]:
    """What `inference` measures of one row, with all stacks on this store by the profile's own settings."""
    settings = {
        "FEAST_FS_YAML_FILE_PATH": str(ROOT / "feature_repo" / "production" / "feature_store.yaml"),
        "FEAST_REGISTRY": f"sqlite:///{folder}/registry.db",
        "FEAST_REDIS": f"127.0.0.1:{port}",
    }
    os.environ |= settings
    try:
        seconds_to_fill(ROOT / "feature_repo", inference.AS_OF)
        with on_cores(cores.load):
            found = inference.rates_and_times(cores, CONNECTIONS)
    finally:
        for name in settings:
            del os.environ[name]
    prefix = "inference: "
    return [
        Result(**(vars(one) | {"name": f"production: on Valkey, {one.name.removeprefix(prefix)}"})) for one in found
    ]


if __name__ == "__main__":
    print(table(measure()))
