"""What a feature service in the Feast registry asks of a request and of the feature store: a FeatureInterface."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection
from textwrap import dedent
from typing import TYPE_CHECKING, Any

from fti.contract.interface import (
    ContractBroken,
    FeatureInterface,
    JoinKey,
    ModelInput,
    OnDemandView,
    RequestField,
    StoredView,
    ValueType,
)
from fti.contract.task import CLASSIFICATION, REGRESSION, TASKS, Task

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore, FeatureView


def read_interface(store: FeatureStore, feature_service: str, recorded: Collection[str] = ()) -> FeatureInterface:
    """The interface of a feature service; `recorded` are hashes of code that a contract to compare with has.

    Raises feast.errors.FeatureServiceNotFoundException, and ContractBroken for tags that say nothing known.
    """
    service = store.get_feature_service(feature_service)
    on_demand_names = {view.name for view in store.list_on_demand_feature_views()}
    wanted: dict[str, dict[str, ValueType]] = {}
    inputs: list[ModelInput] = []
    for projection in service.feature_view_projections:
        for feature in projection.features:
            inputs.append(ModelInput(name=feature.name, dtype=_dtype(feature.dtype), source=projection.name))
            wanted.setdefault(projection.name, {})[feature.name] = _dtype(feature.dtype)
    on_demand = [_on_demand(store, name, wanted, recorded) for name in list(wanted) if name in on_demand_names]
    taken = {model_input.name for model_input in inputs}
    stored = [_stored(store, name, wanted[name], taken) for name in wanted if name not in on_demand_names]
    keys = _join_keys(store, [key for view in stored for key in view.join_keys])
    categories = _categories(service, [key.name for key in keys])
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


def _categories(service: FeatureService, keys: list[str]) -> list[str]:
    """The join keys that a model takes as categories, named by the service's tag `key_features`."""
    named = [name.strip() for name in service.tags.get("key_features", "").split(",") if name.strip()]
    if strangers := sorted({*named} - {*keys}):
        raise ContractBroken(
            f"Feature service {service.name!r} has the tag key_features={service.tags['key_features']!r}; {strangers} "
            f"are no join keys of its feature views, which are {keys}."
        )
    return named


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


def _on_demand(
    store: FeatureStore, name: str, wanted: dict[str, dict[str, ValueType]], recorded: Collection[str]
) -> OnDemandView:
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
    code = view.feature_transformation.udf_string
    digest, of_before = (hashlib.sha256(text.encode()).hexdigest() for text in (_function(code), code))
    return OnDemandView(
        name=name,
        code_sha256=of_before if of_before in recorded else digest,  # contracts from then keep their hash
        inputs=sorted(inputs),
        features=wanted[name],
    )


def _function(code: str) -> str:
    """A function less what decorates it: Feast keeps both as one text, and who words a description anew in the
    decorator changes nothing that is computed. Its sources and schema are in the contract by themselves."""
    try:
        (function,) = ast.parse(dedent(code)).body
    except (SyntaxError, ValueError):  # not one function: all of it counts
        return code
    return "\n".join(code.split("\n")[function.lineno - 1 : function.end_lineno])


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
