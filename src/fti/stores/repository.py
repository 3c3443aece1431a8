"""Open a Feast repository; where its settings name a plug-in by where it once was, say in one line where it is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fti.errors import Refusal

if TYPE_CHECKING:
    from feast import FeatureStore

BEFORE, NOW = "feature_repo.stores.", "fti.stores."


class StoreMoved(Refusal):
    """feature_store.yaml names a plug-in of this library by where it was before."""


def require_current(repo: Path) -> None:
    """Check the plug-ins that `feature_store.yaml` names, or the file that Feast reads instead. Raises StoreMoved."""
    file = Path(os.environ.get("FEAST_FS_YAML_FILE_PATH") or repo / "feature_store.yaml")
    found = re.search(rf"\b{re.escape(BEFORE)}([\w.]+)", file.read_text()) if file.is_file() else None
    if found:
        raise StoreMoved(
            f"{file} names {found[0]}, which is {NOW}{found[1]} now. Put {NOW} for {BEFORE} throughout that file, and "
            "run the same command again: nothing else has to change."
        )


def open_repository(repo: Path) -> FeatureStore:
    """The feature store of a repository. Raises StoreMoved, and what Feast raises."""
    require_current(repo)
    from feast import FeatureStore

    return FeatureStore(repo_path=str(repo))
