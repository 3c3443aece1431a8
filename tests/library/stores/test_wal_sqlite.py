"""The WAL online store against Feast's own SQLite store, where that one is right, and by itself where it is not."""

from __future__ import annotations

import functools
import importlib
import itertools
import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

WAL = "fti.stores.wal_sqlite.WalSqliteOnlineStore"
NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
HOUR, MINUTE, MICROSECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(microseconds=1)
FEATURES = ("a", "b", "c")
FAST = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
FORK = multiprocessing.get_context("fork")


class Online:
    """An online store, its file, and short words for what Feast does with it."""

    def __init__(self, kind: str, path: Path, project: str = "shop", **options: Any) -> None:
        from feast import RepoConfig
        from feast.infra.online_stores.helpers import get_online_store_from_config

        self.path = path
        self.config = RepoConfig(
            project=project, provider="local", registry=str(path.with_suffix(".registry")),
            online_store={"type": kind, "path": str(path), **options}, offline_store={"type": "duckdb"},
            entity_key_serialization_version=3,
        )  # fmt: skip
        self.store = get_online_store_from_config(self.config.online_store)

    def apply(self, *keep: Any, delete: tuple = ()) -> None:
        self.store.update(self.config, delete, keep, [], [], partial=False)

    def write(self, view: Any, *rows: tuple[Any, dict[str, Any], datetime, datetime | None]) -> None:
        """Rows are (key, values, event timestamp, created timestamp), plain Python."""
        batch = [(key_of(key), {n: value_of(v) for n, v in values.items()}, *stamp) for key, values, *stamp in rows]
        self.store.online_write_batch(self.config, view, batch, None)

    def read(self, view: Any, *keys: Any, features: list[str] | None = None) -> list[tuple[datetime | None, Any]]:
        rows = self.store.online_read(self.config, view, [key_of(key) for key in keys], features)
        return [(moment, values and {n: plain(v) for n, v in values.items()}) for moment, values in rows]

    def dump(self) -> list[str]:
        with closing(sqlite3.connect(self.path)) as con:
            return list(con.iterdump())


def key_of(key: Any):
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    keys = key if isinstance(key, dict) else {"key": key}
    return EntityKey(join_keys=keys, entity_values=[value_of(value) for value in keys.values()])


def value_of(value: Any):
    from feast.protos.feast.types.Value_pb2 import Value

    names = {str: "string_val", int: "int64_val", float: "double_val", bytes: "bytes_val"}
    if value is None or not isinstance(value, tuple(names)):
        return Value() if value is None else value
    return Value(**{names[type(value)]: value})


def plain(value: Any) -> Any:
    kind = value.WhichOneof("val")
    return getattr(value, kind) if kind else None


def view_of(name: str = "prices", features: tuple[str, ...] = FEATURES, keys: tuple[str, ...] = ("key",)):
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Int64, String

    return FeatureView(
        name=name, ttl=timedelta(0), schema=[Field(name=key, dtype=String) for key in keys]
        + [Field(name=feature, dtype=Int64) for feature in features],
        entities=[Entity(name=f"{key}_entity", join_keys=[key], value_type=ValueType.STRING) for key in keys],
        source=FileSource(
            name=f"{name}_source", path="nowhere.parquet", timestamp_field="event_at",
            created_timestamp_column="made_at",
        ),
    )  # fmt: skip


@pytest.fixture
def prices():
    return view_of()


@pytest.fixture
def wal(tmp_path: Path, prices) -> Online:
    online = Online(WAL, tmp_path / "wal.db")
    online.apply(prices)
    return online


@pytest.fixture
def stock(tmp_path: Path, prices) -> Online:
    online = Online("sqlite", tmp_path / "stock.db")
    online.apply(prices)
    return online


# --- what is kept ---

VALUES = st.one_of(st.none(), st.integers(-3, 3), st.sampled_from([0.0, 1.5, float("inf"), "", "x", b"", b"\0x"]))
STAMPS = st.tuples(st.integers(0, 3), st.none() | st.integers(0, 2))
WRITES = st.tuples(
    st.sampled_from(["prices", "stocks"]), st.integers(0, 2),
    st.dictionaries(st.sampled_from(FEATURES), VALUES, min_size=0), STAMPS,
)  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Online, Online, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("both")
    views = {name: view_of(name) for name in ("prices", "stocks")}
    stores = Online(WAL, folder / "wal.db"), Online("sqlite", folder / "stock.db")
    for online in stores:
        online.apply(*views.values())
        if online is stores[1]:
            online.store._get_conn(online.config).execute("PRAGMA synchronous=OFF")
    return *stores, views


RUNS = itertools.count()


@FAST
@given(
    batches=st.lists(st.lists(WRITES, max_size=5), max_size=5), requested=st.none() | st.sets(st.sampled_from(FEATURES))
)
def test_writes_in_any_order_end_as_they_would_in_the_stock_store_if_written_in_order(both, batches, requested):
    """In order of (event, created) timestamp; where those are equal, as written. Nulls and missing ones included."""
    wal, stock, views = both
    run = next(RUNS)

    def row(write: Any) -> tuple:
        _, key, values, (event, created) = write
        return f"{run}-{key}", values, NOON + event * MINUTE, None if created is None else NOON + created * HOUR

    for batch in batches:
        for name, view in views.items():
            wal.write(view, *(row(write) for write in batch if write[0] == name))
    in_order = sorted(itertools.chain(*batches), key=lambda w: (w[3][0], -1 if w[3][1] is None else w[3][1]))
    for write in in_order:
        stock.write(views[write[0]], row(write))
    features = requested and sorted(requested)
    for name, view in views.items():
        keys = [f"{run}-{key}" for key in (2, 0, 1, 3)]
        for key, (moment, values), (stock_moment, expected) in zip(
            keys, wal.read(view, *keys, features=features), stock.read(view, *keys), strict=True
        ):
            assert values == (expected and {n: v for n, v in expected.items() if not features or n in features})
            events = {row(write)[2] for write in in_order if write[0] == name and row(write)[0] == key and write[2]}
            assert (moment is None) == (stock_moment is None)
            assert moment in (events or {None})
            if len(events) == 1:
                assert moment == stock_moment


def test_an_older_backfill_never_overwrites_a_newer_value(wal, stock, prices):
    """The stock store takes whatever comes last."""
    for online in (wal, stock):
        online.write(prices, ("k", {"a": 2, "b": 2, "c": 2}, NOON, NOON))
        online.write(prices, ("k", {"a": 1, "b": 1, "c": 1}, NOON - HOUR, NOON + HOUR))
    assert wal.read(prices, "k") == [(NOON, {"a": 2, "b": 2, "c": 2})]
    assert stock.read(prices, "k") == [(NOON - HOUR, {"a": 1, "b": 1, "c": 1})]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_of_equal_event_times_the_one_created_last_counts(wal, prices, order):
    """In whatever order they are written, in one batch or in three; no created timestamp is the earliest."""
    rows = [({"a": 0}, NOON, None), ({"a": 1}, NOON, NOON - HOUR), ({"a": 2}, NOON, NOON)]
    for position in order:
        wal.write(prices, ("apart", *rows[position]))
    wal.write(prices, *(("together", *rows[position]) for position in order))
    assert wal.read(prices, "apart", "together") == [(NOON, {"a": 2})] * 2


def test_a_rerun_changes_no_byte(wal, prices):
    """Neither the same batch again, nor an older one, nor batches with partial writes."""
    batches = [
        [("k", {"a": 1, "b": None, "c": 3}, NOON, NOON), ("l", {"a": 1}, NOON, None)],
        [("k", {"b": 2}, NOON + HOUR, NOON)],
    ]
    for batch in batches:
        wal.write(prices, *batch)
    files = wal.path, wal.path.with_name(f"{wal.path.name}-wal")
    once = [file.read_bytes() for file in files]
    for batch in (*batches, *batches[::-1]):
        wal.write(prices, *batch)
    assert [file.read_bytes() for file in files] == once


def test_a_partial_write_keeps_the_other_features(wal, prices):
    """Each feature is as old as its own write; the row's timestamp is that of the oldest value returned."""
    wal.write(prices, ("k", {"a": 1, "b": 1}, NOON, NOON))
    wal.write(prices, ("k", {"b": 2}, NOON + HOUR, NOON + HOUR))
    assert wal.read(prices, "k") == [(NOON, {"a": 1, "b": 2})]
    assert wal.read(prices, "k", features=["b"]) == [(NOON + HOUR, {"b": 2})]
    wal.write(prices, ("k", {"a": 3, "b": 3, "c": 3}, NOON + MINUTE, NOON))
    assert wal.read(prices, "k") == [(NOON + MINUTE, {"a": 3, "b": 2, "c": 3})]
    wal.write(prices, ("k", {"a": 4, "b": 4, "c": 4}, NOON + 2 * HOUR, NOON))
    assert wal.read(prices, "k") == [(NOON + 2 * HOUR, {"a": 4, "b": 4, "c": 4})]


def test_a_removed_row_is_replaced_and_newer_values_stay(wal, prices):
    """Of one key the row is replaced, of another it goes, and of a third the values that came since are kept."""
    first, second = FEATURES[:2]
    noon, minute = datetime(2013, 7, 1, 12, tzinfo=UTC), timedelta(minutes=1)
    for key in ("moved", "gone", "partly"):
        wal.write(prices, (key, {first: 1, second: 1}, noon, noon))
    wal.write(prices, ("partly", {second: 5}, noon + minute, noon))
    removed = [(key_of(key), noon) for key in ("moved", "gone", "partly", "never")]
    earlier = [
        (key_of(key), {first: value_of(2), second: value_of(2)}, noon - minute, noon) for key in ("moved", "partly")
    ]
    assert wal.store.replace_removed(wal.config, prices, removed, earlier) == 3
    assert wal.read(prices, "moved", "gone", "never") == [
        (noon - minute, {first: 2, second: 2}), (None, None), (None, None)
    ]  # fmt: skip
    assert wal.read(prices, "partly", features=[first]) == [(noon - minute, {first: 2})]
    assert wal.read(prices, "partly", features=[second]) == [(noon + minute, {second: 5})]


def test_only_requested_features_are_returned(wal, stock, prices):
    """None of them written yet: the row is there, as with the stock store, and has a timestamp."""
    for online in (wal, stock):
        online.write(prices, ("k", {"a": 1, "b": None}, NOON, NOON))
    assert wal.read(prices, "k", "missing", features=["b"]) == [(NOON, {"b": None}), (None, None)]
    assert wal.read(prices, "k", features=["c"]) == [(NOON, {})]
    assert wal.read(prices, "k") == wal.read(prices, "k", features=[]) == stock.read(prices, "k")


def test_timestamps_keep_their_microseconds_and_are_utc(wal, prices):
    """Naive ones are UTC, aware ones are converted, pandas' own are taken; the stock store keeps whole seconds."""
    east = timezone(timedelta(hours=9))
    moments = [
        NOON + MICROSECOND, (NOON + 2 * MICROSECOND).replace(tzinfo=None), (NOON + 3 * MICROSECOND).astimezone(east),
        pd.Timestamp(NOON + 4 * MICROSECOND), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ]  # fmt: skip
    wal.write(prices, *((str(number), {"a": 1}, moment, moment) for number, moment in enumerate(moments)))
    read = [moment for moment, _ in wal.read(prices, *map(str, range(len(moments))))]
    assert read == [*(NOON + number * MICROSECOND for number in (1, 2, 3, 4)), moments[4]]
    assert {moment.tzinfo for moment in read} == {UTC}


def every_value() -> list:
    """One of each kind of value that Feast knows, an empty one and a null."""
    from feast.protos.feast.types.Value_pb2 import Value

    values = [Value()]
    for field in Value.DESCRIPTOR.oneofs_by_name["val"].fields:
        value = Value()
        if field.message_type is None:
            text = {field.TYPE_STRING: "7", field.TYPE_BYTES: b"7"}
            setattr(value, field.name, text.get(field.type, 0))
        else:
            getattr(value, field.name).SetInParent()
            values.append(Value.FromString(value.SerializeToString()))
            element = field.message_type.fields_by_name.get("val")
            if element is not None and element.message_type is None:
                scalars = {element.TYPE_STRING: "é", element.TYPE_BYTES: b"\xff", element.TYPE_BOOL: True}
                getattr(value, field.name).val.extend([scalars.get(element.type, 7)] * 3)
        values.append(value)
    nested = {"val": {"k": Value(int64_val=2**63 - 1), "l": Value()}}
    return [*values, Value(map_val=nested), Value(list_val={"val": [Value(), Value(double_val=float("-inf"))]})]


def test_every_kind_of_value_is_read_as_it_was_written(wal, stock, prices):
    """Byte for byte, as in the stock store: scalars, lists, sets, maps, timestamps, empty ones and nulls."""
    values = every_value()
    assert len({value.WhichOneof("val") for value in values}) > 40
    row = key_of("k"), {f"f{number}": value for number, value in enumerate(values)}, NOON, NOON
    found = []
    for online in (wal, stock):
        online.store.online_write_batch(online.config, prices, [row], None)
        ((moment, read),) = online.store.online_read(online.config, prices, [row[0]])
        found.append((moment, {name: value.SerializeToString(deterministic=True) for name, value in read.items()}))
    assert found[0] == found[1]
    assert found[0][1] == {name: value.SerializeToString(deterministic=True) for name, value in row[1].items()}


def test_join_keys_of_several_columns_are_one_key_in_any_order(wal, prices):
    """Strings, integers, bytes; a key of none, as entity-less views have, is one too."""
    wal.write(
        prices,
        ({"x": "1", "y": 2}, {"a": 1}, NOON, None),
        ({"x": "12", "y": 2}, {"a": 2}, NOON, None),
        ({}, {"a": 3}, NOON, None),
    )
    found = wal.read(prices, {"y": 2, "x": "1"}, {"x": "12", "y": 2}, {}, {"x": "1"}, {"x": "1", "y": "2"})
    assert [values for _, values in found] == [{"a": 1}, {"a": 2}, {"a": 3}, None, None]


def test_progress_is_told_of_every_row(wal, prices):
    """Once they are committed."""
    told: list[tuple[int, int]] = []
    rows = [(key_of(str(number)), {"a": value_of(1)}, NOON, None) for number in range(7)]

    def progress(count: int) -> None:
        with closing(sqlite3.connect(wal.path)) as con:
            told.append((count, con.execute('SELECT count(*) FROM "shop.prices"').fetchone()[0]))

    wal.store.online_write_batch(wal.config, prices, rows, progress)
    assert told == [(7, 7)]


# --- through Feast ---


class Shop:
    """The same small Feast repository over both stores."""

    def __init__(self, folder: Path, kind: str) -> None:
        from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
        from feast.types import Array, Float64, Int64, String, UnixTimestamp

        self.online = Online(kind, folder / "online.db", "shop_1")
        self.store = FeatureStore(config=self.online.config)
        strings = {
            name: Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.STRING) for name in ("city", "item")
        }

        def view(name: str, entities: tuple[str, ...], **features: Any) -> FeatureView:
            schema = {f"{entity}_id": String for entity in entities} | features
            return FeatureView(
                name=name, entities=[strings[entity] for entity in entities], ttl=HOUR,
                schema=[Field(name=feature, dtype=dtype) for feature, dtype in schema.items()],
                source=FileSource(
                    name=f"{name}_source", path=str(folder / f"{name}.parquet"), timestamp_field="event_at",
                    created_timestamp_column="made_at",
                ),
            )  # fmt: skip

        self.weather = view("weather", ("city",), warm=Float64, seen=UnixTimestamp, hours=Array(Int64))
        self.price = view("price", ("item", "city"), cents=Int64, label=String)
        self.world = view("world", (), shops=Int64)
        from fti.stores.guarded import approved

        with approved():  # lists, which definitions may not have here, are to be compared with the stock store
            self.store.apply([*strings.values(), self.weather, self.price, self.world])

    def push(self, view: str, *rows: dict[str, Any]) -> None:
        frame = pd.DataFrame(rows)
        self.store.write_to_online_store(view, frame.assign(made_at=NOON, event_at=frame.get("event_at", NOON)))

    def ask(self, features: Any, rows: list[dict[str, Any]], **options: Any) -> Any:
        return self.store.get_online_features(features, rows, **options).proto


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> list[Shop]:
    made = [Shop(tmp_path_factory.mktemp(name), kind) for name, kind in (("wal", WAL), ("stock", "sqlite"))]
    for shop in made:
        shop.push(
            "weather",
            {"city_id": "Rom", "warm": 31.5, "seen": NOON, "hours": [1, 2]},
            {"city_id": "Ulm", "warm": None, "seen": None, "hours": None},
        )
        shop.push(
            "price",
            {"item_id": "ice", "city_id": "Rom", "cents": 200, "label": "due"},
            {"item_id": "ice", "city_id": "Ulm", "cents": None, "label": ""},
        )
        shop.push("world", {"shops": 7})
    return made


ROWS = [
    {"city_id": city, "item_id": item}
    for city, item in (("Ulm", "ice"), ("Rom", "ice"), ("Rom", "ice"), ("Bern", "tea"))
]
ALL = ["weather:warm", "price:label", "weather:hours", "world:shops", "price:cents", "weather:seen"]


@pytest.mark.parametrize("features", [ALL, ALL[:1], ["world:shops"], ["price:cents", "weather:warm"]])
@pytest.mark.parametrize("full", [True, False])
def test_feast_answers_as_over_the_stock_store(shops, features, full):
    """Values, statuses, event timestamps, names and their order; the ttl is left alone."""
    answers = [
        shop.ask(features, ROWS, full_feature_names=full, include_feature_view_version_metadata=True) for shop in shops
    ]
    assert answers[0] == answers[1]
    assert len(answers[0].results) > len(features)


@pytest.mark.parametrize(
    "rows", [[{"item_id": "ice"}], [{"city_id": None, "item_id": "ice"}]], ids=["left out", "null"]
)
def test_a_request_without_a_key_ends_as_over_the_stock_store(shops, rows):
    """To ask for a view without its key is an error over both; a null key of another view is one over neither.

    Without one part of a key, stock finds nothing and does not say so; here it is an error.
    """
    from fti.stores.online_request import RequestUnusable

    def end(shop: Shop, feature: str) -> Any:
        try:
            return shop.ask([feature], rows)
        except (KeyError, TypeError, ValueError) as error:
            return type(error)

    for feature in ("weather:warm", "world:shops", "price:cents"):
        ours, stock = (end(shop, feature) for shop in shops)
        if feature == "price:cents" and "city_id" not in rows[0]:
            assert (ours, isinstance(stock, type)) == (RequestUnusable, False)
            continue
        assert isinstance(ours, type) == isinstance(stock, type)
        assert isinstance(ours, type) or ours == stock


def test_a_view_under_two_names_is_read_by_two_keys(shops):
    """One table, twice in one statement."""
    from feast import FeatureService

    from fti.stores.guarded import approved

    answers = []
    for shop in shops:
        here, there = (
            shop.weather.with_name(name).with_join_key_map({"city_id": f"{name}_city"})
            for name in ("origin", "destination")
        )
        service = FeatureService(name="trip", features=[here, there[["warm"]], shop.world])
        with approved():  # it has no spine, which no read needs
            shop.store.apply([service])
        rows = [{"origin_city": "Rom", "destination_city": "Ulm"}, {"origin_city": "Ulm", "destination_city": "Rom"}]
        answers.append(shop.ask(service, rows, full_feature_names=True))
    assert answers[0] == answers[1]
    assert "destination__warm" in answers[0].metadata.feature_names.val


def test_a_request_is_one_statement(shops, monkeypatch):
    """Whatever the number of views: they come out of one snapshot."""
    statements = traced(monkeypatch)
    shop = shops[0]
    shop.store._get_provider()._online_store = None  # opens connections anew, so traced
    answer = shop.ask(ALL, ROWS)
    assert [text.split()[0] for text in statements] == ["BEGIN", "SELECT", "COMMIT"]
    assert answer == shops[1].ask(ALL, ROWS)


def traced(monkeypatch: pytest.MonkeyPatch, each: Callable[[str], Any] = lambda _: None) -> list[str]:
    """All SQL of connections opened from now on."""
    statements: list[str] = []
    connect = sqlite3.connect

    def connect_traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        con = connect(*args, **kwargs)
        con.set_trace_callback(lambda text: (statements.append(text), each(text))[0])
        return con

    monkeypatch.setattr(sqlite3, "connect", connect_traced)
    return statements


def test_materialize_then_backfill_keeps_the_newest_row(tmp_path):
    """The older interval, materialized last, adds the keys that only it has, and a rerun changes nothing."""
    shop = Shop(tmp_path, WAL)
    rows = [("Rom", 1.0, 0), ("Rom", 2.0, 5), ("Ulm", 3.0, 1), ("Bern", 4.0, 6)]
    frame = pd.DataFrame(
        {"city_id": city, "warm": warm, "seen": NOON, "hours": [1], "event_at": NOON + hour * HOUR, "made_at": NOON}
        for city, warm, hour in rows
    ).astype({"event_at": "datetime64[us, UTC]", "made_at": "datetime64[us, UTC]", "seen": "datetime64[us, UTC]"})
    frame.to_parquet(tmp_path / "weather.parquet")

    def materialize(start: int, end: int) -> list:
        shop.store.materialize(NOON + start * HOUR, NOON + end * HOUR, ["weather"])
        return shop.online.read(
            shop.weather, *({"city_id": city} for city in ("Rom", "Ulm", "Bern")), features=["warm"]
        )

    new = materialize(4, 7)
    assert [values for _, values in new] == [{"warm": 2.0}, None, {"warm": 4.0}]
    both = materialize(0, 3)
    assert both == [new[0], (NOON + HOUR, {"warm": 3.0}), new[2]]
    before = shop.online.dump()
    materialize(0, 3)
    assert shop.online.dump() == before


def test_feast_apply_and_teardown_work_from_a_repository(tmp_path, monkeypatch):
    """By the functions behind `feast apply` and `feast teardown`: a view is added, gains a feature, goes; all goes."""
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total, teardown

    repo = tmp_path / "repo"
    repo.mkdir()
    settings_file = repo / "feature_store.yaml"
    settings_file.write_text(
        "project: shop\nprovider: local\nregistry: ../registry.db\nentity_key_serialization_version: 3\n"
        f"online_store: {{type: {WAL}, path: ../deep/online.db}}\noffline_store: {{type: duckdb}}\n"
    )
    monkeypatch.chdir(repo)
    monkeypatch.syspath_prepend(repo)

    head = (
        "from datetime import timedelta\nfrom feast import FeatureView, Field, FileSource\n"
        "from feast.types import Int64\n"
        "source = FileSource(name='source', path='nowhere.parquet', timestamp_field='event_at')\n"
    )
    definition = (
        "{0} = FeatureView(name='{0}', entities=[], ttl=timedelta(0), source=source, "
        "schema=[Field(name=feature, dtype=Int64) for feature in '{1}'.split('+')])"
    )

    def apply(*views: str) -> set[str]:
        module = f"definitions_{next(RUNS)}"
        for old in repo.glob("*.py"):
            old.unlink()
        (repo / f"{module}.py").write_text(head + "\n".join(definition.format(*view.split(":")) for view in views))
        importlib.invalidate_caches()
        apply_total(load_repo_config(repo, settings_file), repo, skip_source_validation=True)
        return tables()

    def tables() -> set[str]:
        with closing(sqlite3.connect(tmp_path / "deep" / "online.db")) as con:
            assert con.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            return {name for (name,) in con.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}

    config = Online(WAL, tmp_path / "deep" / "online.db")
    assert apply("prices:a", "stocks:b") == {"shop.prices", "shop.stocks"}
    prices = view_of("prices", ("a", "c"), ())
    config.write(prices, ({}, {"a": 1}, NOON, None))
    assert apply("prices:a+c") == {"shop.prices"}
    assert config.read(prices, {}, features=["a", "c"]) == [(NOON, {"a": 1})]
    teardown(load_repo_config(repo, settings_file), repo)
    assert tables() == set()
    teardown(load_repo_config(repo, settings_file), repo)


# --- tables ---


def test_a_view_that_was_not_applied_is_an_error_that_says_what_to_do(wal, prices):
    """Reading or writing it; nothing is created by the way."""
    from fti.stores.wal_sqlite import ViewNotApplied

    other = view_of("others")
    with pytest.raises(ViewNotApplied, match=r"wal\.db: no such table: shop\.others\. Run `feast apply`"):
        wal.read(other, "k")
    with pytest.raises(ViewNotApplied, match=r"no such table: shop\.others"):
        wal.write(other, ("k", {"a": 1}, NOON, None))
    wal.write(prices, ("k", {"a": 1}, NOON, None))
    wal.apply(delete=(prices,))
    with pytest.raises(ViewNotApplied):
        wal.read(prices, "k")
    wal.apply(prices)
    assert wal.read(prices, "k") == [(None, None)]
    with pytest.raises(ViewNotApplied, match=r"nowhere.wal\.db: unable to open database file\. Run `feast apply`"):
        Online(WAL, wal.path.parent / "nowhere" / "wal.db").read(prices, "k")


def test_projects_share_a_file_and_each_tears_down_its_own(tmp_path, prices):
    """Whatever their names begin with, and whatever tables the stock store has left in the file."""
    stock, *others = (
        Online(kind, tmp_path / "one.db", p) for kind, p in (("sqlite", "shop"), (WAL, "shop"), (WAL, "shop_2"))
    )
    for online in (stock, *others):
        online.apply(prices)
        online.write(prices, ("k", {"a": 1}, NOON, None))
    others[0].store.teardown(others[0].config, [], [])
    assert [online.read(prices, "k") for online in (stock, others[1])] == [[(NOON, {"a": 1})]] * 2
    with closing(sqlite3.connect(tmp_path / "one.db")) as con:
        names = {name for (name,) in con.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert names == {"shop_prices", "shop_2.prices"}


def test_names_that_sql_reads_otherwise_are_names(wal):
    """Quotes, dots, spaces, keywords and capitals, of features; feature views may have some of them."""
    view = view_of('select "x"; --')
    wal.apply(view)
    values = {"A": 1, "a": 2, 'q"': 3, "entity_key": 4, "über.all": 5, "": 6}
    wal.write(view, ("k", values, NOON, None))
    assert wal.read(view, "k", features=list(values)) == [(NOON, values)]


def test_versions_of_a_view_have_tables_of_their_own(tmp_path, prices):
    """As in the stock store, when the registry says so."""
    online = Online(WAL, tmp_path / "versions.db")
    online.config.registry.enable_online_feature_view_versioning = True
    second = view_of()
    second.current_version_number = 2
    online.apply(prices, second)
    online.write(second, ("k", {"a": 2}, NOON, None))
    assert [online.read(view, "k")[0][1] for view in (prices, second)] == [None, {"a": 2}]
    online.store._check_versioned_read_support([(second, ["a"])])


def test_more_keys_than_a_statement_takes_variables(wal, prices, monkeypatch):
    """Still one snapshot, in the order asked for, twice where asked for twice. Debian's SQLite takes more: 250,000."""
    statements = traced(monkeypatch)
    wal = Online(WAL, wal.path)
    wal.store._connection(wal.config).setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
    wal.write(prices, *((str(number), {"a": number}, NOON, None) for number in range(0, 33_000, 1000)))
    keys = [key_of(str(number)) for number in (*range(33_000), 5000, 5001)]
    statements.clear()
    rows = wal.store.online_read(wal.config, prices, keys, ["a"])
    assert [text.split()[0] for text in statements] == ["BEGIN", "SELECT", "SELECT", "COMMIT"]
    found = {at: plain(values["a"]) for at, (_, values) in enumerate(rows) if values}
    assert len(rows) == 33_002
    assert found == {number: number for number in range(0, 33_000, 1000)} | {33_000: 5000}
    assert wal.read(prices) == []


def test_a_batch_that_fails_leaves_nothing(wal, prices):
    """Not even the rows before the one that failed, and the store works on."""
    wal.write(prices, ("k", {"a": 1}, NOON, None))
    with pytest.raises(AttributeError):
        wal.write(prices, ("k", {"a": 2}, NOON + HOUR, None), ("l", {"a": 2}, "yesterday", None))
    with pytest.raises((ValueError, TypeError, OverflowError)):
        wal.write(prices, ("k", {"a": 2}, NOON + HOUR, None), ("l", {"a": object()}, NOON, None))
    assert wal.read(prices, "k", "l") == [(NOON, {"a": 1}), (None, None)]
    wal.write(prices, ("l", {"a": 3}, NOON, None))
    assert wal.read(prices, "l") == [(NOON, {"a": 3})]


# --- at once ---

KEYS = [f"key-{number:03}" for number in range(60)]


def generation(number: int, padding: int = 0) -> list[tuple]:
    """A batch that says the same in every feature of every key."""
    pad = "x" * padding
    return [(key, {"a": number, "b": number, "c": f"{number}{pad}"}, NOON + number * MINUTE, None) for key in KEYS]


def numbers(rows: list) -> list[int]:
    """The generation of each row; fails on a row that is half of one and half of another."""
    found = []
    for moment, values in rows:
        if moment is None:
            found.append(-1)
            continue
        assert values["a"] == values["b"] == int(values["c"].rstrip("x"))
        assert moment == NOON + values["a"] * MINUTE
        found.append(values["a"])
    return found


def in_processes(*bodies: Callable[[], None]) -> list[multiprocessing.process.BaseProcess]:
    processes = [FORK.Process(target=body, daemon=True) for body in bodies]
    for process in processes:
        process.start()
    return processes


def test_two_writing_processes_and_a_reading_one(wal, prices):
    """No error, no half row, no row that gets older; and the newest generation wins whoever wrote it."""
    wal.write(prices, *generation(0))  # the parent's connection, which the children must leave alone

    def write(generations: list[int]) -> Callable[[], None]:
        return lambda: [wal.write(prices, *generation(number)) for number in generations] and None

    writers = in_processes(write([*range(1, 80, 2)]), write([*range(80, 0, -2)]))
    seen, reads = [0] * len(KEYS), 0
    while any(process.is_alive() for process in writers) or not reads:
        now = numbers(wal.read(prices, *KEYS))
        assert len(set(now)) == 1, "a batch is seen whole"
        assert all(new >= old for new, old in zip(now, seen, strict=True))
        seen, reads = now, reads + 1
    for process in writers:
        process.join()
        assert process.exitcode == 0
    assert numbers(wal.read(prices, *KEYS)) == [80] * len(KEYS)


def test_a_request_sees_all_its_views_as_of_one_moment(tmp_path):
    """While a process writes one view after the other, no request sees the second ahead of the first."""
    from feast.infra.key_encoding_utils import serialize_entity_key

    views = [view_of(name) for name in ("first", "second")]
    online = Online(WAL, tmp_path / "online.db")
    online.apply(*views)
    for view in views:
        online.write(view, *generation(0))

    def write() -> None:
        for number in range(1, 40):
            for view in views:
                online.write(view, *generation(number))

    (writer,) = in_processes(write)
    keys = [serialize_entity_key(key_of(key), entity_key_serialization_version=3) for key in KEYS]
    alive = True
    while alive:
        alive = writer.is_alive()
        first, second = (
            {plain(values["a"]) for _, values in rows}
            for rows in online.store._read(online.config, [(v, keys, None) for v in views])
        )
        assert len(first) == len(second) == 1
        assert max(first) - max(second) in (0, 1)
    assert writer.exitcode == 0


def test_threads_share_a_store(wal, prices):
    """Each has its own connection; eight read and write at once."""
    wal.write(prices, *generation(0))
    errors: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for number in range(worker, 40, 8):
                wal.write(prices, *generation(number))
                assert min(numbers(wal.read(prices, *KEYS))) >= number
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert numbers(wal.read(prices, *KEYS)) == [39] * len(KEYS)


def test_a_thread_keeps_its_connection_and_a_forked_process_opens_its_own(wal, prices, monkeypatch):
    """SQLite forbids to carry a connection across a fork."""
    wal.write(prices, ("k", {"a": 1}, NOON, None))
    statements = traced(monkeypatch)
    wal.read(prices, "k")
    assert statements == []

    def read() -> None:
        wal.read(prices, "k")
        assert statements

    (child,) = in_processes(read)
    child.join()
    assert child.exitcode == 0


def test_the_switch_to_wal_is_tried_again_while_others_hold_the_file(tmp_path, prices, monkeypatch):
    """And not for other errors."""

    failures = [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY, None, sqlite3.SQLITE_READONLY]

    class Contended(sqlite3.Connection):
        def execute(self, text: str, *args: Any) -> sqlite3.Cursor:
            if text == "PRAGMA journal_mode=WAL" and (code := failures.pop(0)):
                error = sqlite3.OperationalError("refused")
                error.sqlite_errorcode = code
                raise error
            return super().execute(text, *args)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Contended))
    online = Online(WAL, tmp_path / "online.db")
    online.apply(prices)
    assert online.read(prices, "k") == [(None, None)]
    with pytest.raises(sqlite3.OperationalError, match="refused"):
        online.apply(prices)
    assert failures == []


def test_processes_that_apply_at_once_find_one_store(tmp_path, prices):
    """SQLite's own timeout does not cover the change to WAL: the losers of that race were told `database is locked`."""
    together = FORK.Barrier(4)

    def apply() -> None:
        for number in range(8):
            online = Online(WAL, tmp_path / f"{number}.db")
            together.wait()
            online.apply(prices)
            online.write(prices, (str(os.getpid()), {"a": 1}, NOON, None))

    processes = in_processes(*[apply] * 4)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for number in range(8):
        read = Online(WAL, tmp_path / f"{number}.db").read(prices, *(str(process.pid) for process in processes))
        assert read == [(NOON, {"a": 1})] * 4


@pytest.mark.parametrize("die_at", ["INSERT 1", "INSERT 30", "INSERT 60", "COMMIT 1"])
def test_a_writer_killed_in_mid_batch_leaves_the_old_batch(wal, prices, die_at, monkeypatch):
    """kill -9 at a statement, with more data than SQLite keeps in memory: readable at once, and written again whole."""
    wal.write(prices, *generation(1))
    verb, count = die_at.split()

    def write() -> None:
        seen = itertools.count(1)
        with pytest.MonkeyPatch.context() as patch:

            def die(text: str) -> None:
                if text.startswith(verb) and next(seen) == int(count):
                    os.kill(os.getpid(), signal.SIGKILL)

            traced(patch, die)
            wal.write(prices, *generation(2, padding=100_000))

    (writer,) = in_processes(write)
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert numbers(wal.read(prices, *KEYS)) == [1] * len(KEYS)
    wal.write(prices, *generation(2))
    assert numbers(wal.read(prices, *KEYS)) == [2] * len(KEYS)
    with closing(sqlite3.connect(wal.path)) as con:
        assert con.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_writer_killed_anywhere_leaves_whole_batches(wal, prices):
    """kill -9 by another process, after some batch, wherever it then is."""
    wal.write(prices, *generation(0))
    for commits in (1, 2, 5):
        start = numbers(wal.read(prices, *KEYS))[0]
        told, tell = FORK.Pipe(duplex=False)

        def write(start: int = start, tell: Any = tell) -> None:
            for number in itertools.count(start + 1):
                wal.write(prices, *generation(number, padding=2000))
                tell.send(number)

        (writer,) = in_processes(write)
        for _ in range(commits):
            assert told.poll(60)
            last = told.recv()
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        (now,) = set(numbers(wal.read(prices, *KEYS)))
        assert now >= last


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test() -> Iterator[None]:
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
