"""Feature rows that a correction removes: the online store gives them up as well."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deltalake import DeltaTable

from fti.features import removals
from fti.features.pipeline import FeaturePipeline
from tests.small_repo import JULY, read_raw, succeed, write_raw

FLIGHTS = "flights.csv.zip"
AS_OF = "2013-07-02T06:00"


def correct(folder: Path, change: Any) -> None:
    """Land and publish a delivery with the flights as `change` makes them."""
    write_raw(folder, FLIGHTS, change(read_raw(folder, FLIGHTS)))
    succeed(folder, "ingest", *JULY, "--received-at", AS_OF)
    succeed(folder, "publish", *JULY)


def earlier(flights: pd.DataFrame) -> pd.DataFrame:
    """All flights that landed did so half an hour earlier: none keeps its row of an aircraft that landed."""
    return flights.assign(arr_delay=flights.arr_delay - 30)


def of_another(flights: pd.DataFrame) -> pd.DataFrame:
    """Other aircraft flew all the flights: those of before have no landing, so no row."""
    return flights.assign(tailnum=flights.tailnum + "X")


@pytest.fixture(scope="module")
def built_once(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(built, tmp_path_factory.mktemp("removals") / "copy"))
    succeed(folder, "apply")
    materialize(folder)
    return folder


@pytest.fixture
def materialized(built_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(FeaturePipeline, "write_docs", lambda pipeline: pipeline.data / "docs")
    return Path(shutil.copytree(built_once, tmp_path / "copy"))


def materialize(folder: Path) -> None:
    succeed(folder, "materialize", "--start", JULY[1], "--as-of", AS_OF)


def offline(folder: Path, view: Any) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """By key, event timestamp and features of the newest row: the oracle, straight from the table."""
    keys = [column.name for column in view.entity_columns]
    rows = DeltaTable(str(folder / "data" / "features" / view.name)).to_pandas()
    rows = rows[rows.event_timestamp <= pd.Timestamp(AS_OF, tz="UTC")]
    rows = rows.sort_values("event_timestamp").drop_duplicates(keys, keep="last")
    names = ["event_timestamp", *(feature.name for feature in view.features)]
    return {tuple(row[key] for key in keys): tuple(row[name] for name in names) for _, row in rows.iterrows()}


def online(store: Any, view: Any, keys: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """By key, what the online store has; nothing of a key without a row."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.type_map import python_values_to_proto_values

    types = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    entity_keys = [
        EntityKey(
            join_keys=list(types),
            entity_values=[
                python_values_to_proto_values([value], kind)[0] for value, kind in zip(key, types.values(), strict=True)
            ],
        )
        for key in keys
    ]
    rows = store._get_provider().online_store.online_read(store.config, view, entity_keys)
    found = {}
    for key, (moment, values) in zip(keys, rows, strict=True):
        if moment is not None:
            cells = (values[feature.name] for feature in view.features)
            plain = (getattr(cell, kind) if (kind := cell.WhichOneof("val")) else None for cell in cells)
            found[key] = (pd.Timestamp(moment), *plain)
    return found


def assert_online_is_offline(folder: Path, keys_before: dict[str, list[tuple[Any, ...]]]) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(folder / "feature_repo"))
    for view in (view for view in store.list_feature_views() if view.online):
        wanted = offline(folder, view)
        keys = sorted({*wanted, *keys_before[view.name]})
        as_read = {
            key: tuple(None if pd.isna(cell) else cell for cell in cells) for key, cells in wanted.items()
        }  # fmt: skip
        assert online(store, view, keys) == as_read, view.name


def keys_of(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(folder / "feature_repo"))
    return {view.name: list(offline(folder, view)) for view in store.list_feature_views() if view.online}


@pytest.mark.parametrize("change", [earlier, of_another])
def test_rows_that_a_correction_removes_are_replaced_online(materialized, change):
    """Whether the newest row moves to an earlier moment or the key has no row any more."""
    before = keys_of(materialized)
    assert_online_is_offline(materialized, before)
    correct(materialized, change)
    listed = [path.name for path in (materialized / "data" / removals.FOLDER).iterdir()]
    assert listed, "no correction removed a row"
    materialize(materialized)
    assert_online_is_offline(materialized, before)
    materialize(materialized)
    assert_online_is_offline(materialized, before)
