"""The Redis online store on a real Valkey: what it keeps, against an oracle, and how it is read."""

from __future__ import annotations

import asyncio
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.library.stores.test_wal_sqlite import key_of, plain, value_of, view_of

RESTATING = "fti.stores.restating_redis.RestatingRedisOnlineStore"
NOON, MINUTE, MICROSECOND = datetime(2013, 7, 1, 12, tzinfo=UTC), timedelta(minutes=1), timedelta(microseconds=1)


class Online:
    """A project of its own in the server, and short words for what Feast does with it."""

    def __init__(self, address: str, project: str, kind: str = RESTATING) -> None:
        from feast import RepoConfig
        from feast.infra.online_stores.helpers import get_online_store_from_config

        self.config = RepoConfig(
            project=project, provider="local", registry="nowhere.db", offline_store={"type": "duckdb"},
            online_store={"type": kind, "connection_string": address}, entity_key_serialization_version=3,
        )  # fmt: skip
        self.store = get_online_store_from_config(self.config.online_store)

    def write(self, view: Any, *rows: tuple[Any, dict[str, Any], datetime, datetime | None]) -> None:
        batch = [(key_of(key), {n: value_of(v) for n, v in values.items()}, *stamp) for key, values, *stamp in rows]
        self.store.online_write_batch(self.config, view, batch, None)

    def read(self, view: Any, *keys: Any) -> list[tuple[datetime | None, Any]]:
        rows = self.store.online_read(self.config, view, [key_of(key) for key in keys])
        return [(moment, values and {n: plain(v) for n, v in values.items()}) for moment, values in rows]


@pytest.fixture
def online(valkey: str, request: pytest.FixtureRequest) -> Online:
    return Online(valkey, request.node.name.partition("[")[0])


@pytest.fixture
def prices():
    return view_of(features=("a",))


def values(online: Online, view: Any, key: str = "k") -> tuple[datetime | None, Any]:
    ((moment, found),) = online.read(view, key)
    return moment, found and found["a"]


def test_a_restated_row_replaces_what_was_learnt_before_it(online, prices):
    online.write(prices, ("k", {"a": 1}, NOON, NOON))
    online.write(prices, ("k", {"a": 2}, NOON, NOON + MINUTE))
    assert values(online, prices) == (NOON, 2)
    online.write(prices, ("k", {"a": 1}, NOON, NOON))
    assert values(online, prices) == (NOON, 2)


def test_the_stock_store_would_keep_what_was_restated(valkey, prices):
    """Why there is another one. Once this fails, the stock store may do."""
    stock = Online(valkey, "stock", "redis")
    stock.write(prices, ("k", {"a": 1}, NOON, NOON))
    stock.write(prices, ("k", {"a": 2}, NOON, NOON + MINUTE))
    assert values(stock, prices) == (NOON, 1)


def test_an_older_row_changes_nothing_and_moments_keep_their_microseconds(online, prices):
    online.write(prices, ("k", {"a": 2}, NOON + MICROSECOND, None))
    online.write(prices, ("k", {"a": 1}, NOON, NOON + MINUTE))
    assert values(online, prices) == (NOON + MICROSECOND, 2)
    before_1970 = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    online.write(
        prices, ("old", {"a": 1}, before_1970, before_1970), ("old", {"a": 2}, before_1970 + MICROSECOND, None)
    )
    assert values(online, prices, "old")[1] == 2


def test_views_of_one_key_do_not_touch_each_other(online, prices):
    stocks = view_of("stocks", ("a",))
    online.write(prices, ("k", {"a": 1}, NOON, NOON))
    online.write(stocks, ("k", {"a": 2}, NOON - MINUTE, NOON))
    assert values(online, prices) == (NOON, 1)
    assert values(online, stocks) == (NOON - MINUTE, 2)
    assert online.read(prices, "never")[0] == (None, None)


def test_what_stock_feast_wrote_before_is_replaced(valkey, prices):
    """The layout is the stock store's: a team changes the store's name, and materializes."""
    Online(valkey, "moved", "redis").write(prices, ("k", {"a": 1}, NOON, NOON))
    moved = Online(valkey, "moved")
    assert values(moved, prices) == (NOON, 1)
    moved.write(prices, ("k", {"a": 2}, NOON, NOON))
    assert values(moved, prices) == (NOON, 2)


@pytest.mark.parametrize("features", [1998, 4000, 9001])
def test_a_view_may_have_thousands_of_features(online, features: int):
    """More than Lua takes as arguments of one call; a row that is older still changes nothing."""
    key = f"k{features}"  # the project is the same
    names = tuple(f"f{number}" for number in range(features))
    wide = view_of("wide", names)
    row = {name: number for number, name in enumerate(names)}
    online.write(wide, (key, row, NOON, NOON))
    online.write(wide, (key, dict.fromkeys(names, -1), NOON - MINUTE, NOON))
    assert online.read(wide, key) == [(NOON, row)]
    online.write(wide, (key, dict.fromkeys(names, 7), NOON + MINUTE, NOON))
    assert online.read(wide, key) == [(NOON + MINUTE, dict.fromkeys(names, 7))]
    assert online.store.forget_before(online.config, {"wide": NOON + MINUTE + MICROSECOND}, [wide]) == 1
    assert online.read(wide, key) == [(None, None)]


def test_rows_from_before_a_moment_go_and_no_others(online, valkey, prices):
    """Neither those of the moment itself, nor of other views of the key, nor of a project whose name ends alike."""
    stocks, other = view_of("stocks", ("a",)), Online(valkey, "x" + online.config.project)
    for store in (online, other):
        for key, moment in {"old": NOON - MICROSECOND, "new": NOON}.items():
            store.write(prices, (key, {"a": 1}, moment, NOON))
            store.write(stocks, (key, {"a": 2}, moment, NOON))
    assert online.store.forget_before(online.config, {"prices": NOON}, [prices]) == 1
    assert online.store.forget_before(online.config, {"prices": NOON}, [prices]) == 0
    assert [values(online, prices, key) for key in ("old", "new")] == [(None, None), (NOON, 1)]
    assert [values(online, stocks, key)[1] for key in ("old", "new")] == [2, 2]
    assert [values(other, view, key)[1] for view in (prices, stocks) for key in ("old", "new")] == [1, 1, 2, 2]
    online.write(prices, ("old", {"a": 3}, NOON - MINUTE, None))
    assert values(online, prices, "old") == (NOON - MINUTE, 3)


def test_a_view_that_was_deleted_begins_anew(online, prices):
    """At any moment; Feast deletes its rows and not their stamps, where the entity has rows of other views."""
    online.write(view_of("stocks", ("a",)), ("k", {"a": 5}, NOON, NOON))
    online.write(prices, ("k", {"a": 1}, NOON, NOON))
    online.store.delete_table(online.config, prices)
    assert values(online, prices) == (None, None)
    online.write(prices, ("k", {"a": 2}, NOON - MINUTE, NOON))
    assert values(online, prices) == (NOON - MINUTE, 2)


def test_a_removed_row_is_replaced_and_a_newer_one_stays(online, prices):
    """Of one key the row is replaced, of another it goes, and of a third what came since is kept."""
    for key, moment in {"moved": NOON, "gone": NOON, "newer": NOON + MINUTE}.items():
        online.write(prices, (key, {"a": 1}, moment, NOON))
    removed = [(key_of(key), NOON) for key in ("moved", "gone", "newer", "never")]
    earlier = [(key_of(key), {"a": value_of(2)}, NOON - MINUTE, NOON + MINUTE) for key in ("moved", "newer")]
    assert online.store.replace_removed(online.config, prices, removed, earlier) == 2
    assert values(online, prices, "moved") == (NOON - MINUTE, 2)
    assert values(online, prices, "gone") == values(online, prices, "never") == (None, None)
    assert values(online, prices, "newer") == (NOON + MINUTE, 1)
    online.write(prices, ("gone", {"a": 3}, NOON - MINUTE, NOON))
    assert values(online, prices, "gone") == (NOON - MINUTE, 3)


def test_of_many_writers_at_once_the_newest_row_wins(valkey, prices):
    """A store that looks first and writes afterwards loses some of these races."""
    writers = [Online(valkey, "races") for _ in range(8)]

    def write(number: int) -> None:
        for step in range(40):
            rows = [
                (f"k{key}", {"a": step * 8 + number}, NOON + (step * 8 + number) * MINUTE, None) for key in range(20)
            ]
            writers[number].write(prices, *(rows if step % 2 else reversed(rows)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = writers[0].read(prices, *(f"k{key}" for key in range(20)))
    assert found == [(NOON + 319 * MINUTE, {"a": 319})] * 20


ROWS = st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 3), st.none() | st.integers(0, 2))


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip
@given(batches=st.lists(st.lists(ROWS, max_size=5), max_size=5))
def test_the_greatest_stamp_counts_in_any_order_of_batches(valkey, prices, batches):
    online = Online(valkey, f"examples_{time.monotonic_ns()}")
    kept: dict[str, tuple[int, int, int]] = {}  # by key: event, created, value
    for batch in batches:
        online.write(prices, *((key, {"a": value}, NOON + event * MINUTE, None if created is None
                                else NOON + created * MINUTE) for key, value, event, created in batch))  # fmt: skip
        for key, value, event, created in batch:
            stamp = event, -1 if created is None else created
            if key not in kept or stamp >= kept[key][:2]:
                kept[key] = *stamp, value
    expected = [(NOON + kept[key][0] * MINUTE, {"a": kept[key][2]}) if key in kept else (None, None) for key in "ab"]
    assert online.read(prices, *"ab") == expected


def test_one_request_is_one_round_trip_however_many_views_it_reads(valkey, monkeypatch, tmp_path):
    from redis.connection import Connection

    views = [view_of(f"view{number}", (f"f{number}",)) for number in range(5)]
    store = _store(valkey, "trips", tmp_path, RESTATING, views)
    for number, view in enumerate(views):
        batch = [(key_of("k"), {f"f{number}": value_of(number)}, NOON, NOON)]
        store._get_provider().online_write_batch(store.config, view, batch, None)
    sent = []
    monkeypatch.setattr(Connection, "send_packed_command", _counted(Connection.send_packed_command, sent), raising=True)
    asked = [f"view{number}:f{number}" for number in range(5)]
    found = store.get_online_features(asked, [{"key": "k"}]).to_dict()
    assert {name: found[name] for name in found if name != "key"} == {f"f{number}": [number] for number in range(5)}
    assert len(sent) == 1


def test_the_feature_server_reads_as_the_sdk_does(valkey, tmp_path):
    """Feast's server awaits the store's coroutine: a key that nobody wrote, and one that is left out."""
    views = [view_of("one", ("a", "b"))]
    store = _store(valkey, "awaited", tmp_path, RESTATING, views)
    batch = [(key_of("k"), {"a": value_of(1), "b": value_of(None)}, NOON, NOON)]
    store._get_provider().online_write_batch(store.config, views[0], batch, None)
    asked, rows = ["one:a", "one:b"], [{"key": "k"}, {"key": "never"}]
    found = asyncio.run(store.get_online_features_async(asked, rows)).to_dict(include_event_timestamps=True)
    assert found == store.get_online_features(asked, rows).to_dict(include_event_timestamps=True)
    assert (found["a"], found["a__ts"]) == ([1, None], [int(NOON.timestamp()), 0])
    with pytest.raises(ValueError, match=r"have no \['key'\]"):
        asyncio.run(store.get_online_features_async(asked, [{"other": "k"}]))


def test_requests_are_answered_as_by_the_stock_store(valkey, tmp_path):
    """Over what that one wrote: several views, nulls, a view without rows, a key twice and one that nobody wrote."""
    views = [view_of("one", ("a", "b")), view_of("two", ("c",)), view_of("three", ("d",))]
    stock, ours = (_store(valkey, "alike", tmp_path / kind, kind, views) for kind in ("redis", RESTATING))
    for view, rows in zip(views, ([("k", {"a": 1, "b": None}), ("l", {"a": 2})], [("k", {"c": 3})], []), strict=True):
        batch = [(key_of(key), {n: value_of(v) for n, v in row.items()}, NOON, NOON) for key, row in rows]
        stock._get_provider().online_write_batch(stock.config, view, batch, None)
    asked, rows = ["one:a", "one:b", "two:c", "three:d"], [{"key": key} for key in ("k", "l", "never", "k")]
    for full_names in (False, True):
        expected, found = (store.get_online_features(asked, rows, full_names).to_dict() for store in (stock, ours))
        assert found == expected
        # Feast answers the views in an order of its own, another in each process.
        assert {name.rpartition("__")[2]: column for name, column in found.items()} == {
            "key": ["k", "l", "never", "k"],
            "a": [1, 2, None, 1],
            "b": [None] * 4,
            "c": [3, None, None, 3],
            "d": [None] * 4,
        }


def _store(address: str, project: str, folder: Path, kind: str, views: list[Any]) -> Any:
    """A Feast repository of these views in the server."""
    from feast import FeatureStore, RepoConfig

    store = FeatureStore(
        config=RepoConfig(
            project=project,
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": "duckdb"},
            online_store={"type": kind, "connection_string": address},
            entity_key_serialization_version=3,
        )
    )
    store.apply([*views, _entity()])
    return store


def _entity() -> Any:
    from feast import Entity, ValueType

    return Entity(name="key_entity", join_keys=["key"], value_type=ValueType.STRING)


def _counted(send: Any, sent: list[Any]) -> Any:
    def counted(self: Any, command: Any, check_health: bool = True) -> Any:
        sent.append(command)
        return send(self, command, check_health)

    return counted


def test_a_server_that_stalls_is_given_up_in_time_and_read_again_after(valkey_server, prices):
    """Stock Feast's client asks four times, with pauses of seconds: the service has answered 504 long before."""
    process, address = valkey_server
    online = Online(f"{address},socket_timeout=0.3,socket_connect_timeout=0.3", "stalls")
    online.write(prices, ("k", {"a": 1}, NOON, NOON))
    process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(2):  # on a connection that was there, and on a new one
            began = time.monotonic()
            with pytest.raises(redis.TimeoutError):
                values(online, prices)
            assert 0.3 <= time.monotonic() - began < 0.9
    finally:
        process.send_signal(signal.SIGCONT)
    assert values(online, prices) == (NOON, 1)


def test_a_connection_that_was_lost_costs_no_read(valkey_server, prices):
    """As after a restart: the next read connects anew."""
    online = Online(valkey_server[1], "lost")
    online.write(prices, ("k", {"a": 1}, NOON, NOON))
    host, _, port = valkey_server[1].partition(",")[0].partition(":")
    with redis.Redis(host, int(port), password="lock") as other:
        other.client_kill_filter(_type="normal", skipme=True)
    assert values(online, prices) == (NOON, 1)
