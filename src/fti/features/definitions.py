"""A Feast repository for tables of its own: the definitions, without the pipeline that fills them."""

import shutil
from pathlib import Path

from fti.project import project


def copy_definitions(repo: Path) -> None:
    """Copy the definitions and `feature_store.yaml`, whose paths are relative, into a new folder."""
    ignored = shutil.ignore_patterns("__pycache__", "__init__.py", "source.py", "transforms.py", "faults.py")
    shutil.copytree(project().repo, repo, ignore=ignored)
