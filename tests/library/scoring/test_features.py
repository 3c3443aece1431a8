"""Features are read from a real Feast store on SQLite, of a problem that nothing else in this repository knows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64, UnixTimestamp

from fti.contract.feature_contract import differences
from fti.contract.feature_service import read_interface
from fti.contract.interface import ContractBroken, FeatureInterface
from fti.scoring.features import (
    AsOfTooEarly,
    FeatureReader,
    FeatureRow,
    FeaturesMissing,
    NotComputable,
    Present,
    StoreUnavailable,
    open_store,
    request_names,
)
from fti.scoring.served_model import ServedModel
from tests.conftest import emptied

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def view(name: str, entities: list[Entity], ttl: timedelta, schema: list[Field], **tags: str) -> FeatureView:
    source = FileSource(name=f"{name}_source", path=f"{name}.parquet", timestamp_field="event_timestamp")
    return FeatureView(name=name, entities=entities, ttl=ttl, schema=schema, source=source, tags=tags)


def definitions() -> list[Any]:
    pump = Entity(name="pump", join_keys=["pump"], value_type=ValueType.STRING)
    site = Entity(name="site", join_keys=["site"], value_type=ValueType.STRING, tags={"optional": "true"})
    hour = Entity(
        name="hour",
        join_keys=["hour"],
        value_type=ValueType.INT64,
        tags={"from_request": "opened_at", "floor_seconds": "3600"},
    )
    turns, heat = Field(name="turns", dtype=Int64), Field(name="heat", dtype=Float64)
    wear = view("wear", [pump], timedelta(hours=1), [turns, heat])
    place = view("place", [site], timedelta(0), [Field(name="depth", dtype=Float64)], missing="nobody knows this site")
    shift = view("shift", [hour], timedelta(0), [Field(name="crew", dtype=Int64)])
    runs = view("runs", [pump], timedelta(0), [Field(name="load", dtype=Int64)])
    runs.tags = {"prediction_anchor": "opened_at", "prediction_lead_minutes": "0"}
    failed = Field(name="failed", dtype=Int64)
    failures = view("failures", [pump], timedelta(0), [failed], label="failed", definition="x")
    opening = RequestSource(name="opening", schema=[Field(name="opened_at", dtype=UnixTimestamp, description="Start.")])

    @on_demand_feature_view(
        sources=[place[["depth"]], wear[["heat"]], opening],
        schema=[Field(name="heat_by_noon", dtype=Float64)],
        mode="python",
    )
    def heat_at(inputs):
        return {
            "heat_by_noon": [
                None if heat is None else heat + (moment.hour - 12)
                for heat, moment in zip(inputs["heat"], inputs["opened_at"], strict=True)
            ]
        }

    service = FeatureService(
        name="pump_v1",
        features=[wear[["turns"]], place, shift, heat_at],
        tags={"spine": "runs", "label": "failures", "key_features": "pump"},
    )
    return [pump, site, hour, wear, place, shift, runs, failures, heat_at, service]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a row or two a view; its offline store is one that cannot be imported."""
    folder = tmp_path_factory.mktemp("pumps")
    settings = "project: pumps\nprovider: local\nregistry: registry.db\nonline_store: {type: sqlite, path: online.db}\n"
    (folder / "feature_store.yaml").write_text(settings + "entity_key_serialization_version: 3\n")
    store = FeatureStore(repo_path=str(folder))
    store.apply(definitions())
    rows = {
        "wear": [{"pump": "P1", "turns": 7, "heat": 40.5}],
        "place": [{"site": "S1", "depth": 8.5}, {"site": "S3", "depth": None}],
        "shift": [{"hour": int(NOON.timestamp()) // 3600, "crew": 3}],
    }
    for name, found in rows.items():
        store.write_to_online_store(name, pd.DataFrame(found).assign(event_timestamp=NOON))
    (folder / "feature_store.yaml").write_text(settings + "offline_store: {type: no.such.module.OfflineStore}\n")
    return folder


@pytest.fixture
def reader(repo: Path) -> FeatureReader:
    store = open_store(repo)
    return FeatureReader(store, read_interface(store, "pump_v1"))


def request(**change: Any) -> dict[str, Any]:
    return {"pump": "P1", "site": "S1", "opened_at": NOON + timedelta(minutes=59)} | change


def read(reader: FeatureReader, asked: dict[str, Any], as_of: datetime) -> FeatureRow:
    """One row, which raises why it has none."""
    (row,) = reader.read([asked], [as_of])
    if isinstance(row, AsOfTooEarly):
        raise row
    return row


def test_many_rows_are_each_what_they_are_alone(reader):
    """Different keys, keys left out, moments of their own, one asked for too early: in their order, none of another."""
    asked = [request(), request(site=None), request(pump="P9"), request(), request(pump=None, site="S3"), request()]
    moments = [NOON + timedelta(minutes=number) for number in range(6)]
    moments[3] = NOON - timedelta(minutes=1)
    rows = reader.read(asked, moments)
    assert isinstance(rows[3], AsOfTooEarly)
    for number in (0, 1, 2, 4, 5):
        assert rows[number] == read(reader, asked[number], moments[number])
    assert [rows[number].values["pump"] for number in (0, 1, 2, 4)] == ["P1", "P1", "P9", None]
    assert (rows[1].missing, rows[2].missing) == (["place"], ["wear"])
    assert reader.read([], []) == []


def test_a_row_that_on_demand_code_cannot_compute_fails_alone(reader, monkeypatch, caplog):
    """A division by zero in one of three rows: the two beside it have the values that they have alone."""
    code = reader._on_demand[0].feature_transformation
    ratio = lambda inputs: {"heat_by_noon": [1 / (moment.minute - 5) for moment in inputs["opened_at"]]}  # noqa: E731
    monkeypatch.setattr(code, "udf", ratio)
    asked = [request(opened_at=NOON + timedelta(minutes=minute)) for minute in (4, 5, 7)]
    first, failed, last = reader.read(asked, [NOON + timedelta(minutes=30)] * 3)
    assert isinstance(failed, NotComputable)
    assert str(failed).startswith("heat_at: its code fails for this request (ZeroDivisionError)")
    assert (first.values["heat_by_noon"], last.values["heat_by_noon"]) == (-1, 0.5)
    assert first == read(reader, asked[0], NOON + timedelta(minutes=30))
    assert [record.message for record in caplog.records] == ["on-demand view heat_at fails for a request"]
    (alone,) = reader.read([asked[1]], [NOON])
    assert isinstance(alone, NotComputable)


def test_the_order_of_a_map_in_the_registry_is_no_part_of_an_interface(repo, monkeypatch):
    """Protobuf hands an on-demand view's sources out in another order in every process."""
    from feast.on_demand_feature_view import OnDemandFeatureView

    store = open_store(repo)
    usual = read_interface(store, "pump_v1")
    order = list(store.get_on_demand_feature_view("heat_at").source_feature_view_projections)
    real = OnDemandFeatureView.from_proto.__func__

    def turned(cls, *arguments, **named):
        view = real(cls, *arguments, **named)
        for name in ("source_feature_view_projections", "source_request_sources"):
            setattr(view, name, dict(reversed(getattr(view, name).items())))
        return view

    monkeypatch.setattr(OnDemandFeatureView, "from_proto", classmethod(turned))
    assert read_interface(open_store(repo), "pump_v1") == usual
    view = open_store(repo).get_on_demand_feature_view("heat_at")
    assert list(view.source_feature_view_projections) != order


def test_a_row_holds_stored_on_demand_and_key_features(reader):
    """Stored values, what the registry's code computes from them and the request, and keys used as categories."""
    row = read(reader, request(), NOON + timedelta(minutes=30))
    assert row.values == {"turns": 7, "heat": 40.5, "depth": 8.5, "crew": 3, "heat_by_noon": 40.5, "pump": "P1"}
    assert row.ages == dict.fromkeys(("wear", "place", "shift"), timedelta(minutes=30))
    assert row.warnings == []


def test_a_row_is_used_up_to_its_ttl_and_not_a_microsecond_longer(reader):
    """The ttl is inclusive, as in the point-in-time join; a ttl of 0 never ends, and code sees the nulls."""
    assert read(reader, request(), NOON + timedelta(hours=1)).values["turns"] == 7
    row = read(reader, request(), NOON + timedelta(hours=1) + MICROSECOND)
    assert (row.values["turns"], row.values["heat_by_noon"], row.values["crew"]) == (None, None, 3)
    assert row.warnings == ["wear: 1 h 1 min old, good for 1 h; not used"]
    assert set(row.ages) == {"place", "shift"}


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"pump": "P2"}, "wear: no row in wear"),
        ({"site": "S2"}, "place: nobody knows this site"),
        ({"site": None}, "place: no site given"),
        ({"opened_at": NOON + timedelta(hours=1)}, "shift: no row in shift"),
    ],
)
def test_what_is_missing_is_null_with_a_warning(reader, change, warning):
    """An unknown key, a key that was not given, a slot without a row: in the words of the view's definition."""
    row = read(reader, request(**change), NOON)
    assert row.warnings == [warning]
    assert warning.split(":")[0] not in row.ages


def test_a_null_in_a_row_is_no_missing_row(reader):
    """What was stored as null comes back as null, with its age and without a warning."""
    row = read(reader, request(site="S3"), NOON)
    assert pd.isna(row.values["depth"])
    assert row.ages["place"] == timedelta(0)
    assert row.warnings == []


def test_nothing_but_categories_needs_no_store(repo, reader):
    """A request whose keys are all absent is answered with nulls, by a store that others have rows in."""
    read(reader, request(), NOON)
    row = read(reader, request(pump=None, site=None, opened_at=NOON - timedelta(days=900)), NOON)
    assert set(row.values.values()) == {None}
    assert len(row.warnings) == 3


def test_a_moment_before_the_rows_is_refused(reader):
    """The online store keeps the newest row only: what was known before it is gone. From when on is said, and true."""
    with pytest.raises(AsOfTooEarly, match=r"T11:59:59Z is before 2024-05-01T12:00:00Z.*newest wear row") as refused:
        read(reader, request(), NOON - timedelta(seconds=1))
    assert list(refused.value.problems) == ["as_of"]
    assert read(reader, request(), refused.value.earliest).ages["wear"] == refused.value.earliest - NOON


def test_a_row_stamped_ahead_of_the_servers_clock_is_used_within_the_tolerance(repo):
    """Of a request that gives no moment: a few seconds are another machine's clock, more are left out."""
    store = open_store(repo)
    interface = read_interface(store, "pump_v1")
    clock = datetime.now(UTC).replace(microsecond=0)  # Feast's own SQLite store keeps whole seconds
    store.write_to_online_store("wear", pd.DataFrame([{"pump": "P7", "turns": 1, "heat": 2.5}]).assign(
        event_timestamp=clock + timedelta(hours=1)
    ))  # fmt: skip
    asked = request(pump="P7")
    near = read(FeatureReader(store, interface, timedelta(hours=2)), asked, Present.of(clock))
    assert near.values["turns"] == 1
    assert (near.ages["wear"], near.as_of) == (timedelta(0), clock + timedelta(hours=1))
    assert timedelta(minutes=30) < near.ahead["wear"] <= timedelta(hours=1)
    far = read(FeatureReader(store, interface), asked, Present.of(clock))
    assert far.values["turns"] is None
    assert far.missing == ["wear"]
    assert any("ahead of this server's clock; not used" in warning for warning in far.warnings)
    with pytest.raises(AsOfTooEarly):  # who names a moment asks for what was known then
        read(FeatureReader(store, interface, timedelta(hours=2)), asked, clock)


def test_a_row_that_was_written_while_the_request_waited_is_used(repo, reader):
    """It is not ahead of any clock, and nothing is counted."""
    row = read(reader, request(), Present.of(NOON - timedelta(seconds=1)))
    assert (row.values["turns"], row.ages["wear"], row.ahead, row.as_of) == (7, timedelta(0), {}, NOON)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("value", b"\xff\xfe\x00junk"),
        ("value", Value(string_val="warm").SerializeToString()),
        ("value", Value(bytes_val=b"warm").SerializeToString()),
    ],
)
def test_a_damaged_value_is_an_unavailable_store(repo, reader, column, value):
    """Bits that flipped, or a value of another kind: never an error of the service itself, nor a guess."""
    file = repo / "online.db"
    good = file.read_bytes()
    with closing(sqlite3.connect(file)) as con, con:
        changed = con.execute(f"UPDATE pumps_wear SET {column} = ? WHERE feature_name = 'turns'", (value,)).rowcount
    assert changed
    try:
        with pytest.raises(StoreUnavailable, match="cannot be read"):
            read(reader, request(), NOON)
        assert reader.failed
    finally:
        file.write_bytes(good)
    read(reader, request(), NOON)


def test_requests_may_carry_what_any_model_of_the_store_takes(repo):
    """Join keys and the fields of request sources, whatever one service makes of them."""
    assert request_names(open_store(repo)) == {"pump", "site", "hour", "opened_at"}


def settle(repo: Path, view: str, policy: str, **defaults: float | str) -> FeatureReader:
    """A reader of the pump store in which a view has another policy."""
    store = open_store(repo)
    changed = store.get_feature_view(view)
    changed.tags = {**changed.tags, "when_missing": policy}
    for field in changed.features:
        field.tags = {"default": str(defaults[field.name])} if field.name in defaults else {}
    return FeatureReader(store, read_interface(Changed(store, changed), "pump_v1"))


class Changed:
    """A feature store whose registry has one view or service otherwise."""

    def __init__(
        self, store: FeatureStore, view: FeatureView | None = None, service: FeatureService | None = None
    ) -> None:
        self._store, self._view, self._service = store, view, service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_feature_view(self, name: str) -> FeatureView:
        return self._view if self._view and name == self._view.name else self._store.get_feature_view(name)

    def get_feature_service(self, name: str) -> FeatureService:
        return self._service or self._store.get_feature_service(name)


def test_a_view_may_give_defaults_for_what_is_null(repo):
    """Of a key without a row, of a row too old and of a null that was stored; on-demand code sees what is stored."""
    reader = settle(repo, "wear", "default", turns=-1)
    row = read(reader, request(pump="P9"), NOON)
    assert (row.values["turns"], row.values["heat_by_noon"]) == (-1, None)
    assert row.missing == ["wear"]
    assert read(reader, request(), NOON).values["turns"] == 7
    assert read(reader, request(), NOON + timedelta(days=1)).values["turns"] == -1
    stored_null = read(settle(repo, "place", "default", depth=2.5), request(site="S3"), NOON)
    assert (stored_null.values["depth"], stored_null.missing) == (2.5, [])


def test_a_view_may_refuse_to_be_missing(repo):
    """The request is refused in words that say why; others beside it are answered."""
    reader = settle(repo, "place", "reject")
    asked = [request(site="S2"), request(), request(site=None), request(site="S3")]
    refused, answered, no_key, all_null = reader.read(asked, [NOON] * 4)
    assert str(refused) == "place: nobody knows this site. The model does not answer without place."
    assert isinstance(answered, FeatureRow)
    assert "no site given" in str(no_key)
    assert "place: all null" in str(all_null)
    assert all(isinstance(one, FeaturesMissing) for one in (refused, no_key, all_null))
    # It is known of each what it misses, for who counts that.
    assert [one.row.missing for one in (refused, no_key, all_null)] == [["place"]] * 3


@pytest.mark.parametrize(("view", "policy", "defaults"), [
    ("wear", "default", {"turns": -1}), ("place", "default", {"depth": 2.5}), ("place", "reject", {}),
])  # fmt: skip
def test_training_settles_what_is_missing_as_serving_does(repo, view, policy, defaults):
    """The rows that are left, and their values, are those that serving answers for."""
    reader = settle(repo, view, policy, **defaults)
    asked = [request(pump=pump, site=site) for pump in ("P1", "P9") for site in ("S1", "S2", "S3", None)]
    joined = pd.DataFrame([read(settle(repo, view, "null"), one, NOON).values for one in asked])
    served = [row.values for row in reader.read(asked, [NOON] * len(asked)) if isinstance(row, FeatureRow)]
    trained = reader._interface.settled(joined)
    assert 0 < len(trained) <= len(asked)
    pd.testing.assert_frame_equal(trained, pd.DataFrame(served), check_dtype=False)


@pytest.mark.parametrize(("view", "policy", "said"), [
    ("wear", "whatever", "when_missing='whatever'; expected null, default or reject"),
    ("wear", "default", "its field 'turns' needs a tag `default` of type int64; found None"),
])  # fmt: skip
def test_a_policy_that_makes_no_sense_is_refused_with_the_way_out(repo, view, policy, said):
    """When the definitions are read: at `apply`, and in training."""
    with pytest.raises(ContractBroken, match=said):
        settle(repo, view, policy)


@pytest.mark.parametrize("default", [float("inf"), float("nan")])
def test_a_default_is_a_finite_number(repo, default):
    """What is infinite is unknown, and so is NaN: neither takes the place of a null."""
    with pytest.raises(ContractBroken, match=f"type double; found '{default}'"):
        settle(repo, "place", "default", depth=default)


def test_a_policy_is_part_of_the_contract_and_none_leaves_it_as_it_was(repo):
    """A version that was registered before there were policies keeps the hash of its contract."""
    usual = settle(repo, "place", "null")._interface.model_dump(mode="json")
    assert not [view for view in usual["stored_views"] if "when_missing" in view]
    strict = settle(repo, "place", "reject")._interface
    assert differences(FeatureInterface.model_validate(usual), strict) == [
        "stored_views.place.when_missing: recorded None, now 'reject'"
    ]


def test_key_features_are_join_keys_and_spaces_do_not_matter(repo):
    """A word that is no key of the service would be a category less, without a word."""
    store = open_store(repo)
    service = store.get_feature_service("pump_v1")
    both = {}
    for written in ("pump,site", " pump, site "):
        service.tags = {**service.tags, "key_features": written}
        both[written] = read_interface(Changed(store, service=service), "pump_v1")
    assert both["pump,site"] == both[" pump, site "]
    assert both["pump,site"].categories == ["pump", "site"]
    service.tags = {**service.tags, "key_features": "pmup,site"}
    with pytest.raises(ContractBroken, match=r"'pmup'\] are no join keys of its feature views, which are \['pump'"):
        read_interface(Changed(store, service=service), "pump_v1")


def predicting(repo: Path, **tags: str) -> FeatureInterface:
    """The interface of the pump store whose label has these tags, and a unit."""
    store = open_store(repo)
    label = store.get_feature_view(store.get_feature_service("pump_v1").tags["label"])
    label.tags = {**label.tags, **tags}
    for field in label.features:
        field.tags = {"unit": "bar"}
    return read_interface(Changed(store, label), "pump_v1")


def test_a_label_says_what_it_asks_of_a_model_and_contracts_from_before_stay_as_they_are(repo):
    """Without the tag `task` it is 0 or 1, and neither that nor a unit is written; a number is another contract."""
    usual, number = predicting(repo), predicting(repo, task="regression")
    assert (usual.task, usual.unit) == ("classification", None)
    assert not {"task", "unit"} & set(usual.model_dump(mode="json"))
    assert predicting(repo, task="classification").model_dump_json() == usual.model_dump_json()
    assert (number.task, number.unit) == ("regression", "bar")
    assert FeatureInterface.model_validate_json(number.model_dump_json()) == number
    assert differences(usual, number) == ["task: recorded None, now 'regression'", "unit: recorded None, now 'bar'"]
    with pytest.raises(ContractBroken, match="task='ranking'; expected one of classification, regression"):
        predicting(repo, task="ranking")


def test_a_row_is_looked_up_however_old(repo, reader):
    """As it is stored, for people; nothing for a key that was never written."""
    view = next(view for view in reader._interface.stored_views if view.name == "wear")
    assert reader.look_up(view, {"pump": "P1"}) == (NOON, {"turns": 7, "heat": 40.5})
    assert reader.look_up(view, {"pump": "P9"}) is None


def test_an_infinite_value_is_shown_as_it_is_stored(repo, reader):
    """As text, for JSON has no such number, and with the warning that a prediction would have."""
    open_store(repo).write_to_online_store(
        "wear", pd.DataFrame([{"pump": "P8", "turns": 7, "heat": float("-inf")}]).assign(event_timestamp=NOON)
    )
    unused = dict.fromkeys(("name", "version", "contract", "model", "schema", "meanings", "loaded_at", "explainer"))
    served = ServedModel(reader=reader, **unused)
    view = next(view for view in reader._interface.stored_views if view.name == "wear")
    found = served.look_up(view, {"pump": "P8"}, NOON)
    assert found["features"] == {"turns": 7, "heat": "-Infinity"}
    assert found["warnings"] == ["heat: infinite; not used"]
    assert "warnings" not in served.look_up(view, {"pump": "P1"}, NOON)


def test_a_row_of_1970_is_a_row(repo, reader):
    """A store says of a key without a row that its row is of then; this one has values."""
    then = datetime(1970, 1, 1, tzinfo=UTC)
    row = pd.DataFrame([{"site": "S0", "depth": 2.5}]).assign(event_timestamp=then)
    open_store(repo).write_to_online_store("place", row)
    found = read(reader, request(site="S0"), NOON)
    assert (found.values["depth"], found.missing) == (2.5, [])
    assert found.ages["place"] == NOON - then


@pytest.mark.parametrize("broken", ["no folder", "no settings", "not yaml", "no registry", "junk in it"])
def test_a_store_that_cannot_be_opened_says_how_to_mend_it(tmp_path, broken):
    """One error for all of it, in words without a path; the cause goes along for the log."""
    settings = tmp_path / "feature_store.yaml"
    path = "no/such/registry.db" if broken == "no registry" else "registry.db"
    settings.write_text(f"project: pumps\nprovider: local\nregistry: {path}\nentity_key_serialization_version: 3\n")
    if broken == "not yaml":
        settings.write_text("project: [")
    elif broken == "no settings":
        settings.unlink()
    elif broken == "junk in it":
        (tmp_path / "registry.db").write_bytes(b"junk" * 100)
    with pytest.raises(StoreUnavailable, match="SERVING_FEAST_REPO") as error:
        open_store(tmp_path / "nowhere" if broken == "no folder" else tmp_path)
    assert str(tmp_path) not in str(error.value)
    assert error.value.__cause__ is not None


def test_a_broken_online_store_is_one_error_and_mends_with_the_file(repo, reader):
    """The reader says that it failed, so that the store is opened anew, until it can read again."""
    file = repo / "online.db"
    good = file.read_bytes()
    read(reader, request(), NOON)
    file.write_bytes(b"junk" * 10_000)
    try:
        with pytest.raises(StoreUnavailable, match="cannot be read") as error:
            read(reader, request(), NOON)
        assert reader.failed
        assert str(repo) not in str(error.value)
    finally:
        file.write_bytes(good)
    read(reader, request(), NOON)
    assert not reader.failed


def test_a_store_that_was_emptied_answers_nobody_until_it_is_filled(repo, reader):
    """An unknown pump has no row while others have; when nobody has, that is no answer to score."""
    unknown = {"pump": "P9", "site": "S9", "opened_at": NOON - timedelta(days=900)}
    with pytest.raises(StoreUnavailable, match="empty"):
        read(reader, unknown, NOON)  # nothing tells this apart from an empty store yet
    read(reader, request(), NOON)
    assert read(reader, unknown, NOON).missing == ["wear", "place", "shift"]
    with emptied(repo / "online.db"):
        for asked in (unknown, request()):
            with pytest.raises(StoreUnavailable, match=r"empty.*make materialize"):
                read(reader, asked, NOON)
            assert reader.failed
    assert read(reader, request(), NOON).missing == []
    assert not reader.failed
