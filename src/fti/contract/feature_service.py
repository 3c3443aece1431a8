"""What a feature service in the Feast registry asks of a request and of the feature store: a FeatureInterface."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fti.contract.interface import (
    ContractBroken,
    FeatureInterface,
    ModelInput,
    OnDemandView,
    StoredView,
    ValueType,
)
from fti.contract.request import entities_of, join_key, request_fields, value_type
from fti.contract.stored_code import digests_of, require_checked
from fti.contract.task import CLASSIFICATION, REGRESSION, TASKS, Task
from fti.errors import few

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore, FeatureView
    from feast.on_demand_feature_view import OnDemandFeatureView


@dataclass(frozen=True)
class Read:
    """A view as a feature service reads it: its name and features in the store, and the keys in place of its own."""

    view: str
    key_map: Mapping[str, str]
    features: dict[str, ValueType]


def read_interface(store: FeatureStore, feature_service: str, recorded: Collection[str] = ()) -> FeatureInterface:
    """The interface of a feature service; `recorded` are hashes of code that a contract to compare with has.

    Raises feast.errors.FeatureServiceNotFoundException, and ContractBroken for tags that say nothing known and for
    code that is not to be run.
    """
    if not recorded:  # else whoever has a contract has checked the code against it
        require_checked(store, feature_service)
    service = store.get_feature_service(feature_service)
    on_demand_names = {view.name for view in store.list_on_demand_feature_views()}
    code = [
        store.get_on_demand_feature_view(name)
        for name in dict.fromkeys(one.name for one in service.feature_view_projections)
        if name in on_demand_names
    ]
    taken = _taken(service, on_demand_names, _needs_names(service, code))
    wanted = {name: Read(read.view, read.key_map, dict(read.features)) for name, read in taken.items()}
    for view in code:
        for name, features in _sources(view):
            wanted.setdefault(name, Read(name, {}, {})).features.update(features)
    stored_reads = {name: read for name, read in wanted.items() if name not in on_demand_names}
    names = _names(stored_reads)
    inputs = [
        ModelInput(name=names.get((view, feature), feature), dtype=dtype, source=view)
        for view, read in taken.items()
        for feature, dtype in read.features.items()
    ]
    on_demand = [_on_demand(view, wanted[view.name].features, names, recorded) for view in code]
    stored = [
        _stored(store, name, read, names, taken[name].features if name in taken else {})
        for name, read in stored_reads.items()
    ]
    entities = entities_of(store, stored)
    keys = [join_key(name, entity) for name, entity in entities.items()]
    categories = _categories(service, [key.name for key in keys])
    inputs += [ModelInput(name=key.name, dtype=key.dtype, source="request") for key in keys if key.name in categories]
    spine, label = store.get_feature_view(service.tags["spine"]), store.get_feature_view(service.tags["label"])
    task, unit = _task_of(label)
    return FeatureInterface(
        feature_service=feature_service,
        inputs=inputs,
        join_keys=keys,
        request_fields=request_fields(entities, keys, code),
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
            f"Feature service {service.name!r} has the tag key_features={service.tags['key_features']!r}; "
            f"{few(strangers)} are no join keys of its feature views, which are {few(keys)}."
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


def _needs_names(service: FeatureService, code: list[OnDemandFeatureView]) -> bool:
    """Whether the names that a service gives to views tell anything apart. Others are left out of its contract, as they
    were of older ones."""
    computed = {view.name for view in code}
    stored = [one for one in service.feature_view_projections if one.name not in computed]
    called = {(one.name, one.name_to_use()) for one in stored}
    features = {(one.name, feature.name) for one in stored for feature in one.features}
    features |= {(name, feature) for view in code for name, read in _sources(view) for feature in read}
    return (
        any(one.join_key_map for one in stored)
        or len(called) > len({name for name, _ in called})
        or len(features) > len({feature for _, feature in features})
    )


def _taken(service: FeatureService, on_demand_names: Collection[str], by_names: bool) -> dict[str, Read]:
    """What a model takes of each view, by the name that the service calls it (`by_names`), or else by its own."""
    reads: dict[str, Read] = {}
    for projection in service.feature_view_projections:
        own = not by_names or projection.name in on_demand_names
        name = projection.name if own else projection.name_to_use()
        read = reads.setdefault(name, Read(projection.name, dict(projection.join_key_map), {}))
        read.features.update({feature.name: value_type(feature.dtype) for feature in projection.features})
    return reads


def _sources(view: OnDemandFeatureView) -> list[tuple[str, dict[str, ValueType]]]:
    """The stored features that on-demand code reads, by view.

    In the registry its sources are a map of protobuf, which has another order in every process: here they are sorted.
    """
    sources = sorted(view.source_feature_view_projections.items())
    return [(one.name, {field.name: value_type(field.dtype) for field in one.features}) for _, one in sources]


def _names(reads: Mapping[str, Read]) -> dict[tuple[str, str], str]:
    """What the model calls each stored feature, by view and feature: its own name, or VIEW__FEATURE if two share it."""
    count = Counter(feature for read in reads.values() for feature in read.features)
    return {
        (view, feature): feature if count[feature] == 1 else f"{view}__{feature}"
        for view, read in reads.items()
        for feature in read.features
    }


def _stored(
    store: FeatureStore, name: str, read: Read, names: Mapping[tuple[str, str], str], taken: Collection[str]
) -> StoredView:
    """Describe a stored view of which a service reads some features, and a model takes those that are in `taken`."""
    view = store.get_feature_view(read.view)
    when_missing: Any = view.tags.get("when_missing", "null")
    declared = {field.name: field.tags.get("default") for field in view.features if field.name in taken}
    if when_missing not in {"null", "default", "reject"} or (when_missing != "null" and not declared):
        raise ContractBroken(
            f"Feature view {view.name!r} has the tag when_missing={when_missing!r}; expected null, default or reject, "
            "the latter two only where a feature service takes features of the view itself."
        )
    defaults: dict[str, float | str] = {}
    for feature, default in declared.items() if when_missing == "default" else ():
        dtype = read.features[feature]
        try:
            defaults[names[name, feature]] = _text(default) if dtype == "string" else _finite(default or "")
        except ValueError as error:
            raise ContractBroken(
                f"Feature view {view.name!r} has the tag when_missing='default', so its field {feature!r} needs a tag "
                f"`default` of type {dtype}; found {default!r}."
            ) from error
    stored_keys = [column.name for column in view.entity_columns]
    join_keys = [read.key_map.get(key, key) for key in stored_keys]
    called = {names[name, feature]: feature for feature in read.features}
    return StoredView(
        name=name,
        join_keys=join_keys,
        ttl_seconds=int(view.ttl.total_seconds()) if view.ttl else 0,
        features={of_model: read.features[feature] for of_model, feature in called.items()},
        missing=view.tags.get("missing", f"no row in {view.name}"),
        when_missing=when_missing,
        defaults=defaults,
        view=view.name if name != view.name else "",
        stored_keys=stored_keys if stored_keys != join_keys else [],
        stored_names={of_model: feature for of_model, feature in called.items() if of_model != feature},
    )


def _text(default: str | None) -> str:
    """The text, which may be empty. Raises ValueError where there is none."""
    if default is None:
        raise ValueError("no tag")
    return default


def _finite(text: str) -> float:
    """The number; NaN and infinity are none that a model could take. Raises ValueError."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _on_demand(
    view: OnDemandFeatureView, features: dict[str, ValueType], names: Mapping[tuple[str, str], str],
    recorded: Collection[str],
) -> OnDemandView:  # fmt: skip
    """Describe an on-demand view of which a service takes `features`."""
    inputs = [field.name for _, source in sorted(view.source_request_sources.items()) for field in source.schema]
    read = {feature: names[name, feature] for name, source in _sources(view) for feature in source}
    assert view.feature_transformation is not None  # a view in the registry has its code
    digest, of_before = digests_of(view.feature_transformation.udf_string)
    return OnDemandView(
        name=view.name,
        code_sha256=of_before if of_before in recorded else digest,  # contracts from then keep their hash
        inputs=sorted([*inputs, *read]),
        features=features,
        read_as={feature: name for feature, name in sorted(read.items()) if feature != name},
    )
