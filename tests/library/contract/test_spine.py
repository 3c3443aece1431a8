"""What a table says reaches model, service, log and monitor as it is: numbers, booleans, text, and their nulls."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from sqlalchemy import select

from fti.contract.feature_contract import FeatureContract, TrainingSet
from fti.contract.feature_service import read_interface
from fti.contract.interface import FeatureInterface
from fti.contract.predictions import PREDICTIONS, create, open_log
from fti.contract.spine import rows_due, view_rows
from fti.monitoring import logged
from fti.monitoring.consistency import consistency
from fti.monitoring.online import presence
from fti.monitoring.outcomes import Outcomes
from fti.scoring.features import FeatureReader, FeatureRow
from fti.scoring.schemas import parse, request_schema
from fti.serving.batch import BatchScorer
from fti.stores.asof import JoinKeyRounded
from fti.training.dataset import labelled_rows, store_rows, stored_rows, training_sets, upcoming_request
from fti.training.train import known_of
from tests.parcels import BIG, DEPOTS, HOUR, LEAST, MOST, NOON, PARCELS, ZONES, build

SENT, OVER = NOON + HOUR, NOON + 3 * HOUR


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    built = build(tmp_path_factory.mktemp("parcels"))
    built.materialize(NOON - HOUR, SENT)
    return built


@pytest.fixture(scope="module")
def interface(store: FeatureStore) -> FeatureInterface:
    return read_interface(store, "parcels_v1")


@pytest.fixture(scope="module")
def contract(store: FeatureStore, interface: FeatureInterface) -> FeatureContract:
    rows = labelled_rows(store, interface, NOON, OVER)
    return FeatureContract(
        interface=interface,
        known_values={"zone": known_of(rows.frame.zone)},
        training_set=TrainingSet(as_of=OVER, start=NOON, end=OVER, rows=1, sha256=rows.sha256, delta_versions={}),
        example_request=upcoming_request(store, rows, NOON + HOUR / 2),
    )


def plain(frame: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """The cells as Python has them, None for missing."""
    return frame[columns].astype(object).where(frame[columns].notna(), None).to_dict("records")


def expected(parcel: dict[str, Any]) -> dict[str, Any]:
    """The stored features of a parcel, found by hand; an infinite one is unknown."""
    depot = next((one for one in DEPOTS if one["depot_id"] == parcel["depot_id"]), {})
    zone = next((one for one in ZONES if one["zone"] == parcel["zone"]), {})
    pace = depot.get("pace")
    pace = None if pace == np.inf or pace != pace else pace  # noqa: PLR0124 - NaN is unlike itself
    return {name: depot.get(name) for name in ("waiting", "is_open")} | {
        "pace": pace,
        "remoteness": zone.get("remoteness"),
    }


def test_rows_of_a_view_keep_whole_numbers_and_booleans_beside_a_null(store):
    """Each to its last digit, and of the same type in a column that has no null."""
    rows = view_rows(store, "at_depot", OVER).sort_values("depot_id")
    columns = ["depot_id", "waiting", "is_open"]
    wanted = sorted(DEPOTS, key=lambda row: row["depot_id"])
    assert plain(rows, columns) == [{name: row[name] for name in columns} for row in wanted]
    assert [str(dtype) for dtype in rows[columns].dtypes] == ["Int64", "Int64", "boolean"]


def test_training_joins_a_key_of_whole_numbers_with_its_own_features(store, interface):
    """Not with those of the number beside it, which has the same float; nor is text that says NA no key."""
    frame = labelled_rows(store, interface, NOON, OVER).frame.set_index("parcel")
    for parcel in PARCELS:
        (row,) = plain(frame.loc[[parcel["parcel"]]], ["waiting", "is_open", "pace", "remoteness", "weight", "fragile"])
        assert row == expected(parcel) | {"weight": parcel["weight"], "fragile": parcel["fragile"]}


def test_a_stored_training_set_is_read_back_as_it_was(store, interface):
    """Types, cells and hash."""
    rows = labelled_rows(store, interface, NOON, OVER)
    table = training_sets(store, "parcels_v1")
    store_rows(rows, table)
    again = stored_rows(interface, "parcel", table, rows.sha256)
    pd.testing.assert_frame_equal(again.frame[rows.frame.columns], rows.frame)
    assert again.sha256 == rows.sha256


def test_the_example_request_of_a_contract_is_one_that_its_schema_takes(store, interface, contract):
    """A whole number of a column with nulls stays whole: the strict schema refuses 1060.0."""
    assert contract.example_request == {
        "depot_id": BIG, "zone": "NA", "weight": 1060, "fragile": True, "sent_at": "2024-05-01T13:00:00Z",
        "as_of": "2024-05-01T12:30:00Z",
    }  # fmt: skip
    body = json.dumps(contract.example_request).encode()
    assert parse(request_schema(contract), contract, body)[0]["weight"] == 1060
    assert FeatureContract.model_validate_json(contract.canonical()) == contract


def test_online_a_whole_number_beside_a_null_is_the_one_that_was_published(store, interface):
    """Feast hands rows to online stores by way of numpy, which rounds such numbers from 2**53 on."""
    requests = [{"sent_at": SENT} | parcel for parcel in PARCELS]
    for parcel, row in zip(PARCELS, FeatureReader(store, interface).read(requests, [SENT] * 5), strict=True):
        assert isinstance(row, FeatureRow)
        wanted = expected(parcel)
        assert {name: row.values[name] for name in wanted} == wanted
    assert {one.view: one.lost_share for one in presence(store, SENT)} == {
        name: None if name == "outcome" else 0 for name in ("at_depot", "in_zone", "outcome", "parcels")
    }


def test_an_infinite_input_is_unknown_online_as_in_training_and_both_say_so(store, interface, caplog):
    """Of stored features and of those computed on demand."""
    inputs = labelled_rows(store, interface, NOON, OVER)
    offline = inputs.inputs.set_index(inputs.frame.parcel)
    assert "pace: 1 of 5 value(s) are infinite; they count as unknown" in caplog.messages
    assert "effort: 1 of 5 value(s) are infinite; they count as unknown" in caplog.messages
    requests = [{"sent_at": SENT} | parcel for parcel in PARCELS]
    rows = FeatureReader(store, interface).read(requests, [SENT] * 5)
    online = interface.model_inputs(pd.DataFrame([row.values for row in rows])).set_axis(
        pd.Index([parcel["parcel"] for parcel in PARCELS], dtype="Int64", name="parcel")
    )
    pd.testing.assert_frame_equal(online.loc[offline.index], offline)
    told = [warning for row in rows for warning in row.warnings if "infinite" in warning]
    assert told == ["pace: infinite; not used", "effort: infinite; not used"]


class Zeros:
    """A model that says 0 of everything."""

    def predict_frame(self, inputs: pd.DataFrame) -> np.ndarray:
        return np.zeros(len(inputs))


@pytest.fixture
def scored(store, contract, tmp_path: Path) -> Any:
    """The log of a batch of all parcels."""
    engine = open_log(f"sqlite:///{tmp_path / 'predictions.db'}")
    create(engine)
    scorer = BatchScorer("parcels", "1", contract, Zeros(), store, engine)  # type: ignore[arg-type]
    totals = scorer.run(NOON, OVER, "batch", OVER)
    assert (totals.written, totals.skipped) == (5, {})
    assert scorer.run(NOON, OVER, "again", OVER).there == 5
    return engine


def test_a_batch_logs_what_was_asked_and_the_monitor_reads_it(scored, store, contract, monkeypatch):
    """Requests to the last digit, features as the offline store has them, and the outcome of each row's own key."""
    with scored.connect() as connection:
        asked = {
            key: json.loads(text)
            for key, text in connection.execute(select(PREDICTIONS.c.row_key, PREDICTIONS.c.request))
        }
    wanted = {str(row["parcel"]): {name: row[name] for name in row if name != "parcel"} for row in PARCELS}
    assert asked == {key: row | {"sent_at": "2024-05-01T13:00:00Z"} for key, row in wanted.items()}

    monkeypatch.setattr(
        "mlflow.MlflowClient", lambda: SimpleNamespace(get_model_version=lambda *_: SimpleNamespace(run_id="1"))
    )
    monkeypatch.setattr(logged, "fetch_version", lambda _: (None, contract))
    (read,) = logged.logged(scored, "parcels", NOON, OVER)
    served = logged.together([*read.batches()])
    requests = plain(served.requests, ["depot_id", "weight", "fragile"])
    assert sorted(map(str, requests)) == sorted(str({name: row[name] for name in requests[0]}) for row in PARCELS)
    whole, *_ = consistency(store, served, NOON, OVER)
    assert (whole.metric, whole.value, whole.rows) == ("consistency", 1.0, 5)
    labels = Outcomes(store, [served], OVER).of(served)
    outcomes = {str(row["parcel"]): number % 2 for number, row in enumerate(PARCELS)}
    assert labels.tolist() == [outcomes[key] for key in served.row_keys]
    online = served.only(served.row_keys.notna())
    object.__setattr__(online, "row_keys", pd.Series([None] * 5, dtype=object))
    assert Outcomes(store, [online], OVER).of(online).tolist() == labels.tolist()


def test_null_and_nan_are_the_same_to_code_on_demand(store, interface):
    """Both are None there, offline as online."""
    frame = labelled_rows(store, interface, NOON, OVER).frame.set_index("parcel")
    assert frame.effort.loc[[0, LEAST]].tolist() == [-1.0, -1.0]


def test_floats_for_a_key_of_whole_numbers_are_those_numbers_or_refused(store):
    """As pandas makes them beside a null: from 2**53 on they may be of the key beside it."""
    asked = pd.DataFrame({"depot_id": [0.0, None], "event_timestamp": SENT})
    found = store.get_historical_features(asked, ["at_depot:waiting"]).to_arrow()
    assert str(found.schema.field("depot_id").type) == "int64"
    assert found["depot_id"].to_pylist() == [0, None]
    with pytest.raises(JoinKeyRounded, match=r"'depot_id'.*\"Int64\""):
        store.get_historical_features(asked.assign(depot_id=[float(BIG), None]), ["at_depot:waiting"])


def test_rows_due_have_the_extremes_of_64_bits(store, interface):
    """Also where they are picked by their keys."""
    rows = rows_due(store, interface, SENT, OVER)
    assert set(rows.parcel) == {BIG, BIG + 1, MOST, LEAST, 0}
    assert set(rows.weight) == {1060, MOST, LEAST, BIG, 7}
