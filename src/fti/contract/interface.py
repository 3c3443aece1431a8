"""What a feature service asks of a request and of the feature store, in the parts that a contract is made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from fti.contract.task import CLASSIFICATION, Task
from fti.errors import Refusal

logger = logging.getLogger("features")
EPOCH = pd.Timestamp("1970-01-01", tz="UTC")

ValueType = Literal["string", "int64", "double", "float", "int32", "bool", "unix_timestamp"]


class ContractBroken(Refusal):
    """The live feature registry cannot honour a model's contract."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _without(written: dict[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What a part is written as, less those fields that say what is usual."""
    return {name: value for name, value in written.items() if name not in usual or value != usual[name]}


class JoinKey(Part):
    """A key that finds feature rows, and the request field it comes from.

    `floor_seconds` turns a timestamp field into a slot number, seconds since 1970 // floor_seconds.
    """

    name: str
    dtype: ValueType
    request_field: str
    floor_seconds: int | None = None
    optional: bool = False
    unknown: Literal["reject", "warn"] = "warn"
    noun: str

    def of(self, value: Any) -> Any:
        """The key for one request value; None stays None."""
        if value is None or self.floor_seconds is None:
            return value
        return int(value.timestamp() // self.floor_seconds)

    def of_column(self, values: pd.Series) -> pd.Series:
        """The keys for a column of request values."""
        if self.floor_seconds is None:
            return values
        return ((values - EPOCH) // pd.Timedelta(seconds=self.floor_seconds)).astype("Int64")


class RequestField(Part):
    """A field that a request carries."""

    name: str
    dtype: ValueType
    required: bool
    description: str


class StoredView(Part):
    """A feature view that is read by key. `ttl_seconds` 0 means its rows never expire.

    `when_missing` says what becomes of a row whose features of this view are null, in training as in serving: the model
    takes nulls as they are, or it takes `defaults` for them, or rows without a single one are left out and refused.

    A feature service may read a view under another name, by other keys (Feast's `with_name` and `with_join_key_map`).
    `name`, `join_keys` and `features` are those of the service. In the store the view is called `view`, its keys
    `stored_keys`, in the order of `join_keys`, and its features as `stored_names` says. Empty means the same.
    """

    name: str
    join_keys: list[str]
    ttl_seconds: int
    features: dict[str, ValueType]
    missing: str
    when_missing: Literal["null", "default", "reject"] = "null"
    defaults: dict[str, float | str] = {}
    view: str = ""
    stored_keys: list[str] = []
    stored_names: dict[str, str] = {}

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit what is usual, a policy or another name that a view does not have: older contracts keep their hash."""
        usual = {"when_missing": "null", "defaults": {}, "view": "", "stored_keys": [], "stored_names": {}}
        return _without(handler(self), usual)

    @property
    def source(self) -> str:
        """The name of the view in the feature store."""
        return self.view or self.name

    @property
    def key_of(self) -> dict[str, str]:
        """By join key of the view in the feature store, the join key of the service that it is found by."""
        return dict(zip(self.stored_keys or self.join_keys, self.join_keys, strict=True))

    @property
    def stored(self) -> dict[str, str]:
        """By feature, its name in the feature store."""
        return {name: self.stored_names.get(name, name) for name in self.features}


class OnDemandView(Part):
    """A feature view computed from the request and stored features, by code whose text has this hash.

    `inputs` are the names that the code reads; `read_as` are other names that the service has for some of them.
    """

    name: str
    code_sha256: str
    inputs: list[str]
    features: dict[str, ValueType]
    read_as: dict[str, str] = {}

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit other names where there are none: older contracts keep their hash."""
        return _without(handler(self), {"read_as": {}})

    @property
    def reads(self) -> dict[str, str]:
        """By input, the request field or the feature of the service that it is."""
        return {name: self.read_as.get(name, name) for name in self.inputs}


class ModelInput(Part):
    """One model input, in order. `source` is a view's name, or `request` for a join key used as a category."""

    name: str
    dtype: ValueType
    source: str


class FeatureInterface(Part):
    """All that a feature service asks of a request and of the feature store, in the order the model takes it.

    `task` says what the label asks of a model (fti/contract/task.py), `unit` in what a number to be predicted counts.
    """

    feature_service: str
    inputs: list[ModelInput]
    join_keys: list[JoinKey]
    request_fields: list[RequestField]
    stored_views: list[StoredView]
    on_demand_views: list[OnDemandView]
    spine_view: str
    label_view: str
    label: str
    label_definition: str
    prediction_anchor: str
    prediction_lead_minutes: int
    task: Task = "classification"
    unit: str | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the task that all had before there was another: contracts from then keep their hash."""
        return _without(handler(self), {"task": CLASSIFICATION, "unit": None})

    @property
    def full_names(self) -> bool:
        """Whether two views have features of one name, which are then called VIEW__FEATURE."""
        return any(view.stored_names for view in self.stored_views)

    @property
    def categories(self) -> list[str]:
        """The inputs that are no numbers to count with: keys of the request, and features that are text."""
        return [one.name for one in self.inputs if one.source == "request" or one.dtype == "string"]

    @property
    def key_categories(self) -> list[str]:
        """The join keys among the categories."""
        return [model_input.name for model_input in self.inputs if model_input.source == "request"]

    @property
    def request_inputs(self) -> list[str]:
        """The inputs that need no stored feature: keys of the request, and on-demand features of the request alone."""
        fields = {field.name for field in self.request_fields}
        alone = {view.name for view in self.on_demand_views if set(view.inputs) <= fields} | {"request"}
        return [model_input.name for model_input in self.inputs if model_input.source in alone]

    def settled(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of joined features as their views' `when_missing` wants them: serving does the same to each request."""
        rows = self.filled(rows)
        return rows[self.answered(rows)].reset_index(drop=True)

    def filled(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows with the defaults of their views for what is null.

        An infinite input is unknown, as a null is: no model can be fitted to it.
        """
        rows = self._finite(rows)
        for view in self.stored_views:
            if view.when_missing == "default":
                rows = rows.assign(**{name: _filled(rows[name], default) for name, default in view.defaults.items()})
        return rows

    def answered(self, rows: pd.DataFrame) -> pd.Series:
        """Whether the model answers each row: not without a view that is declared `when_missing: reject`."""
        known = pd.Series(True, rows.index)
        for view in self.stored_views:
            if view.when_missing == "reject":
                known &= rows[self.taken_from(view)].notna().any(axis=1)
        return known

    def _finite(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows with a null for each input that is infinite; the log says how many."""
        finite = {}
        for model_input in self.inputs:
            values = rows[model_input.name]
            if not pd.api.types.is_float_dtype(values.dtype):
                continue
            # `isin` takes ten times as long, of one row as of a thousand.
            if (infinite := np.isinf(values.to_numpy("float64", na_value=np.nan))).any():
                logger.warning(
                    "%s: %d of %d value(s) are infinite; they count as unknown",
                    model_input.name, infinite.sum(), len(values),
                )  # fmt: skip
                finite[model_input.name] = values.mask(infinite)
        return rows.assign(**finite)

    def taken_from(self, view: StoredView) -> list[str]:
        """The features of a view that the model takes as they are; on-demand code may read more of them."""
        return [model_input.name for model_input in self.inputs if model_input.source == view.name]

    def model_inputs(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The columns a model takes, in its order: categories as text or None, all else as float64, NaN for null."""
        columns = {
            model_input.name: rows[model_input.name].astype(object).where(rows[model_input.name].notna(), None)
            if model_input.dtype == "string"
            else rows[model_input.name].astype("float64")
            for model_input in self.inputs
        }
        return pd.DataFrame(columns, index=rows.index)


def _filled(values: pd.Series, default: float | str) -> pd.Series:
    """A column with `default` for each null: of whole numbers or booleans, in their type if that has the default."""
    if isinstance(default, str) or not pd.api.types.is_extension_array_dtype(values.dtype):
        return values.fillna(default)
    try:
        return values.fillna(bool(default) if default in (0, 1) and values.dtype == "boolean" else default)
    except (TypeError, ValueError, OverflowError):  # half a unit, of a feature that has only whole ones, or too many
        return values.astype("float64").fillna(default)
