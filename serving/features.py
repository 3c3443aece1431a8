"""Read a model's features: requests in; values by feature, with their ages and what is missing, out.

Feast's online store keeps the newest row of each key and does not look at its ttl; here a row counts only within its
view's ttl of `as_of`, as in the training set. On-demand features run the registry's own code on what is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from feast import FeatureStore, RepoConfig
from feast.type_map import feast_value_type_to_python_type

from validation.contract import FeatureInterface, StoredView

Found = dict[str, tuple[Any, datetime]]


class AsOfTooEarly(ValueError):
    """The online store has already moved on past the request's `as_of`."""


class StoreUnavailable(RuntimeError):
    """Feast's registry or online store cannot be read. The message is fit for clients; the cause is for the log."""


@dataclass
class FeatureRow:
    """One request's features: value by name, row age by stored view, and warnings for people."""

    values: dict[str, Any] = field(default_factory=dict)
    ages: dict[str, timedelta] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def open_store(feast_repo: Path) -> FeatureStore:
    """Open a Feast repository for online reads. Raises StoreUnavailable.

    The offline store is left out: Feast would import it and its engine, which serving neither needs nor installs.
    """
    try:
        settings = yaml.safe_load(os.path.expandvars((feast_repo / "feature_store.yaml").read_text()))
        config = RepoConfig(**{name: value for name, value in settings.items() if name != "offline_store"})
        config.repo_path = feast_repo
        store = FeatureStore(repo_path=str(feast_repo), config=config)
        store.refresh_registry()
        return store
    except Exception as error:
        raise StoreUnavailable(
            "The Feast registry cannot be opened. Build it with `make features`, or set SERVING_FEAST_REPO to the "
            "folder of a feature_store.yaml whose registry exists."
        ) from error


def request_names(store: FeatureStore) -> set[str]:
    """All that requests to this feature store may carry: join keys, and the fields of request sources."""
    names = {entity.join_key for entity in store.list_entities()}
    for view in store.list_on_demand_feature_views():
        names |= {asked.name for source in view.source_request_sources.values() for asked in source.schema}
    return names


class FeatureReader:
    """Reads the features of one feature service, through Feast. `failed` says that the last read did."""

    def __init__(self, store: FeatureStore, interface: FeatureInterface) -> None:
        self.failed = False
        self._store = store
        self._interface = interface
        self._on_demand = [store.get_on_demand_feature_view(view.name) for view in interface.on_demand_views]

    def read(self, request: dict[str, Any], as_of: datetime) -> FeatureRow:
        """Features for one request, as of a moment in UTC. Raises AsOfTooEarly, StoreUnavailable."""
        row = FeatureRow()
        keys = {key.name: key.of(request[key.request_field]) for key in self._interface.join_keys}
        found = self._lookup(keys)
        for view in self._interface.stored_views:
            self._take(view, keys, found, as_of, row)
        inputs = {name: [value] for name, value in (request | row.values).items()}
        for described, on_demand in zip(self._interface.on_demand_views, self._on_demand, strict=True):
            computed = on_demand.transform_dict({name: inputs[name] for name in described.inputs})
            row.values |= {name: computed[name][0] for name in described.features}
        row.values |= {name: keys[name] for name in self._interface.categories}
        return row

    def _lookup(self, keys: dict[str, Any]) -> Found:
        """Value and event timestamp by feature, for the views whose keys are all there. Raises StoreUnavailable."""
        views = [view for view in self._interface.stored_views if all(keys[key] is not None for key in view.join_keys)]
        if not views:
            return {}
        try:
            response = self._store.get_online_features(
                features=[f"{view.name}:{feature}" for view in views for feature in view.features],
                entity_rows={key: [keys[key]] for key in _unique(key for view in views for key in view.join_keys)},
            ).proto
        except Exception as error:
            self.failed = True
            raise StoreUnavailable(
                "The online store cannot be read; the service's log says why. Ask again in a while."
            ) from error
        self.failed = False
        return {
            name: (feast_value_type_to_python_type(result.values[0]), _moment(result.event_timestamps[0]))
            for name, result in zip(response.metadata.feature_names.val, response.results, strict=True)
            if result.event_timestamps and result.event_timestamps[0].seconds
        }

    def _take(self, view: StoredView, keys: dict[str, Any], found: Found, as_of: datetime, row: FeatureRow) -> None:
        """Add one view's features to `row`, null when there is no row for the key or it is too old."""
        row.values |= dict.fromkeys(view.features)
        absent = [key for key in view.join_keys if keys[key] is None]
        # A view's features come from one row; Feast leaves out the timestamp of a key it has never seen.
        stamps = {found[feature][1] for feature in view.features if feature in found}
        if absent:
            row.warnings.append(f"{view.name}: no {' and '.join(absent)} given")
        elif not stamps:
            row.warnings.append(f"{view.name}: {view.missing}")
        else:
            (stamp,) = stamps
            if stamp > as_of:
                raise AsOfTooEarly(
                    f"as_of {as_of:%Y-%m-%dT%H:%M:%SZ} is before {stamp:%Y-%m-%dT%H:%M:%SZ}, the time of the newest "
                    f"{view.name} row: the online store no longer knows what was known then. Ask for a later as_of, or "
                    f"materialize as of the earlier one, with --rewind."
                )
            age = as_of - stamp
            ttl = timedelta(seconds=view.ttl_seconds)
            if ttl and age > ttl:
                row.warnings.append(f"{view.name}: {_duration(age)} old, good for {_duration(ttl)}; not used")
            else:
                row.values |= {feature: found[feature][0] for feature in view.features if feature in found}
                row.ages[view.name] = age


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _moment(stamp: Any) -> datetime:
    return datetime.fromtimestamp(stamp.seconds, tz=UTC) + timedelta(microseconds=stamp.nanos // 1000)


def _duration(span: timedelta) -> str:
    """3 h 20 min, 2 d 4 h; a begun minute counts, so that what is just too old does not read as just good."""
    minutes = -(-span // timedelta(minutes=1))
    parts = [(minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 min"
