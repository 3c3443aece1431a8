"""What a model version predicted in an interval: the table of predictions in; frames of the right types out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
from sqlalchemy import Engine, func, select

from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import ContractBroken, FeatureInterface
from fti.contract.predictions import PREDICTIONS
from fti.contract.registered import ABSENT, fetch_version
from fti.contract.spine import PREDICTION_TIME
from fti.errors import one_line
from fti.stores.frames import COLUMN_TYPES

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

AHEAD = timedelta(hours=1)


@dataclass(frozen=True)
class Logged:
    """The predictions of one version in one role. All frames have one row a prediction, in order of `as_of`.

    `requests` has the request's fields and `event_timestamp`, the moment that was asked about; `features` the inputs
    as they were served; `ages`, in seconds by view, how old their rows were (NaN: there was none; no columns: unknown,
    as of a batch).
    """

    name: str
    version: str
    role: str
    run_id: str
    contract: FeatureContract
    requests: pd.DataFrame
    features: pd.DataFrame
    ages: pd.DataFrame
    predictions: pd.Series
    row_keys: pd.Series

    @property
    def ahead(self) -> pd.Series:
        """Which were asked more than AHEAD earlier than the rows that the model was fitted to."""
        interface = self.contract.interface
        lead = timedelta(minutes=interface.prediction_lead_minutes)
        return self.requests[interface.prediction_anchor] - self.requests[PREDICTION_TIME] > lead + AHEAD

    @property
    def subject(self) -> str:
        return f"{self.name} version {self.version}, {self.role}"

    def only(self, rows: pd.Series) -> Logged:
        """Those of the predictions for which `rows` is true."""
        chosen = {
            name: getattr(self, name)[rows].reset_index(drop=True)
            for name in ("requests", "features", "ages", "predictions", "row_keys")
        }
        about = {name: getattr(self, name) for name in ("name", "version", "role", "run_id", "contract")}
        return Logged(**about, **chosen)


@dataclass(frozen=True)
class Unfetched:
    """Predictions of a version that cannot be judged, for it or its files cannot be fetched; `why` says so."""

    name: str
    version: str
    role: str
    rows: int
    why: str

    @property
    def subject(self) -> str:
        return f"{self.name} version {self.version}, {self.role}"


def logged(engine: Engine, name: str, start: datetime, end: datetime) -> Iterator[Logged | Unfetched]:
    """What each version of a model predicted as of `[start, end)`, in each role.

    Raises MlflowException when the registry does not answer: a version that it does not have is another matter.
    """
    from mlflow import MlflowClient

    columns, client = PREDICTIONS.c, MlflowClient()
    asked = (columns.as_of >= start) & (columns.as_of < end) & (columns.model_name == name)
    with engine.connect() as connection:
        found = select(columns.model_version, columns.role).where(asked).distinct()
        pairs = sorted((version, role) for version, role in connection.execute(found))
    fetched = {version: _fetched(client, name, version) for version in sorted({version for version, _ in pairs})}
    for version, role in pairs:
        mine = fetched[version]
        if isinstance(mine, str):
            counted = select(func.count()).where(asked, columns.model_version == version, columns.role == role)
            with engine.connect() as connection:
                yield Unfetched(name, version, role, connection.scalar(counted) or 0, mine)
            continue
        registered, contract = mine
        one = select(
            columns.as_of, columns.request, columns.features, columns.ages, columns.prediction, columns.row_key
        ).where(asked, columns.model_version == version, columns.role == role)
        with engine.connect() as connection:
            ordered = one.order_by(columns.as_of, columns.request_id, columns.row)
            rows = pd.DataFrame(connection.execute(ordered).all(), columns=list(one.selected_columns.keys()))
        yield Logged(
            name, version, role, str(registered.run_id), contract,
            _requests(contract.interface, rows),
            contract.interface.model_inputs(_parsed(rows.features, [one.name for one in contract.interface.inputs])),
            _ages(contract.interface, rows.ages),
            rows.prediction,
            rows.row_key,
        )  # fmt: skip


def _fetched(client: MlflowClient, name: str, version: str) -> tuple[ModelVersion, FeatureContract] | str:
    """A version and its contract, or why there is none. Raises MlflowException when the registry does not answer."""
    from mlflow.exceptions import MlflowException

    try:
        registered = client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return f"the registry has no version {version} of {name!r} any more"
    try:
        return registered, fetch_version(registered)[1]
    except (ContractBroken, MlflowException, OSError) as error:
        return f"its files cannot be fetched: {one_line(error)}"


def _requests(interface: FeatureInterface, rows: pd.DataFrame) -> pd.DataFrame:
    requests = _parsed(rows.request, [field.name for field in interface.request_fields])
    for field in interface.request_fields:
        if field.dtype == "unix_timestamp":
            requests[field.name] = _moments(requests[field.name])
        elif field.dtype != "string":
            requests[field.name] = requests[field.name].astype(COLUMN_TYPES[field.dtype])
    return requests.assign(**{PREDICTION_TIME: _moments(rows.as_of)})


def _moments(values: pd.Series) -> pd.Series:
    # Feast's DuckDB store takes no nanoseconds.
    return pd.to_datetime(values, utc=True, format="ISO8601").astype("datetime64[us, UTC]")


def _ages(interface: FeatureInterface, texts: pd.Series) -> pd.DataFrame:
    parsed = [json.loads(text) for text in texts]
    if not any(parsed):
        return pd.DataFrame(index=texts.index)
    names = [view.name for view in interface.stored_views]
    return pd.DataFrame(parsed, index=texts.index).reindex(columns=names).astype("float64")


def _parsed(texts: pd.Series, columns: list[str]) -> pd.DataFrame:
    values: list[dict[str, Any]] = [json.loads(text) for text in texts]
    # As objects: pandas would make floats of whole numbers beside a null.
    return pd.DataFrame(values, index=texts.index, columns=columns, dtype=object)
