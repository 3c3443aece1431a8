"""What a model's inputs mean, for people: the Feast registry's descriptions and units in; one of each a feature out."""

from __future__ import annotations

from typing import Any

from feast import FeatureStore

from validation.contract import FeatureInterface


def meanings(store: FeatureStore, interface: FeatureInterface) -> dict[str, dict[str, str]]:
    """By feature, its `description` and the `unit` its tags name, as far as the registry has them."""
    views: list[Any] = [store.get_feature_view(view.name) for view in interface.stored_views]
    views += [store.get_on_demand_feature_view(view.name) for view in interface.on_demand_views]
    fields = {field.name: (field.description, field.tags.get("unit", "")) for view in views for field in view.features}
    for entity in store.list_entities():
        fields.setdefault(entity.join_key, (entity.description, ""))
    said = {one.name: fields.get(one.name, ("", "")) for one in interface.inputs}
    return {
        name: {key: text for key, text in zip(("description", "unit"), texts, strict=True) if text}
        for name, texts in said.items()
        if any(texts)
    }
