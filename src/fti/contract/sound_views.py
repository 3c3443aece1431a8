"""Whether views and entities can be trained on and served alike: definitions in; what is wrong, a line each, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from fti.contract.on_demand import ARROW, input_types, stored_types

if TYPE_CHECKING:
    from feast import Entity, FeatureView
    from feast.on_demand_feature_view import OnDemandFeatureView

NUMBERS = ("double", "float", "int64", "int32", "bool")
INPUTS = (*NUMBERS, "string")  # text as a category
KEYS = ("string", "int64", "int32")
SPINE_TAGS = ("prediction_anchor", "prediction_lead_minutes")
LABEL_TAGS = ("label", "definition")


def of_code(view: OnDemandFeatureView) -> Iterator[str]:
    who = f"On-demand view {view.name!r}"
    if view.mode not in ("python", "pandas"):
        yield f"{who} has mode={view.mode!r}; expected python or pandas: others run in training or in serving only."
    if view.singleton:
        yield (
            f"{who} has singleton=True, which Feast runs online only: training fails. Leave it out, and let the code "
            "take and return lists, one value a row."
        )
    if view.write_to_online_store or view.aggregations:
        yield (
            f"{who} is stored or aggregated by Feast (write_to_online_store, aggregations), which training does "
            "not do alike. Leave that out; what is stored is a feature view."
        )
    for name, source in view.source_feature_view_projections.items():
        if source.join_key_map or source.name_alias or source.version_tag is not None:
            yield f"{who} reads view {name!r} under other keys or names; Feast reads it as it is. Take it as it is."
    fields = [field for source in view.source_feature_view_projections.values() for field in source.features]
    fields += [field for source in view.source_request_sources.values() for field in source.schema]
    for name, count in Counter([field.name for field in [*fields, *view.features]]).items():
        if count > 1:
            yield f"{who} has {count} inputs or features called {name!r}, of which its code sees one. Rename them."
    yield from of_code_inputs(view)


def of_code_inputs(view: OnDemandFeatureView) -> Iterator[str]:
    """Types that code cannot be handed alike in training and serving. Feast fails on some of them, in other words."""
    stored = stored_types(view)
    for name, kind in input_types(view).items():
        usable = [one for one in ARROW if one != "unix_timestamp" or name not in stored]
        if kind not in usable:
            yield (
                f"On-demand view {view.name!r} reads {name!r}, a {kind}; expected one of {', '.join(usable)}. "
                f"{'Store it' if name in stored else 'Let requests carry it'} as one of those."
            )


def of_stored(view: FeatureView) -> Iterator[str]:
    who = f"Feature view {view.name!r}"
    if not view.online:
        yield f"{who} has online=False, so training would see values and serving none. Set online=True."
    if not getattr(view, "enabled", True):
        yield f"{who} has enabled=False, so Feast serves none of it. Enable it."
    if not view.entities or not view.join_keys:
        yield f"{who} has no entity, so no request finds a row of it. Give it the entity that its rows describe."
    yield from of_online(view, INPUTS)
    yield from _of_source(view)


def of_online(view: FeatureView, kinds: Collection[str]) -> Iterator[str]:
    """Fields of an online view that are of other types, read or not: of some Feast writes less online than the table
    has, as seconds of a time; of others, as a map, it writes nothing and fails."""
    for field in view.features if view.online else ():
        if (kind := _kind(field)) not in kinds:
            yield (
                f"Feature view {view.name!r} stores {field.name!r}, a {kind}, which is not the same online as offline; "
                f"expected one of {', '.join(kinds)}. Take it out of the view, store what it says as one of those, or "
                "keep it in a view with online=False."
            )


def _of_source(view: FeatureView, created: bool = False) -> Iterator[str]:
    from feast import FileSource

    source = view.batch_source
    if not isinstance(source, FileSource):
        yield f"Feature view {view.name!r} reads a {type(source).__name__}; expected a FileSource: use `delta_source`."
    elif created and not source.created_timestamp_column:
        yield (
            f"Feature view {view.name!r} has a source without created_timestamp_column, so nobody knows when its rows "
            "were learnt. Name that column, as `delta_source` does."
        )


def _of_tags(view: FeatureView, names: Collection[str], role: str) -> Iterator[str]:
    for name in names:
        if not view.tags.get(name):
            yield f"Feature view {view.name!r} is a {role} without the tag {name!r}. Add it to the view's tags."


def of_spine(view: FeatureView) -> Iterator[str]:
    yield from _of_tags(view, SPINE_TAGS, "spine")
    yield from _of_source(view, created=True)
    who, anchor = f"Feature view {view.name!r}", view.tags.get("prediction_anchor")
    lead = view.tags.get("prediction_lead_minutes", "0")
    if not lead.removeprefix("-").isdigit():
        yield f"{who} has the tag prediction_lead_minutes={lead!r}; expected a whole number of minutes."
    if len(view.join_keys) != 1:
        yield f"{who} is a spine with the join keys {view.join_keys}; expected one, which tells its rows apart."
    times = [field.name for field in view.features if _kind(field) == "unix_timestamp"]
    if anchor and anchor not in times:
        yield f"{who} has the tag prediction_anchor={anchor!r}; expected one of its UnixTimestamp fields {times}."


def of_label(view: FeatureView, spine: FeatureView) -> Iterator[str]:
    yield from _of_tags(view, LABEL_TAGS, "label view")
    yield from _of_source(view, created=True)
    numbers = [field.name for field in view.features if _kind(field) in NUMBERS]
    if (label := view.tags.get("label")) and label not in numbers:
        kinds = [f", a {_kind(field)}" for field in view.features if field.name == label]
        yield (
            f"Feature view {view.name!r} has the tag label={label!r}{''.join(kinds)}; expected one of its number "
            f"fields {numbers}. Store the outcome as {', '.join(NUMBERS)}."
        )
    if view.join_keys != spine.join_keys:
        yield (
            f"Feature view {view.name!r} has the join keys {view.join_keys}, its spine {spine.name!r} has "
            f"{spine.join_keys}; an outcome is found by the key of its row. Give both the same entity."
        )


def untyped(entities: Collection[Entity]) -> list[str]:
    """Say which entities have no type, of which Feast says nothing of use."""
    return [
        f"Entity {entity.name!r} has no value_type that a request can carry (found {entity.value_type.name}); expected "
        f"one of {', '.join(KEYS)}. Give it one, such as value_type=ValueType.STRING."
        for entity in entities
        if entity.name != "__dummy" and entity.value_type.name.lower() not in KEYS
    ]


def of_entities(entities: Collection[Entity], keys: Collection[str]) -> Iterator[str]:
    mine = [entity for entity in entities if entity.join_key in keys]
    yield from untyped(mine)
    for key, count in Counter(entity.join_key for entity in mine).items():
        if count > 1:
            names = sorted(entity.name for entity in mine if entity.join_key == key)
            yield f"Entities {names} share the join key {key!r}, so the tags of one would be lost. Keep one of them."
    for entity in mine:
        floor, unknown = entity.tags.get("floor_seconds", "1"), entity.tags.get("unknown", "warn")
        if not floor.isdigit() or int(floor) == 0:
            yield f"Entity {entity.name!r} has the tag floor_seconds={floor!r}; expected a whole number above 0."
        if unknown not in ("warn", "reject"):
            yield f"Entity {entity.name!r} has the tag unknown={unknown!r}; expected warn or reject."


def _kind(field: Any) -> str:
    name: str = field.dtype.to_value_type().name.lower()
    return name
