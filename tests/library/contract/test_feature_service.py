"""Feature services that read views by other keys and names, over real stores: training, serving and batch agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Float64, Int64, String, UnixTimestamp
from sqlalchemy import select

from fti.contract.definitions import problems
from fti.contract.feature_contract import FeatureContract, TrainingSet, differences
from fti.contract.feature_service import read_interface
from fti.contract.interface import FeatureInterface
from fti.contract.predictions import PREDICTIONS, create, open_log
from fti.contract.spine import PREDICTION_TIME
from fti.features.declare import delta_source
from fti.features.feast_steps import materialize
from fti.monitoring.consistency import replay
from fti.scoring.features import FeatureReader, FeatureRow, open_store, request_names
from fti.scoring.meanings import meanings
from fti.serving.batch import BatchScorer
from fti.stores.guarded import approved
from fti.training.dataset import labelled_rows, pin_versions

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTINGS = """
project: parcels
provider: local
registry: ../data/registry.db
offline_store: {type: fti.stores.asof_duckdb.AsofDuckDBOfflineStore}
online_store: {type: fti.stores.wal_sqlite.WalSqliteOnlineStore, path: ../data/online.db}
entity_key_serialization_version: 3
materialization: {pull_latest_features: true, online_write_batch_size: 10000}
"""
# depot: queue, heat, open. North was measured twice; at South a null was stored; West is too old at noon.
DEPOTS = [
    ("North", 9, 1.5, True, NOON - 2 * HOUR), ("North", 4, 10.1, False, NOON - HOUR),
    ("South", None, 20.25, None, NOON - HOUR), ("West", 7, 30.5, True, NOON - 30 * HOUR),
]  # fmt: skip
TRUCKS = [("T1", 70, 3.5, "van"), ("T2", None, None, None)]
STAFF = [("North", 11, 1), ("South", 12, 2)]
# parcel: origin, destination, truck, weight
PARCELS = [
    ("p1", "North", "South", "T1", 2), ("p2", "South", "North", "T2", 3), ("p3", "West", "North", "T1", 4),
    ("p4", "Nowhere", "South", "T9", 5), ("p5", "North", "North", "T2", 6),
]  # fmt: skip


def view(name: str, entity: Entity, ttl: timedelta, schema: list[Field], **more: Any) -> FeatureView:
    return FeatureView(name=name, entities=[entity], ttl=ttl, schema=schema, source=delta_source(name, name), **more)


def definitions() -> list[Any]:
    depot = Entity(name="depot", join_keys=["depot"], value_type=ValueType.STRING, description="A depot.")
    shift = Entity(name="shift", join_keys=["shift"], value_type=ValueType.INT64)
    truck = Entity(name="truck", join_keys=["truck"], value_type=ValueType.STRING)
    parcel = Entity(name="parcel", join_keys=["parcel"], value_type=ValueType.STRING)
    load = view("depot_load", depot, timedelta(days=1), [
        Field(name="queue", dtype=Int64, description="Waiting parcels."), Field(name="heat", dtype=Float64),
        Field(name="open", dtype=Bool),
    ])  # fmt: skip
    staff = view("depot_staff", depot, timedelta(0), [Field(name="clerks", dtype=Int64)])
    cab = view("truck_load", truck, timedelta(0), [
        Field(name="queue", dtype=Int64), Field(name="fuel", dtype=Float32), Field(name="body", dtype=String),
    ])  # fmt: skip
    parcels = view(
        "parcels", parcel, timedelta(0),
        [*(Field(name=name, dtype=String) for name in ("from_depot", "to_depot", "truck")),
         Field(name="weight", dtype=Int64), Field(name="leaves_at", dtype=UnixTimestamp)],
        online=False, tags={"prediction_anchor": "leaves_at", "prediction_lead_minutes": "60"},
    )  # fmt: skip
    outcome = view(
        "parcel_outcome", parcel, timedelta(0), [Field(name="late", dtype=Int64)], online=False,
        tags={"label": "late", "definition": "a day late"},
    )  # fmt: skip
    asked = RequestSource(name="asked", schema=[Field(name="weight", dtype=Int64, description="Kilograms.")])

    @on_demand_feature_view(
        sources=[cab[["queue", "body"]], asked], schema=[Field(name="per_kilo", dtype=Float64)], mode="python"
    )
    def per_kilo(inputs):
        rows = zip(inputs["queue"], inputs["body"], inputs["weight"], strict=True)
        return {"per_kilo": [None if queue is None else queue / kilos + len(body) for queue, body, kilos in rows]}

    @on_demand_feature_view(
        sources=[cab[["fuel", "queue", "body"]], asked],
        schema=[Field(name="range_left", dtype=Float64), Field(name="is_van", dtype=Bool)],
        mode="pandas",
    )
    def reach(inputs):
        import pandas as pd

        frame = pd.DataFrame({"range_left": inputs["fuel"] * 2.5 - inputs["weight"] + inputs["queue"].fillna(-1.0)})
        frame["is_van"] = inputs["body"].fillna("").str.startswith("van")
        return frame

    tags = {"spine": "parcels", "label": "parcel_outcome"}
    one = FeatureService(
        name="one_v1",
        features=[load.with_join_key_map({"depot": "from_depot"})],
        tags=tags | {"key_features": "from_depot"},
    )
    both = FeatureService(
        name="both_v1",
        features=[
            load.with_name("origin_load").with_join_key_map({"depot": "from_depot"}),
            load[["queue", "heat"]].with_name("dest_load").with_join_key_map({"depot": "to_depot"}),
            staff.with_join_key_map({"depot": "to_depot"}),
            cab[["queue", "fuel"]], per_kilo, reach,
        ],
        tags=tags,
    )  # fmt: skip
    kept = FeatureService(name="kept_v1", features=[load[["heat"]], cab[["fuel"]], reach], tags=tags)
    named = FeatureService(
        name="named_v1",
        features=[load[["heat"]].with_name("depots"), cab[["fuel"]].with_name("cabs"), reach],
        tags=tags,
    )
    views = [depot, shift, truck, parcel, load, staff, cab, parcels, outcome, asked, per_kilo, reach]
    return [*views, one, both, kept, named]


def write(tables: Path, name: str, frame: pd.DataFrame, **types: pa.DataType) -> None:
    stamps = {"event_timestamp": pa.timestamp("us", "UTC"), "created_timestamp": pa.timestamp("us", "UTC")}
    frame = frame.assign(created_timestamp=frame.event_timestamp)
    columns = {column: pa.array(frame[column], (types | stamps).get(column), from_pandas=True) for column in frame}
    write_deltalake(str(tables / name), pa.table(columns))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Definitions that are applied, tables with rows, and an online store filled as of noon."""
    folder = tmp_path_factory.mktemp("parcels") / "feature_repo"
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(SETTINGS)
    tables, int64 = folder.parent / "data" / "features", pa.int64()
    loads = pd.DataFrame(DEPOTS, columns=["depot", "queue", "heat", "open", "event_timestamp"])
    write(tables, "depot_load", loads, queue=int64, open=pa.bool_())
    staff = pd.DataFrame(STAFF, columns=["depot", "clerks", "other"]).assign(event_timestamp=NOON - HOUR)
    write(tables, "depot_staff", staff)
    cabs = pd.DataFrame(TRUCKS, columns=["truck", "queue", "fuel", "body"]).assign(event_timestamp=NOON - HOUR)
    write(tables, "truck_load", cabs, queue=int64, fuel=pa.float32(), body=pa.string())
    parcels = pd.DataFrame(PARCELS, columns=["parcel", "from_depot", "to_depot", "truck", "weight"])
    leaves = pd.Timestamp(NOON + HOUR)
    write(
        tables,
        "parcels",
        parcels.assign(leaves_at=leaves, event_timestamp=NOON - 5 * HOUR),
        leaves_at=pa.timestamp("us", "UTC"),
    )
    write(tables, "parcel_outcome", parcels[["parcel"]].assign(late=[0, 1, 0, 1, 0], event_timestamp=NOON + 9 * HOUR))
    with approved():  # some of these services are there to be refused
        FeatureStore(repo_path=str(folder)).apply(definitions())
    materialize(folder, NOON - 99 * HOUR, NOON)
    return folder


@pytest.fixture(scope="module")
def store(repo: Path) -> FeatureStore:
    return FeatureStore(repo_path=str(repo))


def expected(service: str) -> list[dict[str, float]]:
    """The model inputs of each parcel, told from the literal rows by plain Python."""
    nan = float("nan")
    loads = {"North": (4, 10.1, 0), "South": (nan, 20.25, nan)}
    cabs = {key: (queue, fuel, body) for key, queue, fuel, body in TRUCKS}
    clerks = {key: number for key, number, _ in STAFF}
    rows = []
    for _, origin, dest, truck, weight in PARCELS:
        queue, heat, is_open = loads.get(origin, (nan, nan, nan))
        if service == "one_v1":
            rows.append({"queue": queue, "heat": heat, "open": is_open, "from_depot": origin})
            continue
        load, fuel, body = cabs.get(truck, (None, None, None))
        rows.append({
            "origin_load__queue": queue, "origin_load__heat": heat, "open": is_open,
            "dest_load__queue": loads[dest][0], "dest_load__heat": loads[dest][1],
            "clerks": clerks[dest], "truck_load__queue": nan if load is None else load,
            "fuel": nan if fuel is None else fuel,
            "per_kilo": nan if load is None else load / weight + len(body or ""),
            "range_left": nan if fuel is None else fuel * 2.5 - weight + (-1 if load is None else load),
            "is_van": float(body == "van"),
        })  # fmt: skip
    return rows


def requests(interface: FeatureInterface) -> list[dict[str, Any]]:
    known = [dict(zip(("parcel", "from_depot", "to_depot", "truck", "weight"), row, strict=True)) for row in PARCELS]
    return [{field.name: row[field.name] for field in interface.request_fields} for row in known]


def served(repo: Path, interface: FeatureInterface) -> pd.DataFrame:
    """What the service reads for each parcel at noon, one request each, and all at once: the same."""
    reader, asked = FeatureReader(open_store(repo), interface), requests(interface)
    together = reader.read(asked, [NOON] * len(asked))
    alone = [reader.read([one], [NOON])[0] for one in asked]
    rows = [row.values for row in together if isinstance(row, FeatureRow)]
    frames = [interface.model_inputs(pd.DataFrame(values)) for values in (rows, [one.values for one in alone])]  # type: ignore[union-attr]
    pd.testing.assert_frame_equal(*frames)
    return frames[0]


class Recorder:
    """A model that remembers the inputs it is asked for."""

    inputs: pd.DataFrame

    def predict_frame(self, inputs: pd.DataFrame) -> np.ndarray:
        self.inputs = inputs.reset_index(drop=True)
        return np.zeros(len(inputs))


def contract_of(interface: FeatureInterface) -> FeatureContract:
    training_set = TrainingSet(as_of=NOON, start=NOON, end=NOON, rows=1, sha256="0", delta_versions={})
    return FeatureContract(interface=interface, known_values={}, training_set=training_set, example_request={})


def scored(store: FeatureStore, interface: FeatureInterface, log: Path) -> pd.DataFrame:
    """The inputs that a batch run predicts from; and what it logs of them is the same."""
    model, engine = Recorder(), open_log(f"sqlite:///{log}")
    create(engine)
    scorer = BatchScorer("late", "1", contract_of(interface), model, store, engine)  # type: ignore[arg-type]
    totals = scorer.run(NOON, NOON + HOUR, "r", NOON)
    assert totals.written == len(PARCELS)
    with engine.connect() as connection:
        assert len(connection.execute(select(PREDICTIONS.c.features)).all()) == len(PARCELS)
    return model.inputs


@pytest.mark.parametrize("service", ["one_v1", "both_v1"])
def test_a_mapped_view_means_the_same_to_training_serving_batch_and_the_monitor(repo, store, tmp_path, service):
    """Cell for cell: unknown and stale keys, nulls, two roles of a view, names that views share, code that reads."""
    assert problems(store, service) == []
    interface = read_interface(store, service)
    pin_versions(store, interface)
    trained = labelled_rows(store, interface, NOON - HOUR, NOON + 10 * HOUR)
    wanted = interface.model_inputs(pd.DataFrame(expected(service)))
    assert trained.frame.parcel.tolist() == [row[0] for row in PARCELS]
    pd.testing.assert_frame_equal(trained.inputs, wanted, check_exact=True)
    pd.testing.assert_frame_equal(served(repo, interface), wanted, check_exact=True)
    pd.testing.assert_frame_equal(scored(store, interface, tmp_path / "log.db"), wanted, check_exact=True)
    asked = pd.DataFrame(requests(interface)).assign(**{PREDICTION_TIME: pd.Timestamp(NOON).as_unit("us")})
    pd.testing.assert_frame_equal(replay(store, interface, asked), wanted, check_exact=True)


def test_keys_and_request_fields_of_a_mapped_view_are_those_in_its_place(store):
    """Twice the same view is two views; a key that only the service has is described by the one it stands for."""
    interface = read_interface(store, "both_v1")
    assert {key.name: key.request_field for key in interface.join_keys} == {
        "from_depot": "from_depot", "to_depot": "to_depot", "truck": "truck",
    }  # fmt: skip
    assert [field.name for field in interface.request_fields] == ["from_depot", "to_depot", "truck", "weight"]
    assert [(one.name, one.source, one.key_of) for one in interface.stored_views][:2] == [
        ("origin_load", "depot_load", {"depot": "from_depot"}), ("dest_load", "depot_load", {"depot": "to_depot"}),
    ]  # fmt: skip
    said = meanings(store, interface)
    assert {"from_depot", "to_depot"} < request_names(store)
    assert said["origin_load__queue"] == said["dest_load__queue"] == {"description": "Waiting parcels."}


def test_a_row_of_a_mapped_view_is_looked_up_by_the_key_in_its_place(repo, store):
    """As the service's page of features does."""
    interface = read_interface(store, "both_v1")
    reader = FeatureReader(open_store(repo), interface)
    origin, dest = interface.stored_views[:2]
    assert reader.look_up(origin, {"from_depot": "North"}) == (
        NOON - HOUR, {"origin_load__queue": 4, "origin_load__heat": 10.1, "open": False},
    )  # fmt: skip
    assert reader.look_up(dest, {"to_depot": "Nowhere"}) is None


def test_a_contract_holds_other_keys_and_names_and_is_as_it_was_without_any(repo, store):
    """It comes back from its JSON; a service whose map changed is another; plain views are written as before."""
    interface = read_interface(store, "both_v1")
    contract = contract_of(interface)
    assert FeatureContract.model_validate_json(contract.canonical()) == contract
    contract.verify(store)
    changed = store.get_feature_service("both_v1")
    changed.feature_view_projections[1].join_key_map = {"depot": "from_depot"}

    class Changed:
        def __getattr__(self, name: str) -> Any:
            return (lambda _: changed) if name == "get_feature_service" else getattr(store, name)

    lines = differences(interface, read_interface(Changed(), "both_v1"))  # type: ignore[arg-type]
    assert "stored_views.dest_load.join_keys: recorded ['to_depot'], now ['from_depot']" in lines
    written = interface.model_dump(mode="json")
    plain = next(one for one in written["stored_views"] if one["name"] == "truck_load")
    assert sorted(plain) == ["features", "join_keys", "missing", "name", "stored_names", "ttl_seconds"]
    one = read_interface(store, "one_v1").model_dump(mode="json")["stored_views"][0]
    assert sorted(one) == ["features", "join_keys", "missing", "name", "stored_keys", "ttl_seconds"]


def test_a_name_that_tells_nothing_apart_is_no_part_of_a_contract(store):
    """A version that was registered before names were recorded keeps the hash of its contract."""
    kept, named = (read_interface(store, name) for name in ("kept_v1", "named_v1"))
    assert named.model_copy(update={"feature_service": "kept_v1"}) == kept
    assert [view.name for view in kept.stored_views] == ["depot_load", "truck_load"]
