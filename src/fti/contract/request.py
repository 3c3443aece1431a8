"""What a request carries: the join keys of a feature service, the entities that describe them, and the fields they are
made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fti.contract.interface import ContractBroken, JoinKey, RequestField, StoredView, ValueType

if TYPE_CHECKING:
    from feast import Entity, FeatureStore
    from feast.on_demand_feature_view import OnDemandFeatureView


def entities_of(store: FeatureStore, views: list[StoredView]) -> dict[str, Entity]:
    """The entity that says what each join key of a service is: the key's own or, of a key that only this service has
    (`with_join_key_map`), that of the key in its place."""
    known = {entity.join_key: entity for entity in store.list_entities()}
    pairs = [(key, stored) for view in views for stored, key in view.key_of.items()]
    missing = sorted({stored for key, stored in pairs if key not in known and stored not in known})
    if missing:
        raise ContractBroken(f"The registry has no entity with the join key(s) {missing}. Define one for each.")
    return {key: known[key] if key in known else known[stored] for key, stored in pairs}


def join_key(name: str, entity: Entity) -> JoinKey:
    tags = entity.tags
    if name != entity.join_key and not {"from_request", "floor_seconds"}.isdisjoint(tags):
        raise ContractBroken(
            f"Join key {name!r} takes the place of {entity.join_key!r}, which the tags of entity {entity.name!r} make "
            f"of another request field; nothing says which one {name!r} is made of. Define an entity with the join key "
            f"{name!r} and tags of its own."
        )
    return JoinKey(
        name=name,
        dtype=entity.value_type.name.lower(),
        request_field=tags.get("from_request", name),
        floor_seconds=int(floor) if (floor := tags.get("floor_seconds")) else None,
        optional=tags.get("optional") == "true",
        unknown=tags.get("unknown", "warn"),
        noun=tags.get("noun", name),
    )


def value_type(dtype: Any) -> ValueType:
    """The name of one of Feast's types, as a contract has it."""
    name: ValueType = dtype.to_value_type().name.lower()
    return name


def request_fields(
    entities: Mapping[str, Entity], keys: list[JoinKey], code: list[OnDemandFeatureView]
) -> list[RequestField]:
    """The fields that keys come from and that on-demand code reads, each once."""
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
    for view in code:
        for _, source in sorted(view.source_request_sources.items()):
            for field in source.schema:
                fields[field.name] = RequestField(
                    name=field.name, dtype=value_type(field.dtype), required=True, description=field.description
                )
    missing = [key.request_field for key in keys if key.request_field not in fields]
    if missing:
        raise ContractBroken(f"Join keys come from request field(s) {missing}, which no request source declares.")
    return list(fields.values())
