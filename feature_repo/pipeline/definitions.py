"""A Feast repository for tables of its own: the definitions, without the pipeline that fills them."""

import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def copy_definitions(repo: Path) -> None:
    """Copy the definitions and `feature_store.yaml`, whose paths are relative, into a new folder."""
    ignored = shutil.ignore_patterns("__pycache__", "pipeline", "stores", "__init__.py")
    shutil.copytree(HERE, repo, ignore=ignored)
