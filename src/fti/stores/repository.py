"""Open a Feast repository; where its settings name a plug-in by where it once was, say in one line where it is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fti.errors import Refusal
from fti.stores.data_format import require_readable

if TYPE_CHECKING:
    from feast import FeatureStore

BEFORE, NOW = "feature_repo.stores.", "fti.stores."


class StoreMoved(Refusal):
    """feature_store.yaml names a plug-in of this library by where it was before."""


def require_current(repo: Path) -> None:
    """Check the plug-ins that `feature_store.yaml` names, or the file that Feast reads instead, and that this code
    knows the format of the data beside the repository. Raises StoreMoved, DataTooNew."""
    require_readable(repo.resolve().parent / "data")
    file = Path(os.environ.get("FEAST_FS_YAML_FILE_PATH") or repo / "feature_store.yaml")
    found = re.search(rf"\b{re.escape(BEFORE)}([\w.]+)", file.read_text()) if file.is_file() else None
    if found:
        raise StoreMoved(
            f"{file} names {found[0]}, which is {NOW}{found[1]} now. Put {NOW} for {BEFORE} throughout that file, and "
            "run the same command again: nothing else has to change."
        )


class RegistryAbsent(Refusal):
    """Nothing was ever applied: the registry's file is not there."""


def open_repository(repo: Path, applied: bool = True) -> FeatureStore:
    """Return the feature store of a repository; one that is not `applied` may have no registry yet.

    Raises StoreMoved, DataTooNew, RegistryAbsent, and what Feast raises.
    """
    require_current(repo)
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo))
    if applied:
        require_applied(store, repo)
    return store


def require_applied(store: FeatureStore, repo: Path) -> None:
    """Refuse a registry file that is not there, of which Feast would make an empty one. Raises RegistryAbsent."""
    registry = store.config.registry
    if registry.registry_type == "file" and "://" not in registry.path and not (repo / registry.path).exists():
        raise RegistryAbsent(
            f"There is no Feast registry at {(repo / registry.path).resolve()}: nothing is applied. Run `make apply` "
            "(`fti apply` first), or restore the file; or name another repository."
        )
