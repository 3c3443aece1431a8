"""A small problem of its own on this library's stores: ships that sail late, with a derived key and on-demand times."""

from __future__ import annotations

from contextlib import chdir
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore

from tests import champions

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
CONFIG = """
project: ships
provider: local
registry:
  path: ../data/registry.db
  registry_store_type: fti.stores.atomic_registry.AtomicFileRegistryStore
offline_store:
  type: fti.stores.asof_duckdb.AsofDuckDBOfflineStore
online_store:
  type: fti.stores.wal_sqlite.WalSqliteOnlineStore
  path: ../data/online.db
entity_key_serialization_version: 3
materialization:
  pull_latest_features: true
  online_write_batch_size: 1000
"""
SQL_CONFIG = CONFIG.replace(
    """  path: ../data/registry.db
  registry_store_type: fti.stores.atomic_registry.AtomicFileRegistryStore
""",
    """  registry_type: sql
  path: sqlite:///REGISTRY
  cache_ttl_seconds: 60
""",
)
DEFINITIONS = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Float64, Int64, String, UnixTimestamp

sailing = Entity(name="sailing", join_keys=["sailing"], value_type=ValueType.STRING)
ship = Entity(name="ship", join_keys=["ship"], value_type=ValueType.STRING)
port = Entity(name="port", join_keys=["port"], value_type=ValueType.STRING, tags={"optional": "true"})
hour = Entity(
    name="hour", join_keys=["sailing_hour"], value_type=ValueType.INT64,
    tags={"from_request": "sails_at", "floor_seconds": "3600"},
)


def view(name, entities, ttl, **fields):
    return FeatureView(
        name=name, entities=entities, ttl=ttl,
        schema=[Field(name=field, dtype=dtype) for field, dtype in fields.items()],
        source=FileSource(
            name=f"{name}_source", path=f"../data/{name}.parquet", timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )


history = view("ship_history", [ship], timedelta(days=9), ship_trips=Int64, ship_fast=Bool, ship_speed=Float32)
depth = view("port_depth", [port], timedelta(0), port_depth=Float64)
load = view("hour_load", [hour], timedelta(0), hour_sailings=Int64)
sailings = view("sailings", [sailing], timedelta(0), ship=String, port=String, sails_at=UnixTimestamp)
sailings.tags = {"prediction_anchor": "sails_at", "prediction_lead_minutes": "0"}
outcome = view("outcome", [sailing], timedelta(0), was_late=Int64)
outcome.tags = {"label": "was_late", "definition": "15 or more minutes late"}
request = RequestSource(name="plan", schema=[Field(name="sails_at", dtype=UnixTimestamp)])


@on_demand_feature_view(
    sources=[history[["ship_speed"]], request],
    schema=[Field(name="sails_hour", dtype=Float64), Field(name="knots", dtype=Float64)], mode="python",
)
def clock(inputs):
    from datetime import timezone

    moments = [moment.astimezone(timezone.utc) for moment in inputs["sails_at"]]
    return {
        "sails_hour": [moment.hour + moment.minute / 60 + moment.second / 3600 for moment in moments],
        "knots": [None if speed is None or speed != speed else speed * 1.852 for speed in inputs["ship_speed"]],
    }


late_v1 = FeatureService(
    name="late_v1", features=[history, depth, load, clock],
    tags={"spine": "sailings", "label": "outcome", "key_features": "ship,port"},
)
"""
SHIPS, PORTS = ["ant", "bee", "cat", "dog"], ["Oslo", "Kiel", "Riga"]
ROWS = 240


def tables(data: Path) -> None:
    """Write the tables of five days before NOON, a sailing each half hour; ships have features of every kind."""
    data.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    times = pd.date_range(end=NOON, periods=ROWS, freq="30min")

    def write(name: str, moments: Any, **columns: Any) -> None:
        frame = pd.DataFrame(columns).assign(event_timestamp=moments, created_timestamp=moments)
        for column in ("event_timestamp", "created_timestamp", *(["sails_at"] if "sails_at" in frame else [])):
            frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
        frame.to_parquet(data / f"{name}.parquet")

    before = times[0] - timedelta(hours=1)
    trips = pd.array([2**53 + 1, None, 7, 12], dtype="Int64")
    fast, speed = pd.array([True, None, False, True], dtype="boolean"), np.array([0.1, 7.3, np.nan, 9.9], "float32")
    write("ship_history", [before] * 4, ship=SHIPS, ship_trips=trips, ship_fast=fast, ship_speed=speed)
    write("port_depth", [before] * 3, port=PORTS, port_depth=[8.5, np.nan, 11.25])
    hours = sorted({int(moment.timestamp()) // 3600 for moment in times})
    write("hour_load", [before] * len(hours), sailing_hour=hours, hour_sailings=chance.integers(1, 9, len(hours)))
    keys = [f"S{number}" for number in range(ROWS)]
    ships, ports = chance.choice(SHIPS, ROWS), chance.choice(PORTS, ROWS)
    write("sailings", times - timedelta(minutes=10), sailing=keys, ship=ships, port=ports, sails_at=times)
    late = (chance.random(ROWS) < np.where(ships == "ant", 0.8, 0.2)).astype("int64")
    write("outcome", times + timedelta(minutes=10), sailing=keys, was_late=late)


def write(repo: Path, definitions: str = DEFINITIONS, config: str = CONFIG) -> Path:
    """Make `repo` say this. A time of its own for the file: Python's bytecode goes by whole seconds."""
    repo.mkdir(parents=True, exist_ok=True)
    for compiled in repo.glob("__pycache__/*"):
        compiled.unlink()
    (repo / "feature_store.yaml").write_text(config.replace("REGISTRY", str(repo.parent / "data" / "registry.sql")))
    (repo / "definitions.py").write_text(definitions)
    return repo


def build(folder: Path, config: str = CONFIG) -> Path:
    """Tables, definitions applied by this library's command, and all materialized as of NOON."""
    from fti.features.feast_steps import apply

    tables(folder / "data")
    repo = write(folder / "feature_repo", config=config)
    with chdir(folder):
        apply(repo)
    FeatureStore(repo_path=str(repo)).materialize(NOON - timedelta(days=9), NOON)
    return repo


def register(repo: Path, calibration: str = "sigmoid") -> str:
    """Register a champion of `late_v1`, as `champions.register` does. Serving compiles a model without calibration."""
    start, example = NOON - timedelta(days=6), {"ship": "ant", "port": "Oslo", "sails_at": NOON.isoformat()}
    return champions.register(repo, "lateness", "late_v1", start, NOON, example, calibration=calibration)
