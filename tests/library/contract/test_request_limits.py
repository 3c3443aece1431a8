"""Rows that the service would refuse as requests: training leaves them out and batch scoring skips them, alike."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from fti.contract.feature_contract import FeatureContract, TrainingSet
from fti.contract.feature_service import read_interface
from fti.contract.interface import FeatureInterface
from fti.contract.predictions import create, open_log
from fti.contract.request_limits import unanswerable
from fti.contract.spine import PREDICTION_TIME, spine_rows
from fti.scoring.schemas import RequestInvalid, parse, request_schema
from fti.serving.batch import BatchScorer
from fti.training.dataset import DataMissing, labelled_rows, upcoming_request
from tests.parcels import HOUR, NOON, PARCELS, build

OVER = NOON + 3 * HOUR
ANCIENT, LAST = datetime(1969, 12, 31, 23, 59, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)
TEXT, YEARS = "zone is not text of 1 to 64 characters", "sent_at is not between the years 1970 and 2261"
# What differs from a good parcel, and why it is refused; None: it is not.
CASES: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"zone": "🚲" * 64}, None),
    ({"zone": "ł" * 65}, TEXT),
    ({"zone": ""}, TEXT),
    ({"zone": None, "depot_id": None}, None),
    ({"sent_at": datetime(1970, 1, 1, tzinfo=UTC)}, None),
    ({"sent_at": ANCIENT}, "due before the year 1970"),
    ({"sent_at": LAST}, YEARS),
    ({"weight": None}, "without weight"),
    ({"fragile": None}, "without fragile"),
]
ROWS = [PARCELS[0] | {"sent_at": NOON + HOUR} | change | {"parcel": row} for row, (change, _) in enumerate(CASES)]
KEPT = {row for row, (_, reason) in enumerate(CASES) if reason is None}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return build(tmp_path_factory.mktemp("limits"), ROWS)


@pytest.fixture(scope="module")
def interface(store: FeatureStore) -> FeatureInterface:
    return read_interface(store, "parcels_v1")


def contract_of(interface: FeatureInterface) -> FeatureContract:
    recorded = TrainingSet(as_of=OVER, start=NOON, end=OVER, rows=1, sha256="0", delta_versions={})
    return FeatureContract(interface=interface, known_values={}, training_set=recorded, example_request={})


def refused(interface: FeatureInterface, row: dict[str, Any]) -> bool:
    """Whether the service's own schema refuses the row, asked as of when it is due."""
    contract = contract_of(interface)
    request = {field.name: row[field.name] for field in interface.request_fields} | {"as_of": row["sent_at"]}
    body = json.dumps(request, default=lambda moment: moment.isoformat()).encode()
    try:
        parse(request_schema(contract), contract, body)
    except RequestInvalid:
        return True
    return False


def test_what_is_unanswerable_is_what_the_service_refuses(store, interface):
    """Row for row, by the request schema; and each row says why."""
    rows = spine_rows(store, interface, OVER).set_index("parcel").sort_index()
    reasons = unanswerable(interface, rows)
    assert reasons.where(reasons.notna(), None).tolist() == [reason for _, reason in CASES]
    assert [refused(interface, row) for row in ROWS] == reasons.notna().tolist()


@pytest.mark.parametrize(
    ("dtype", "column"),
    [
        ("int32", pd.array([2**31 - 1, -(2**31), 2**31, -(2**31) - 1], "Int64")),
        ("int64", pd.array([2**63 - 1, -(2**63), 0, 2**53 + 1], "Int64")),
        ("double", np.array([1e308, -0.0, np.inf, -np.inf])),
        ("float", np.array([3.0, -0.5, np.inf, 1.0], "float32")),
    ],
)
def test_numbers_are_limited_as_the_service_limits_them(interface, dtype: str, column: Any):
    """Whole ones by the bits of their type, others by being finite."""
    fields = [field.model_copy(update={"dtype": dtype}) if field.name == "weight" else field
              for field in interface.request_fields]  # fmt: skip
    changed = interface.model_copy(update={"request_fields": fields})
    rows = pd.DataFrame([ROWS[0]] * 4).assign(weight=column)
    plain = [row | {"weight": cell} for row, cell in zip([ROWS[0]] * 4, column.tolist(), strict=True)]
    assert unanswerable(changed, rows).notna().tolist() == [refused(changed, row) for row in plain]


def test_training_leaves_out_what_the_service_would_refuse_and_logs_how_many(store, interface, caplog):
    """A line a reason."""
    rows = labelled_rows(store, interface, datetime(1900, 1, 1, tzinfo=UTC), OVER)
    assert set(rows.frame.parcel) == KEPT
    assert f"2 row(s) left out of the training set, for the service would refuse them: {TEXT}" in caplog.text
    assert "without weight" in caplog.text
    example = upcoming_request(store, rows, NOON)
    assert not refused(interface, {"sent_at": NOON + HOUR} | example)
    with pytest.raises(DataMissing):
        upcoming_request(store, rows, datetime(2200, 1, 1, tzinfo=UTC))


def test_batch_scoring_skips_the_same_rows(store, interface, tmp_path: Path):
    """Of those due in the interval, by reason."""
    engine = open_log(f"sqlite:///{tmp_path / 'predictions.db'}")
    create(engine)

    class Zeros:
        def predict_frame(self, inputs: pd.DataFrame) -> np.ndarray:
            return np.zeros(len(inputs))

    contract = contract_of(interface)
    totals = BatchScorer("parcels", "1", contract, Zeros(), store, engine).run(NOON, OVER, "batch", OVER)  # type: ignore[arg-type]
    due = spine_rows(store, interface, OVER)
    due = due[due[PREDICTION_TIME].between(NOON, OVER)]
    assert totals.skipped == {TEXT: 2, "without weight": 1, "without fragile": 1}
    assert totals.written == len(KEPT & set(due.parcel)) == 3
