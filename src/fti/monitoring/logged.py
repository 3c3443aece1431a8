"""What a model version predicted in an interval: the table of predictions in; frames of the right types out.

The log is read in batches: a window may hold millions of predictions, of 2 kB each. DuckDB parses their JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pyarrow as pa
from sqlalchemy import Engine, Select, func, select

from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import ContractBroken
from fti.contract.predictions import PREDICTIONS
from fti.contract.registered import ABSENT, fetch_version
from fti.contract.spine import PREDICTION_TIME
from fti.errors import one_line
from fti.stores.delta import connect, literal
from fti.stores.frames import as_frame

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

AHEAD = timedelta(hours=1)
BATCH_ROWS = 10_000
TEXT = "VARCHAR"
# What DuckDB calls the types that contracts have.
SQL_TYPES: dict[str, str] = {
    "string": TEXT, "int64": "BIGINT", "int32": "INTEGER", "double": "DOUBLE", "float": "FLOAT", "bool": "BOOLEAN",
    "unix_timestamp": "TIMESTAMPTZ",
}  # fmt: skip
FRAMES = ("requests", "features", "ages", "predictions", "row_keys")


@dataclass(frozen=True)
class Logged:
    """Some predictions of one version in one role. All frames have one row a prediction, in order of `as_of`.

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
        """Those of the predictions for which `rows` is true; nearly always all are, and nothing is copied."""
        if rows.all():
            return self
        return replace(self, **{name: getattr(self, name)[rows].reset_index(drop=True) for name in FRAMES})


def together(batches: Sequence[Logged]) -> Logged:
    """Batches of one version in one role, in their order, as one."""
    first = batches[0]
    frames = {name: pd.concat([getattr(one, name) for one in batches], ignore_index=True) for name in FRAMES}
    return replace(first, **frames)


@dataclass(frozen=True)
class Predictions:
    """What one version predicted in one role, yet to be read."""

    name: str
    version: str
    role: str
    run_id: str
    contract: FeatureContract
    engine: Engine
    asked: Select[Any]

    @property
    def subject(self) -> str:
        return f"{self.name} version {self.version}, {self.role}"

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[Logged]:
        """All of them, so many at a time, in order of `as_of`, request and row."""
        interface, con = self.contract.interface, connect()
        inputs = {one.name: TEXT if one.dtype == "string" else "DOUBLE" for one in interface.inputs}
        fields = {field.name: SQL_TYPES[field.dtype] for field in interface.request_fields}
        views = {view.name: "DOUBLE" for view in interface.stored_views}
        with self.engine.connect().execution_options(yield_per=rows) as connection:
            for batch in connection.execute(self.asked).partitions():
                moments, requests, features, ages, predictions, row_keys = zip(*batch, strict=True)
                asked = pd.to_datetime(pd.Series(moments), utc=True).astype("datetime64[us, UTC]")
                yield Logged(
                    self.name, self.version, self.role, self.run_id, self.contract,
                    _parsed(con, requests, fields).assign(**{PREDICTION_TIME: asked}),
                    _parsed(con, features, inputs),
                    _parsed(con, ages, views if any(text != "{}" for text in ages) else {}),
                    pd.Series(predictions, dtype="float64"),
                    pd.Series(row_keys, dtype=object),
                )  # fmt: skip


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


def logged(engine: Engine, name: str, start: datetime, end: datetime) -> Iterator[Predictions | Unfetched]:
    """What each version of a model predicted as of `[start, end)`, in each role.

    Raises MlflowException when the registry does not answer: a version that it does not have is another matter.
    """
    from mlflow import MlflowClient

    columns, client = PREDICTIONS.c, MlflowClient()
    asked = (columns.as_of >= start) & (columns.as_of < end) & (columns.model_name == name)
    with engine.connect() as connection:
        found = select(columns.model_version, columns.role).where(asked).distinct()
        pairs = sorted((version, role) for version, role in connection.execute(found))
    versions = {version: _fetched(client, name, version) for version in sorted({version for version, _ in pairs})}
    for version, role in pairs:
        fetched, these = versions[version], (asked, columns.model_version == version, columns.role == role)
        if isinstance(fetched, str):
            with engine.connect() as connection:
                rows = connection.scalar(select(func.count()).where(*these)) or 0
            yield Unfetched(name, version, role, rows, fetched)
            continue
        registered, contract = fetched
        one = select(
            columns.as_of, columns.request, columns.features, columns.ages, columns.prediction, columns.row_key
        ).where(*these)
        yield Predictions(
            name, version, role, str(registered.run_id), contract, engine,
            one.order_by(columns.as_of, columns.request_id, columns.row),
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


def _parsed(con: duckdb.DuckDBPyConnection, texts: Sequence[str], types: Mapping[str, str]) -> pd.DataFrame:
    """The values of JSON objects, one object a row: a column for each name of `types`, in its type of DuckDB's."""
    table = pa.table({"text": pa.array(texts, pa.string())})
    con.register("__texts", table)
    found = pd.DataFrame(index=range(len(texts)))
    for names in _apart(types):
        struct = literal(json.dumps({name: types[name] for name in names}))
        rows = con.sql(f"SELECT unnest(json_transform(text, {struct})) FROM __texts").to_arrow_table()
        found = pd.concat([found, as_frame(rows)], axis=1)
    return found[[*types]]


def _apart(names: Iterable[str]) -> list[list[str]]:
    """The names in groups, nearly always one, in none of which two differ by upper case only: to DuckDB they do not."""
    groups: list[dict[str, str]] = []
    for name in names:
        group = next((one for one in groups if name.lower() not in one), None)
        if group is None:
            groups.append(group := {})
        group[name.lower()] = name
    return [[*group.values()] for group in groups]
