"""Whether a feature service means the same in training and serving: its definition in; what is wrong, a line each, out.

`plan` and `apply` ask this of every feature service before anything is written, training of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fti.contract.feature_service import read_interface
from fti.contract.interface import ContractBroken, FeatureInterface
from fti.contract.on_demand import ARROW, trial
from fti.contract.sound_views import INPUTS, of_code, of_entities, of_label, of_online, of_spine, of_stored
from fti.contract.spine import PREDICTION_TIME
from fti.errors import Refusal

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore, FeatureView
    from feast.on_demand_feature_view import OnDemandFeatureView


class DefinitionUnsound(Refusal):
    """A definition says what training, serving, batch and monitoring cannot all do alike."""


def require_sound(store: FeatureStore, services: Collection[str]) -> None:
    """Raise DefinitionUnsound, a line a problem, if a feature service has any."""
    if lines := list(dict.fromkeys(line for name in services for line in problems(store, name))):
        raise DefinitionUnsound("\n".join(lines))


def require_storable(store: FeatureStore) -> None:
    """Raise DefinitionUnsound, a line a field, if a view has fields that Feast cannot put online as they are.

    Of views that no service reads, as spines and labels are, the seconds of a time will do.
    """
    views = sorted(store.list_feature_views(), key=lambda view: str(view.name))
    if lines := [line for view in views for line in of_online(view, (*INPUTS, "unix_timestamp"))]:
        raise DefinitionUnsound("\n".join(lines))


def problems(store: FeatureStore, name: str) -> list[str]:
    """What is wrong with a feature service's definition, a line each: object, what was found, expected, and the fix."""
    service = store.get_feature_service(name)
    stored = {view.name: view for view in store.list_feature_views()}
    code = {view.name: view for view in store.list_on_demand_feature_views()}
    lines = list(_of_service(service, stored, code))
    if lines:  # the rest asks about what is not there
        return lines
    mine = [code[one.name] for one in service.feature_view_projections if one.name in code]
    read = {one.name for one in service.feature_view_projections} | {
        source for view in mine for source in view.source_feature_view_projections
    }
    lines += [*of_inputs(service), *(line for view in mine for line in of_code(view))]
    lines += [line for each in sorted(read & stored.keys()) for line in of_stored(stored[each])]
    spine, label = stored[service.tags["spine"]], stored[service.tags["label"]]
    lines += [*of_spine(spine), *of_label(label, spine)]
    keys = {key for each in read & stored.keys() for key in stored[each].join_keys}
    lines += of_entities(store.list_entities(), keys)
    if lines:
        return lines
    try:
        interface = read_interface(store, name)
    except ContractBroken as error:
        return [str(error)]
    except (LookupError, ValueError, ValidationError) as error:
        return [f"Feature service {name!r} cannot be described ({type(error).__name__}: {error})."]
    lines += [*_of_names(interface, spine), *_of_requests(interface, spine)]
    return lines or [line for view in mine if (line := trial(view))]


# ---- what a service names -------------------------------------------------------------------------------------------


def _of_service(
    service: FeatureService, stored: dict[str, FeatureView], code: dict[str, OnDemandFeatureView]
) -> Iterator[str]:
    who = f"Feature service {service.name!r}"
    for role, what in (("spine", "the rows to predict"), ("label", "their outcomes")):
        view = service.tags.get(role)
        if view not in stored:
            found = f"the tag {role}={view!r}, which is no feature view" if view else f"no tag {role!r}"
            yield f'{who} has {found}. Let tags={{"{role}": ...}} name the feature view that has {what}.'
    if not any(one.features for one in service.feature_view_projections):
        yield f"{who} takes no features, so there is nothing to fit a model to. Let `features` list at least one."
    reads: dict[str, tuple[str, dict[str, str]]] = {}  # by the name that the service has for a view, view and key map

    def twice(name: str, view: str, key_map: dict[str, str]) -> Iterator[str]:
        known = reads.setdefault(name, (view, key_map))
        if known != (view, key_map):
            (one, by), (other, others) = known, (view, key_map)
            yield (
                f"{who} reads as {name!r} both {one!r}, by the key map {by}, and {other!r}, by {others}; on-demand "
                "code reads a view by its own name and keys. Give the view of another key its own name: `with_name`."
            )

    for one in service.feature_view_projections:
        if one.version_tag is not None:
            yield f"{who} reads version {one.version_tag} of {one.name!r}; only the latest is served. Leave it out."
        elif one.name in code:
            if one.name_alias:
                yield f"{who} calls on-demand view {one.name!r} {one.name_alias!r}. Take it without `with_name`."
            for source in [one.name, *code[one.name].source_feature_view_projections]:
                yield from twice(source, source, {})
        elif one.name not in stored:
            yield f"{who} reads {one.name!r}; expected a plain FeatureView, or an on-demand one: no other is served."
        else:
            yield from _of_key_map(who, one, stored[one.name])
            yield from twice(one.name_to_use(), one.name, dict(one.join_key_map))


def _of_key_map(who: str, projection: Any, view: FeatureView) -> Iterator[str]:
    if strangers := sorted({*projection.join_key_map} - {*view.join_keys}):
        yield (
            f"{who} maps {strangers} of view {view.name!r}, which Feast ignores: its join keys are {view.join_keys}. "
            "Let `with_join_key_map` go from join keys of the view to those of the request."
        )


# ---- what a model takes ---------------------------------------------------------------------------------------------


def of_inputs(service: FeatureService) -> Iterator[str]:
    """Features of types that no model takes."""
    for view in service.feature_view_projections:
        for feature in view.features:
            kind = feature.dtype.to_value_type().name.lower()
            if kind not in INPUTS:
                yield (
                    f"Feature service {service.name!r} takes {feature.name!r} of view {view.name!r}, which is of type "
                    f"{kind}; a model takes {', '.join(INPUTS)}. Store what it says as one of those, in several "
                    "features if need be."
                )


def _of_names(interface: FeatureInterface, spine: FeatureView) -> Iterator[str]:
    """Names that mean two things in one row. Two stored views may share a feature's name, which is then a full one."""
    rows = {*spine.join_keys, *(field.name for field in spine.features), interface.label, PREDICTION_TIME}
    rows |= {field.name for field in interface.request_fields} | {key.name for key in interface.join_keys}
    stored = [name for view in interface.stored_views for name in {*view.features, *view.stored.values()}]
    computed = [name for view in interface.on_demand_views for name in view.features]
    twice = {name for name, count in Counter(computed).items() if count > 1} | {*computed} & {*stored}
    for name in sorted(twice | rows & {*stored, *computed}):
        what = "a column of its spine, its label or a request" if name in rows else "another feature"
        yield (
            f"Feature service {interface.feature_service!r} reads a feature {name!r}, also the name of {what}. "
            "Give it a name of its own."
        )


def _of_requests(interface: FeatureInterface, spine: FeatureView) -> Iterator[str]:
    fields, columns = {field.name: field for field in interface.request_fields}, {*spine.join_keys}
    columns |= {field.name for field in spine.features}
    for name, field in fields.items():
        if name not in columns:
            yield (
                f"Feature service {interface.feature_service!r} needs the request field {name!r}, which its spine "
                f"{spine.name!r} lacks; it has {sorted(columns)}. Add it to the spine."
            )
        if field.dtype not in ARROW:
            yield f"Request field {name!r} is a {field.dtype}; expected one of {', '.join(ARROW)}."
    for key in interface.join_keys:
        expected = "unix_timestamp" if key.floor_seconds else key.dtype
        if fields[key.request_field].dtype != expected:
            yield (
                f"Join key {key.name!r} is made of the request field {key.request_field!r}, a "
                f"{fields[key.request_field].dtype}; expected {expected}. Give both the same type."
            )
