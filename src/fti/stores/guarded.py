"""Feast's own `apply`, `teardown` and `delete`, guarded like this library's: refused before anything is written.

Feast 0.67 lets a plug-in see definitions object by object, when the online tables are changed already, and an SQL
registry lets none see them at all. So the settings of this library's stores, which Feast reads before all else, have
`FeatureStore` ask first: with a draft of the registry as it would be. The answer is given by fti/contract, which lies
above the stores and loads MLflow: it is imported by its name once something is about to be written, never to read.
"""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import click
from feast import FeatureStore
from feast.diff.registry_diff import apply_diff_to_registry
from feast.infra.passthrough_provider import PassthroughProvider
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.registry.sql import SqlRegistry
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import FeastConfigBaseModel, RegistryConfig, RepoConfig
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

from fti.errors import Refusal

ASKED = "fti.contract.applying"  # the module that says whether definitions may be applied
OURS = "fti."
DEFINED = (
    "entities", "data_sources", "feature_views", "on_demand_feature_views", "stream_feature_views", "label_views",
    "feature_services",
)  # fmt: skip
# Of an SQL registry, which commits each of these at once.
WRITES = (
    "apply_entity", "apply_data_source", "apply_feature_view", "apply_feature_service", "delete_entity",
    "delete_data_source", "delete_feature_view", "delete_feature_service", "delete_label_view", "delete_project",
)  # fmt: skip
# When it was applied, and by whom it is kept, are not what it means; pickled code differs where its text does not.
NOISE = {"meta", "project", "body", "dataSourceClassType"}
_APPROVED: ContextVar[bool] = ContextVar("approved", default=False)


class GuardingConfig(FeastConfigBaseModel):
    """The settings of a store that has the definitions guarded."""

    def model_post_init(self, context: Any, /) -> None:
        install()


@contextmanager
def approved() -> Iterator[None]:
    """Write definitions that were found to be allowed, without asking again."""
    token = _APPROVED.set(True)
    try:
        yield
    finally:
        _APPROVED.reset(token)


@functools.cache
def install() -> None:
    """Have each feature store that uses a plug-in of this library ask before it writes definitions."""

    def on_draft(draft: FeatureStore, diff: Any, *_: Any, **options: Any) -> None:
        apply_diff_to_registry(draft.registry, diff, draft.project, no_promote=options.get("no_promote", False))

    def emptied(draft: FeatureStore) -> None:
        for project in draft.list_projects():
            draft.registry.delete_project(project.name)

    for name, rehearse in (("apply", FeatureStore.apply), ("_apply_diffs", on_draft), ("teardown", emptied)):
        setattr(FeatureStore, name, _asking(getattr(FeatureStore, name), rehearse))
    create = FeatureStore._create_registry

    @functools.wraps(create)
    def create_guarded(store: FeatureStore) -> BaseRegistry:
        registry = create(store)
        if _guards(store.config):
            _guard(registry, store)
        return registry

    setattr(FeatureStore, "_create_registry", create_guarded)  # noqa: B010 - a method is no variable for mypy


def _asking(write: Callable[..., Any], rehearse: Callable[..., Any]) -> Callable[..., Any]:
    """A method of FeatureStore that rehearses what it is to write with a draft, and asks."""

    @functools.wraps(write)
    def asking(store: FeatureStore, *arguments: Any, **options: Any) -> Any:
        if _APPROVED.get() or not _guards(store.config):
            return write(store, *arguments, **options)
        with in_one_line():
            store.registry.refresh()
            _require(store, store.registry.proto(), lambda draft: rehearse(draft, *arguments, **options))
        with approved():
            return write(store, *arguments, **options)

    return asking


def _guard(registry: BaseRegistry, store: FeatureStore) -> None:
    """Guard what is written to a registry without the store: by `feast delete`, a registry server, or a script."""
    if not isinstance(registry, SqlRegistry):
        files: Any = getattr(registry, "_registry_store", None)
        if hasattr(files, "before_change"):  # a registry file of ours, which sees all of a commit

            def ask(before: Registry, after: Registry) -> None:
                if not _APPROVED.get() and not _alike(before, after):
                    with in_one_line():
                        _require(store, before, lambda draft: _replace(draft, after))

            files.before_change = ask
        return
    for name in WRITES:
        if hasattr(registry, name):
            setattr(registry, name, _asking_registry(registry, name, store))


def _asking_registry(registry: SqlRegistry, name: str, store: FeatureStore) -> Callable[..., Any]:
    write = getattr(registry, name)

    @functools.wraps(write)
    def asking(*arguments: Any, **options: Any) -> Any:
        if _APPROVED.get() or (name == "apply_feature_view" and _is_known(registry, *arguments, **options)):
            return write(*arguments, **options)

        def rehearse(draft: FeatureStore) -> None:
            getattr(draft.registry, name)(*arguments, **options)

        with in_one_line():
            _require(store, registry.proto(), rehearse)
        with approved():
            return write(*arguments, **options)

    return asking


def _is_known(registry: SqlRegistry, feature_view: Any, project: str, *_: Any, **__: Any) -> bool:
    """Whether a view is defined like that already, as when a materialization says how far it is."""
    known = [view.to_proto() for view in registry.list_all_feature_views(project) if view.name == feature_view.name]
    return _meaning(feature_view.to_proto()) in [_meaning(proto) for proto in known]


# ---- a draft of the registry ----------------------------------------------------------------------------------------


def _require(store: FeatureStore, before: Registry, rehearse: Callable[[FeatureStore], Any]) -> None:
    """Ask whether the registry may become what it is in a draft once `rehearse` was done there. Raises Refusal."""
    with tempfile.TemporaryDirectory() as folder:
        draft = _draft(store, before, Path(folder))
        rehearse(draft)
        draft.registry.commit()
        if _alike(before, draft.registry.proto()):
            return
        repo = Path(str(store.config.repo_path or store.repo_path))
        importlib.import_module(ASKED).require_allowed(draft, repo, lambda: bool(before.feature_services))


def _draft(store: FeatureStore, before: Registry, folder: Path) -> FeatureStore:
    """A store with a copy of the registry in a file, and with no other effect: no online table, no run in MLflow."""
    registry = folder / "registry.db"
    registry.write_bytes(before.SerializeToString())
    config = store.config.model_copy()
    config.registry_config, config._registry = RegistryConfig(path=str(registry)), None
    config.online_config, config._online_store = None, None
    config.openlineage_config = config.mlflow_config = None
    config._openlineage = config._mlflow = None
    draft = FeatureStore(repo_path=str(store.config.repo_path or store.repo_path), config=config)
    draft._provider = _Nowhere(config)
    return draft


class _Nowhere(PassthroughProvider):
    """A provider without infrastructure."""

    def update_infra(self, *_: Any, **__: Any) -> None:
        """Leave everything as it is."""


def _replace(draft: FeatureStore, after: Registry) -> None:
    draft.registry.cached_registry_proto = Registry.FromString(after.SerializeToString())  # type: ignore[attr-defined]


def _alike(before: Registry, after: Registry) -> bool:
    """Whether two registries define the same, whatever was materialized of it and when it was applied."""
    for kind in DEFINED:
        old, new = (
            {one.SerializeToString(deterministic=True): one for one in getattr(each, kind)} for each in (before, after)
        )
        changed, into = (
            [_meaning(one) for raw, one in found.items() if raw not in other]
            for found, other in ((old, new), (new, old))
        )
        if len(changed) != len(into) or any(one not in into for one in changed):
            return False
    return True


def _meaning(proto: Any) -> dict[str, Any]:
    """What an object says, as plain data, without NOISE."""

    def without_noise(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without_noise(one) for name, one in value.items() if name not in NOISE}
        return [without_noise(one) for one in value] if isinstance(value, list) else value

    said: dict[str, Any] = without_noise(MessageToDict(proto))
    return said


def _guards(config: RepoConfig) -> bool:
    """Whether a repository uses a store of this library."""
    stores = (config.online_config, config.offline_config, config.registry_config)
    named = [getattr(one, name, None) or (one.get(name) if isinstance(one, dict) else None) for one in stores
             for name in ("type", "registry_store_type")]  # fmt: skip
    return any(str(name).startswith(OURS) for name in named if name)


@contextmanager
def in_one_line() -> Iterator[None]:
    """Let Feast's command line, which shows a traceback of whatever is raised, end with the refusal alone."""
    try:
        yield
    except Refusal as refusal:
        context = click.get_current_context(silent=True)
        if context is None:
            raise
        click.echo(f"error: {refusal}", err=True)
        context.exit(1)
