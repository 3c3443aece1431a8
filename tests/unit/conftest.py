"""What unit tests of the feature pipeline's command line share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import small_repo


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files of two days and the tables made from them; not to be written to."""
    return small_repo.build(tmp_path_factory.mktemp("built"))


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy of `built` to do with as one likes."""
    return Path(shutil.copytree(built, tmp_path / "copy"))
