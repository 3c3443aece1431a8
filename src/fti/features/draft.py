"""A store whose registry holds the definitions as an apply would leave them, to look at before anything is written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fti.contract.definitions import DefinitionUnsound, of_inputs
from fti.contract.on_demand import failing
from fti.contract.sound_views import of_code_inputs, untyped
from fti.features.feast_steps import feast_errors, imports_of
from fti.stores.repository import RegistryAbsent, open_repository, require_applied

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.diff.registry_diff import RegistryDiff
    from feast.repo_config import RepoConfig
    from feast.repo_contents import RepoContents


@contextmanager
def drafted(repo: Path) -> Iterator[tuple[FeatureStore, RepoContents]]:
    """A store whose registry, in a temporary file, holds the definitions of `repo` and nothing else; and those."""
    with feast_errors("feast plan", repo), imports_of(repo), tempfile.TemporaryDirectory() as folder:
        from feast import Project
        from feast.diff.registry_diff import apply_diff_to_registry
        from feast.repo_operations import parse_repo

        config = open_repository(repo, applied=False).config
        contents = parse_repo(repo)
        if not contents.projects:
            contents.projects.append(Project(name=config.project, description=config.project_description or ""))
        if lines := [*_of_types(contents)]:
            raise DefinitionUnsound("\n".join(lines))
        draft = _empty(config, Path(folder))
        # The plan infers what definitions leave out, as an apply does.
        apply_diff_to_registry(draft.registry, _inferred(draft, contents), draft.project)
        yield draft, contents


def _of_types(contents: RepoContents) -> Iterator[str]:
    """Types that nobody can honour, in words that say so: Feast, which is asked next, fails on some of them."""
    yield from untyped([entity for entity in contents.entities if entity.value_type.name == "UNKNOWN"])
    taken = {read.name for service in contents.feature_services for read in service.feature_view_projections}
    for view in contents.on_demand_feature_views:
        if view.name in taken:
            yield from of_code_inputs(view)
    for service in contents.feature_services:
        yield from of_inputs(service)


def _inferred(draft: FeatureStore, contents: RepoContents) -> RegistryDiff:
    """Feast's plan, for which it runs each on-demand view on a sample. Raises DefinitionUnsound, naming the view."""
    try:
        return draft.plan(contents)[0]
    except Exception as error:
        lines = [
            f"On-demand view {name!r} fails on the row that Feast tries it with ({type(found).__name__}: {found}). Let "
            "its code take lists (or in pandas mode a DataFrame) of its inputs, and return a column of the declared "
            "type for each feature of its schema."
            for name, found in failing(contents.on_demand_feature_views).items()
        ]
        if lines:
            raise DefinitionUnsound("\n".join(lines)) from error
        raise


def live(repo: Path, folder: Path) -> FeatureStore:
    """The store as configured; if its registry file was never written, one with an empty registry in `folder`."""

    store = open_repository(repo, applied=False)
    try:
        require_applied(store, repo)
    except RegistryAbsent:
        return _empty(store.config, folder)
    return store


def _empty(config: RepoConfig, folder: Path) -> FeatureStore:
    from feast import FeatureStore
    from feast.repo_config import RegistryConfig

    config = config.model_copy()
    config.registry_config, config._registry = RegistryConfig(path=str(folder / "registry.db")), None
    config.online_config, config._online_store = None, None  # a look at SQLite's tables makes their file
    return FeatureStore(config=config)
