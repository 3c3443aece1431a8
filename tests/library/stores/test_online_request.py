"""Online reads by Feast's own means: the SDK and the feature server, asked with times, keys and what JSON has."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from feast.feature_server import get_app
from starlette.testclient import TestClient

from fti.features.feast_steps import apply
from fti.stores.online_request import RequestUnusable
from tests import ships

HOUR = int(ships.NOON.timestamp()) // 3600
ROW = {"ship": "ant", "port": "Oslo", "sailing_hour": HOUR, "sails_at": ships.NOON}
TIMES = [
    "2024-05-01T12:00:00Z",
    "2024-05-01T14:00:00+02:00",
    int(ships.NOON.timestamp()),
    float(ships.NOON.timestamp()),
]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built repository of ships."""
    return ships.build(tmp_path_factory.mktemp("ships"))


@pytest.fixture(scope="module")
def store(repo: Path) -> FeatureStore:
    return FeatureStore(repo_path=str(repo))


@pytest.fixture(scope="module")
def server(repo: Path) -> Iterator[TestClient]:
    """Feast's feature server, in this process; an error is its answer, not this test's."""
    with TestClient(get_app(FeatureStore(repo_path=str(repo))), raise_server_exceptions=False) as client:
        yield client


def read(store: FeatureStore, *rows: dict[str, Any]) -> dict[str, list[Any]]:
    service = store.get_feature_service("late_v1")
    return store.get_online_features(features=service, entity_rows=[*rows]).to_dict()


def body(**change: Any) -> dict[str, Any]:
    row = ROW | {"sails_at": TIMES[0]} | change
    return {"feature_service": "late_v1", "entities": {name: [value] for name, value in row.items()}}


def values(answer: httpx.Response) -> dict[str, list[Any]]:
    found = answer.json()
    names = found["metadata"]["feature_names"]
    return {name: result["values"] for name, result in zip(names, found["results"], strict=True)}


# ---- times ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", TIMES)
def test_the_feature_server_takes_times_as_text_and_as_seconds(server, store, given):
    """On-demand code that reads a time computes what it computes by the SDK."""
    answer = server.post("/get-online-features", json=body(sails_at=given))
    assert answer.status_code == 200, answer.text
    found, expected = values(answer), read(store, ROW)
    assert {name: found[name] for name in ("sails_hour", "knots", "ship_trips", "hour_sailings")} == {
        name: expected[name] for name in ("sails_hour", "knots", "ship_trips", "hour_sailings")
    }


@pytest.mark.parametrize(
    "given",
    [
        *TIMES,
        ships.NOON.replace(tzinfo=None),
        ships.NOON.astimezone(timezone(timedelta(hours=5))),
        pd.Timestamp(ships.NOON),
        np.datetime64("2024-05-01T12:00:00"),
    ],
    ids=repr,
)
def test_the_sdk_takes_any_kind_of_time(store, given):
    """A datetime without a zone is UTC, as everywhere in Feast."""
    assert read(store, ROW | {"sails_at": given}) == read(store, ROW)


def test_the_service_computes_the_same_of_a_time(store):
    """The reader of the service runs the code itself."""
    from fti.contract.feature_service import read_interface
    from fti.scoring.features import FeatureReader

    (row,) = FeatureReader(store, read_interface(store, "late_v1")).read([ROW], [ships.NOON])
    found = read(store, ROW)
    assert {name: [value] for name, value in row.values.items()} == {name: found[name] for name in row.values}


@pytest.mark.parametrize(
    "given",
    ["2024-05-01T12:00:00", "noon", "2024-05-01T12:00:00.5Z", 1714564800.5, True, None, 10**15, [1], float("nan")],
    ids=repr,
)
def test_a_time_that_is_none_or_has_no_zone_is_refused_by_name(server, given):
    """422, and what would do; text without a zone could be any of 24 hours."""
    asked = body(sails_at=given)
    if given != given:  # noqa: PLR0124 - NaN, which JSON has not
        asked["entities"]["sails_at"] = ["nan"]
    answer = server.post("/get-online-features", json=asked)
    assert answer.status_code == 422, answer.text
    for part in ("Row 0 has sails_at=", "seconds since 1970", "ISO text with a zone"):
        assert part in answer.text


def test_a_process_of_feast_serve_answers(repo):
    """The command itself, with this library's stores as feature_store.yaml names them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(repo), "serve", "-p", str(port)]
    with subprocess.Popen([*command, "--no-access-log"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serve:
        try:
            address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while True:
                assert serve.poll() is None
                assert time.monotonic() < deadline
                try:
                    if httpx.get(f"{address}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            answer = httpx.post(f"{address}/get-online-features", json=body(), timeout=30)
        finally:
            serve.terminate()
    assert (answer.status_code, values(answer)["sails_hour"]) == (200, [12.0])


# ---- keys -----------------------------------------------------------------------------------------------------------


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != name}


def test_a_row_without_a_derived_key_is_an_error_that_says_how_it_is_made(store, server):
    """Not null features, of which nobody would know why."""
    told = "no ['sailing_hour']; they have ['ship', 'port', 'sails_at']. Add sailing_hour, a whole number derived from "
    told += "the request: the seconds of sails_at since 1970-01-01T00:00Z, divided by 3600 and rounded down."
    with pytest.raises(RequestUnusable) as refusal:
        read(store, without("sailing_hour"))
    assert told in str(refusal.value)
    asked = body()
    del asked["entities"]["sailing_hour"]
    answer = server.post("/get-online-features", json=asked)
    assert (answer.status_code, told in answer.text) == (422, True)


@pytest.mark.parametrize("key", ["ship", "port", "sailing_hour"])
def test_a_row_without_any_key_is_an_error(store, key):
    """Also of an optional key: that it is not known is said by None."""
    with pytest.raises(RequestUnusable, match=rf"The entity rows have no \['{key}'\]"):
        read(store, without(key))


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA], ids=repr)
def test_a_key_that_is_not_known_finds_nothing_where_it_is_optional(store, missing):
    """The rest of the row, and the rows beside it, are found."""
    found = read(store, ROW, ROW | {"port": missing})
    assert (found["port_depth"], found["hour_sailings"][0]) == ([8.5, None], found["hour_sailings"][1])
    for key in ("ship", "sailing_hour"):
        with pytest.raises(RequestUnusable, match=f"Row 1 has no '{key}'. Add {key}"):
            read(store, ROW, ROW | {key: missing})


def test_rows_of_different_keys_are_refused(store):
    """By the row and the key, whichever row comes first."""
    for rows in ([ROW, without("port")], [without("port"), ROW]):
        with pytest.raises(RequestUnusable, match=r"has no \['port'\], which other rows have"):
            read(store, *rows)


def test_whole_keys_that_pandas_made_floats_of_are_found(store):
    """Beside a missing one, it does."""
    assert read(store, ROW | {"sailing_hour": float(HOUR)}) == read(store, ROW)
    with pytest.raises(RequestUnusable, match="expected a whole number"):
        read(store, ROW | {"sailing_hour": HOUR + 0.5})


def test_a_key_that_on_demand_code_reads_as_a_request_field_is_a_key_all_the_same(tmp_path):
    """Feast takes it for one of the two only; the frame has it, as the model needs it."""
    field = 'schema=[Field(name="sails_at", dtype=UnixTimestamp)'
    both = ships.DEFINITIONS.replace(field, field + ', Field(name="ship", dtype=String)')
    ships.tables(tmp_path / "data")
    apply(ships.write(tmp_path / "repo", both))
    store = FeatureStore(repo_path=str(tmp_path / "repo"))
    store.materialize(ships.NOON - timedelta(days=9), ships.NOON)
    found = read(store, ROW, ROW | {"ship": "cat"})
    assert (found["ship_trips"], found["ship"]) == ([2**53 + 1, 7], ["ant", "cat"])
    assert found["sails_hour"] == [12.0, 12.0]


# ---- frames ---------------------------------------------------------------------------------------------------------


def test_frames_keep_what_each_cell_says(store):
    """2**53 + 1 beside a null, and the same types online and offline whether there is a null or not."""
    service = store.get_feature_service("late_v1")
    rows = [ROW, ROW | {"ship": "bee"}]
    for asked in (rows, rows[:1]):
        online = store.get_online_features(features=service, entity_rows=asked).to_df()
        entities = pd.DataFrame(asked).assign(event_timestamp=ships.NOON)
        offline = store.get_historical_features(entities, service).to_df()
        assert (online["ship_trips"][0], offline["ship_trips"][0]) == (2**53 + 1, 2**53 + 1)
        stored = ["ship_trips", "ship_fast", "ship_speed", "port_depth", "hour_sailings", "sails_hour", "knots"]
        pd.testing.assert_frame_equal(online[stored], offline[stored], check_exact=True)


@pytest.mark.parametrize("given", [*TIMES, ships.NOON, datetime(2024, 5, 1, 12)], ids=repr)
def test_times_offline_may_be_text_and_seconds_too(store, given):
    """The same moment is the same feature, of entity rows from a CSV file, too; text without a zone is refused."""
    service, entities = store.get_feature_service("late_v1"), pd.DataFrame([ROW]).assign(event_timestamp=ships.NOON)
    assert store.get_historical_features(entities.assign(sails_at=given), service).to_df()["sails_hour"][0] == 12
    with pytest.raises(RequestUnusable, match="Row 0 has sails_at='2024-05-01T12:00'"):
        store.get_historical_features(entities.assign(sails_at="2024-05-01T12:00"), service).to_df()
