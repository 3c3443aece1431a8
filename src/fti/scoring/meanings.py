"""What a model's inputs and its label mean, for people: the Feast registry's descriptions in; a few words each out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feast import FeatureStore

from fti.contract.interface import FeatureInterface

WORDS = ("description", "unit", "question")


def meanings(store: FeatureStore, interface: FeatureInterface) -> dict[str, dict[str, str]]:
    """By input, its `description` and the `unit` its tags name; by label, also the `question` that an answer answers.

    As far as the registry has them.
    """
    label = store.get_feature_view(interface.label_view)
    views: list[tuple[Any, Mapping[str, str]]] = [
        (store.get_feature_view(view.source), view.stored) for view in interface.stored_views
    ]
    views += [
        (store.get_on_demand_feature_view(view.name), {name: name for name in view.features})
        for view in interface.on_demand_views
    ]
    fields = {
        # An on-demand field cannot keep a description in Feast 0.67; a tag of its view with its name does.
        name: (field.description or view.tags.get(field.name, ""), field.tags.get("unit", ""))
        for view, names in views
        for name, stored in names.items()
        for field in view.features
        if field.name == stored
    }
    for entity in store.list_entities():
        fields.setdefault(entity.join_key, (entity.description, ""))
    for asked in interface.request_fields:  # a join key that only this service has
        fields.setdefault(asked.name, (asked.description, ""))
    said: dict[str, tuple[str, ...]] = {one.name: fields.get(one.name, ("", "")) for one in interface.inputs}
    said |= {
        field.name: (field.description, field.tags.get("unit", ""), field.tags.get("question", ""))
        for field in label.features
        if field.name == interface.label
    }
    return {
        name: {key: text for key, text in zip(WORDS, texts, strict=False) if text}
        for name, texts in said.items()
        if any(texts)
    }
