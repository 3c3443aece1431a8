"""A small Feast repository of parcels, whose keys, fields and features say what is hardest to keep: on real tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, FeastType, Float64, Int64, String, UnixTimestamp

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MOMENT = pa.timestamp("us", tz="UTC")
BIG, LEAST, MOST = 2**53 + 1, -(2**63), 2**63 - 1  # of the first, a float makes its neighbour
SETTINGS = """project: parcels
provider: local
registry: registry.db
offline_store: {type: fti.stores.asof_duckdb.AsofDuckDBOfflineStore}
online_store: {type: fti.stores.wal_sqlite.WalSqliteOnlineStore, path: online.db}
entity_key_serialization_version: 3
materialization: {pull_latest_features: true, online_write_batch_size: 10000}
"""
ARROW: dict[FeastType, pa.DataType] = {
    Int64: pa.int64(), Bool: pa.bool_(), Float64: pa.float64(), String: pa.string(), UnixTimestamp: MOMENT,
}  # fmt: skip
DEPOT = {"waiting": Int64, "is_open": Bool, "pace": Float64}
ZONE = {"remoteness": Int64}
PARCEL = {"depot_id": Int64, "zone": String, "weight": Int64, "fragile": Bool, "sent_at": UnixTimestamp}
# By depot: its neighbour in float64 beside it, and both ends of what 64 bits hold.
DEPOTS: list[dict[str, Any]] = [
    {"depot_id": BIG, "waiting": MOST, "is_open": True, "pace": 2.0},
    {"depot_id": BIG - 1, "waiting": 1, "is_open": False, "pace": float("inf")},
    {"depot_id": LEAST, "waiting": None, "is_open": None, "pace": 0.0},
    {"depot_id": MOST, "waiting": BIG, "is_open": True, "pace": float("nan")},
]
ZONES = [{"zone": "NA", "remoteness": 1}, {"zone": "null", "remoteness": 2}, {"zone": "Łódź 🚲", "remoteness": BIG}]
PARCELS: list[dict[str, Any]] = [
    {"parcel": BIG, "depot_id": BIG, "zone": "NA", "weight": 1060, "fragile": True},
    {"parcel": BIG + 1, "depot_id": BIG - 1, "zone": "null", "weight": MOST, "fragile": False},
    {"parcel": MOST, "depot_id": LEAST, "zone": "Łódź 🚲", "weight": LEAST, "fragile": True},
    {"parcel": LEAST, "depot_id": None, "zone": "None", "weight": BIG, "fragile": False},
    {"parcel": 0, "depot_id": MOST, "zone": None, "weight": 7, "fragile": True},
]


def definitions() -> list[Any]:
    def view(name: str, entity: Entity, schema: dict[str, FeastType], **tags: str) -> FeatureView:
        fields = [Field(name=field, dtype=dtype) for field, dtype in schema.items()]
        source = FileSource(
            name=f"{name}_source", path=f"tables/{name}", file_format=DeltaFormat(), timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        )  # fmt: skip
        return FeatureView(name=name, entities=[entity], ttl=timedelta(0), schema=fields, source=source, tags=tags)

    optional = {"optional": "true"}
    parcel = Entity(name="parcel", join_keys=["parcel"], value_type=ValueType.INT64)
    depot = Entity(name="depot", join_keys=["depot_id"], value_type=ValueType.INT64, tags=optional)
    zone = Entity(name="zone", join_keys=["zone"], value_type=ValueType.STRING, tags=optional | {"unknown": "reject"})
    at_depot, in_zone = view("at_depot", depot, DEPOT), view("in_zone", zone, ZONE)
    spine = view("parcels", parcel, PARCEL, prediction_anchor="sent_at", prediction_lead_minutes="0")
    outcome = view("outcome", parcel, {"was_late": Int64}, label="was_late", definition="after its day")
    names = ("weight", "fragile", "sent_at")
    asked = RequestSource(name="asked", schema=[Field(name=name, dtype=PARCEL[name]) for name in names])

    @on_demand_feature_view(
        sources=[at_depot[["pace"]], asked],
        schema=[Field(name="effort", dtype=Float64), Field(name="care", dtype=Bool)],
        mode="python",
    )
    def effort(inputs):
        paces, weights = inputs["pace"], inputs["weight"]
        efforts = [
            -1.0 if pace is None else float("inf") if pace == 0 else weight / pace
            for pace, weight in zip(paces, weights, strict=True)
        ]
        return {"effort": efforts, "care": inputs["fragile"]}

    service = FeatureService(
        name="parcels_v1",
        features=[at_depot, in_zone, effort],
        tags={"spine": "parcels", "label": "outcome", "key_features": "zone"},
    )
    return [parcel, depot, zone, at_depot, in_zone, spine, outcome, effort, service]


def build(folder: Path, parcels: list[dict[str, Any]] | None = None) -> FeatureStore:
    """Make the tables, each row known at noon, and apply the definitions. Parcels are sent an hour later."""
    rows = [{"sent_at": NOON + HOUR} | row for row in parcels or PARCELS]
    outcomes = [{"parcel": row["parcel"], "was_late": number % 2} for number, row in enumerate(rows)]
    schemas: dict[str, tuple[list[dict[str, Any]], dict[str, FeastType]]] = {
        "at_depot": (DEPOTS, {"depot_id": Int64} | DEPOT),
        "in_zone": (ZONES, {"zone": String} | ZONE),
        "parcels": (rows, {"parcel": Int64} | PARCEL),
        "outcome": (outcomes, {"parcel": Int64, "was_late": Int64}),
    }
    for name, (cells, types) in schemas.items():
        schema = pa.schema({column: ARROW[dtype] for column, dtype in types.items()})
        table = pa.Table.from_pylist(cells, schema)
        known = min([NOON, *(row["sent_at"] for row in rows if row["sent_at"])])
        for stamp in ("event_timestamp", "created_timestamp"):
            moments = [NOON + 2 * HOUR if name == "outcome" else known] * table.num_rows
            table = table.append_column(stamp, pa.array(moments, MOMENT))
        write_deltalake(str(folder / "tables" / name), table)
    (folder / "feature_store.yaml").write_text(SETTINGS)
    store = FeatureStore(repo_path=str(folder))
    store.apply(definitions())
    return store
