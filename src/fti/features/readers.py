"""Who reads a definition: feature services, and model versions under an alias."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fti.contract.applying import contracts, tracking_uri
from fti.errors import Refusal, few
from fti.features.guard import was_applied
from fti.stores.repository import open_repository

if TYPE_CHECKING:
    from feast import FeatureStore


class NoDefinition(Refusal):
    """Nothing of that name is applied, and no model reads it."""


def needs(repo: Path, name: str) -> str:
    """Say what needs a feature view, an on-demand view or a feature service, a line each.

    Raises NoDefinition, RegistryAbsent, RegistryUnreadable.
    """
    store = open_repository(repo)
    used = users(store, repo)
    applied = {one.name for one in store.registry.list_all_feature_views(store.project, skip_udf=True)}
    applied |= {one.name for one in store.list_feature_services()}
    if name not in applied | {*used}:
        raise NoDefinition(f"No feature view or feature service is called {name!r}; there are {few(sorted(applied))}.")
    if readers := used.get(name):
        way = "A model needs it until `make retire VERSION=...` has dropped its aliases; a service until it is changed."
        return "\n".join([f"{name} is read by", *(f"  {one}" for one in readers), way])
    return f"Nothing needs {name}: no feature service reads it, and no model version under an alias. It may go."


def users(store: FeatureStore, repo: Path) -> Mapping[str, list[str]]:
    """Who reads each view: feature services, and model versions under an alias, by their contracts."""
    used: dict[str, list[str]] = defaultdict(list)
    on_demand = {view.name: view for view in store.registry.list_on_demand_feature_views(store.project, skip_udf=True)}
    for service in sorted(store.list_feature_services(), key=lambda service: service.name):
        names = {projection.name for projection in service.feature_view_projections}
        for name in names & on_demand.keys():
            names |= {projection.name for projection in on_demand[name].source_feature_view_projections.values()}
        for name in names | {service.tags[role] for role in ("spine", "label") if role in service.tags}:
            used[name].append(f"feature service `{service.name}`")
    uri = tracking_uri(repo, partial(was_applied, repo))
    for version, contract in (contracts(uri, str(store.project)) if uri else {}).items():
        interface = contract.interface
        read = {view.source for view in interface.stored_views} | {view.name for view in interface.on_demand_views}
        for name in read | {interface.spine_view, interface.label_view, interface.feature_service}:
            used[name].append(f"model {version}")
    return used
