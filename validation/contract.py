"""The feature contract: what a model version needs from the feature store, written by training, verified by serving.

Training reads the interface of a feature service from the Feast registry and records it with the model. Serving builds
its request schema, its feature reads and the order of model inputs from that record, after checking that the live
registry still means the same by it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from validation.errors import Refusal
from validation.task import CLASSIFICATION, REGRESSION, TASKS, Task

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView
    from mlflow.entities.model_registry import ModelVersion

FILE_NAME = "feature_contract.json"
GOLDEN_NAME = "golden.json"  # model inputs and what the model said of them in training, beside the contract
GOLDEN_SAID: dict[Task, str] = {"classification": "probabilities", "regression": "predictions"}
SERVICE_TAG = "feast.feature_service"
DIGEST_TAG = "feature_contract.sha256"
MODEL_DIGEST_TAG = "model.sha256"
CAUSE_TAG = "training.cause"
# What the gate said of a version, against which champion, and why.
DECISION_TAG, AGAINST_TAG, REASONS_TAG = "gate.decision", "gate.against", "gate.reasons"
# MLflow writes this one into the folder of a model once it is registered.
WRITTEN_LATER = "registered_model_meta"
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
        return (values - EPOCH) // pd.Timedelta(seconds=self.floor_seconds)


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
    """

    name: str
    join_keys: list[str]
    ttl_seconds: int
    features: dict[str, ValueType]
    missing: str
    when_missing: Literal["null", "default", "reject"] = "null"
    defaults: dict[str, float | str] = {}

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the policy of a view that has none: contracts from before there were any keep their hash."""
        return _without(handler(self), {"when_missing": "null", "defaults": {}})


class OnDemandView(Part):
    """A feature view computed from the request and stored features, by code whose text has this hash."""

    name: str
    code_sha256: str
    inputs: list[str]
    features: dict[str, ValueType]


class ModelInput(Part):
    """One model input, in order. `source` is a view's name, or `request` for a join key used as a category."""

    name: str
    dtype: ValueType
    source: str


class FeatureInterface(Part):
    """All that a feature service asks of a request and of the feature store, in the order the model takes it.

    `task` says what the label asks of a model (validation/task.py), `unit` in what a number to be predicted counts.
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

    @classmethod
    def from_registry(cls, store: FeatureStore, feature_service: str) -> FeatureInterface:
        """Read the interface of a feature service. Raises feast.errors.FeatureServiceNotFoundException."""
        return _read_interface(store, feature_service)

    @property
    def categories(self) -> list[str]:
        return [model_input.name for model_input in self.inputs if model_input.source == "request"]

    @property
    def request_inputs(self) -> list[str]:
        """The inputs that need no stored feature: categories, and on-demand features of the request alone."""
        fields = {field.name for field in self.request_fields}
        alone = {view.name for view in self.on_demand_views if set(view.inputs) <= fields} | {"request"}
        return [model_input.name for model_input in self.inputs if model_input.source in alone]

    def settled(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of joined features as their views' `when_missing` wants them: serving does the same to each request."""
        for view in self.stored_views:
            if view.when_missing == "default":
                rows = rows.fillna(view.defaults)
            elif view.when_missing == "reject":
                rows = rows[rows[self.taken_from(view)].notna().any(axis=1)]
        return rows.reset_index(drop=True)

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


class TrainingSet(Part):
    """Which rows a model was fitted to: half-open range of prediction times, and the exact tables they came from."""

    as_of: datetime
    start: datetime
    end: datetime
    rows: int
    sha256: str
    delta_versions: dict[str, int]


class FeatureContract(Part):
    """A model version's complete statement of the features it takes.

    `known_values` lists, for each join key whose unknown values are rejected, those that training saw.
    `example_request` is a real request that the registered model can answer.
    """

    contract_version: Literal[1] = 1
    interface: FeatureInterface
    known_values: dict[str, list[str] | list[int]]
    training_set: TrainingSet
    example_request: dict[str, Any]

    def canonical(self) -> str:
        """The one JSON text of this contract: sorted keys, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def verify(self, store: FeatureStore) -> None:
        """Check that the live registry means the same by this contract's feature service. Raises ContractBroken."""
        from feast.errors import FeastObjectNotFoundException

        name = self.interface.feature_service
        try:
            live = FeatureInterface.from_registry(store, name)
        except FeastObjectNotFoundException as error:
            raise ContractBroken(
                f"Feature service {name!r} of the contract is not in the Feast registry: {error}. "
                "Restore its definition and run `feast -c feature_repo apply`."
            ) from error
        found = differences(self.interface, live)
        if found:
            raise ContractBroken(
                f"Feature service {name!r} has changed since the model was trained: {'; '.join(found)}. A feature "
                "service never changes: put the old definition back, give the new one a new name, and run "
                "`feast -c feature_repo apply`."
            )


def fetch_version(version: ModelVersion, into: Path | None = None) -> tuple[Path, FeatureContract]:
    """Fetch a registered version's artifacts; returns their folder and the contract in it.

    `into` is a folder that the caller removes; without one they stay for as long as this process.
    Raises ContractBroken when there is none, or when a file is not as the version was registered: nothing of the model
    is to be loaded then, for what a model's files say decides which code runs.
    """
    from mlflow.artifacts import download_artifacts

    named = f"{version.name} version {version.version}"
    folder = Path(download_artifacts(version.source, dst_path=str(into or mkdtemp(dir=_fetched().name))))
    file = folder / "extra_files" / FILE_NAME
    if not file.is_file():
        raise ContractBroken(f"{named} carries no {FILE_NAME}; it was not registered by this training pipeline.")
    try:
        contract = FeatureContract.model_validate_json(file.read_text())
    except ValidationError as error:
        raise ContractBroken(f"The {FILE_NAME} of {named} cannot be read: {error.errors()[0]['msg']}.") from error
    if contract.sha256 != version.tags.get(DIGEST_TAG):
        raise ContractBroken(
            f"The {FILE_NAME} of {named} has sha256 {contract.sha256}, but the version was registered with "
            f"{version.tags.get(DIGEST_TAG)}: it was changed since. Train and register again."
        )
    if (found := folder_sha256(folder)) != version.tags.get(MODEL_DIGEST_TAG):
        raise ContractBroken(
            f"The files of {named} have sha256 {found}, but the version was registered with "
            f"{version.tags.get(MODEL_DIGEST_TAG)}: the model was changed since. Nothing of it was loaded; find out by "
            "whom, then train and register again."
        )
    return folder, contract


@cache
def _fetched() -> TemporaryDirectory[str]:
    """MLflow leaves behind what it downloads; this goes when the process ends."""
    return TemporaryDirectory(prefix="models-")


def folder_sha256(folder: Path) -> str:
    """A hash over the names and bytes of all files of a model's folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != WRITTEN_LATER):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


# Words for people: a changed description does not change what a model gets.
WORDS = {"description", "missing", "noun"}


def differences(recorded: BaseModel, live: BaseModel) -> list[str]:
    """What differs between two interfaces, one line each: path, recorded value, live value."""
    lines: list[str] = []

    def compare(path: str, old: Any, new: Any) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for key in sorted({*old, *new} - WORDS):
                compare(f"{path}.{key}" if path else key, old.get(key), new.get(key))
        elif isinstance(old, list) and isinstance(new, list) and _named(old) and _named(new):
            if [entry["name"] for entry in old] != [entry["name"] for entry in new]:
                names = [entry["name"] for entry in old], [entry["name"] for entry in new]
                lines.append(f"{path}: recorded {names[0]}, now {names[1]}")
            else:
                for one, other in zip(old, new, strict=True):
                    compare(f"{path}.{one['name']}", one, other)
        elif old != new:
            lines.append(f"{path}: recorded {old!r}, now {new!r}")

    compare("", recorded.model_dump(mode="json"), live.model_dump(mode="json"))
    return lines


def _named(entries: list[Any]) -> bool:
    return all(isinstance(entry, dict) and "name" in entry for entry in entries)


def _read_interface(store: FeatureStore, feature_service: str) -> FeatureInterface:
    service = store.get_feature_service(feature_service)
    on_demand_names = {view.name for view in store.list_on_demand_feature_views()}
    wanted: dict[str, dict[str, ValueType]] = {}
    inputs: list[ModelInput] = []
    for projection in service.feature_view_projections:
        for feature in projection.features:
            inputs.append(ModelInput(name=feature.name, dtype=_dtype(feature.dtype), source=projection.name))
            wanted.setdefault(projection.name, {})[feature.name] = _dtype(feature.dtype)
    on_demand = [_on_demand(store, name, wanted) for name in list(wanted) if name in on_demand_names]
    taken = {model_input.name for model_input in inputs}
    stored = [_stored(store, name, wanted[name], taken) for name in wanted if name not in on_demand_names]
    keys = _join_keys(store, [key for view in stored for key in view.join_keys])
    categories = [name for name in service.tags.get("key_features", "").split(",") if name]
    inputs += [ModelInput(name=key.name, dtype=key.dtype, source="request") for key in keys if key.name in categories]
    spine, label = store.get_feature_view(service.tags["spine"]), store.get_feature_view(service.tags["label"])
    task, unit = _task_of(label)
    return FeatureInterface(
        feature_service=feature_service,
        inputs=inputs,
        join_keys=keys,
        request_fields=_request_fields(store, keys, [view.name for view in on_demand]),
        stored_views=stored,
        on_demand_views=on_demand,
        spine_view=spine.name,
        label_view=label.name,
        label=label.tags["label"],
        label_definition=label.tags["definition"],
        prediction_anchor=spine.tags["prediction_anchor"],
        prediction_lead_minutes=int(spine.tags["prediction_lead_minutes"]),
        task=task,
        unit=unit,
    )


def _task_of(label: FeatureView) -> tuple[Task, str | None]:
    """What a label view's tag `task` says, and of a number the tag `unit` of its field."""
    task: Any = label.tags.get("task", CLASSIFICATION)
    if task not in TASKS:
        raise ContractBroken(
            f"Feature view {label.name!r} has the tag task={task!r}; expected one of {', '.join(TASKS)}, or no such "
            "tag for a label that is 0 or 1."
        )
    units = (field.tags.get("unit") for field in label.features if field.name == label.tags["label"])
    return task, next(units, None) if task == REGRESSION else None


def _dtype(dtype: Any) -> ValueType:
    return dtype.to_value_type().name.lower()


def _stored(store: FeatureStore, name: str, features: dict[str, ValueType], taken: Collection[str]) -> StoredView:
    """Describe a stored view of which a service reads `features`, and a model takes those that are in `taken`."""
    view = store.get_feature_view(name)
    when_missing: Any = view.tags.get("when_missing", "null")
    own = features.keys() & taken
    declared = {field.name: field.tags.get("default") for field in view.features if field.name in own}
    if when_missing not in {"null", "default", "reject"} or (when_missing != "null" and not declared):
        raise ContractBroken(
            f"Feature view {name!r} has the tag when_missing={when_missing!r}; expected null, default or reject, the "
            "latter two only where a feature service takes features of the view itself."
        )
    defaults: dict[str, float | str] = {}
    for feature, default in declared.items() if when_missing == "default" else ():
        try:
            defaults[feature] = str(default or "") if features[feature] == "string" else float(default or "")
        except ValueError as error:
            raise ContractBroken(
                f"Feature view {name!r} has the tag when_missing='default', so its field {feature!r} needs a tag "
                f"`default` of type {features[feature]}; found {default!r}."
            ) from error
    return StoredView(
        name=name,
        join_keys=[column.name for column in view.entity_columns],
        ttl_seconds=int(view.ttl.total_seconds()) if view.ttl else 0,
        features=features,
        missing=view.tags.get("missing", f"no row in {name}"),
        when_missing=when_missing,
        defaults=defaults,
    )


def _on_demand(store: FeatureStore, name: str, wanted: dict[str, dict[str, ValueType]]) -> OnDemandView:
    """Describe an on-demand view, and add the stored features that its code reads to `wanted`.

    In the registry its sources are a map of protobuf, which has another order in every process: here they are sorted.
    """
    view = store.get_on_demand_feature_view(name)
    inputs = [field.name for _, source in sorted(view.source_request_sources.items()) for field in source.schema]
    for _, projection in sorted(view.source_feature_view_projections.items()):
        for feature in projection.features:
            inputs.append(feature.name)
            wanted.setdefault(projection.name, {})[feature.name] = _dtype(feature.dtype)
    assert view.feature_transformation is not None  # a view in the registry has its code
    code = _function(view.feature_transformation.udf_string)
    return OnDemandView(
        name=name,
        code_sha256=hashlib.sha256(code.encode()).hexdigest(),
        inputs=sorted(inputs),
        features=wanted[name],
    )


def _function(code: str) -> str:
    """A function less what decorates it: Feast keeps both as one text, and who words a description anew in the
    decorator changes nothing that is computed. The rest of the decorator is in the contract by itself."""
    try:
        (function,) = ast.parse(dedent(code)).body
    except (SyntaxError, ValueError):  # not one function: all of it counts
        return code
    return "\n".join(code.splitlines()[function.lineno - 1 : function.end_lineno])


def _join_keys(store: FeatureStore, names: list[str]) -> list[JoinKey]:
    entities = {entity.join_key: entity for entity in store.list_entities()}
    return [
        JoinKey(
            name=name,
            dtype=entities[name].value_type.name.lower(),
            request_field=entities[name].tags.get("from_request", name),
            floor_seconds=int(floor) if (floor := entities[name].tags.get("floor_seconds")) else None,
            optional=entities[name].tags.get("optional") == "true",
            unknown=entities[name].tags.get("unknown", "warn"),
            noun=entities[name].tags.get("noun", name),
        )
        for name in dict.fromkeys(names)
    ]


def _request_fields(store: FeatureStore, keys: list[JoinKey], on_demand_views: list[str]) -> list[RequestField]:
    """The fields that keys come from and that on-demand code reads, each once."""
    entities = {entity.join_key: entity for entity in store.list_entities()}
    fields = {
        key.request_field: RequestField(
            name=key.request_field,
            dtype=key.dtype,
            required=not key.optional,
            description=entities[key.name].description,
        )
        for key in keys
        if key.floor_seconds is None
    }
    for name in on_demand_views:
        for _, source in sorted(store.get_on_demand_feature_view(name).source_request_sources.items()):
            for field in source.schema:
                fields[field.name] = RequestField(
                    name=field.name, dtype=_dtype(field.dtype), required=True, description=field.description
                )
    missing = [key.request_field for key in keys if key.request_field not in fields]
    if missing:
        raise ContractBroken(f"Join keys come from request field(s) {missing}, which no request source declares.")
    return list(fields.values())
