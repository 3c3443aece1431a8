"""What tests of single servers share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fti.deploy.production import main as production


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that Postgres, another user, gets through; whatever runs in it ends with the test."""
    made = Path(tempfile.mkdtemp(prefix="fti"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        for stack in made.iterdir():
            if stack.is_dir():
                assert production(["--folder", str(stack), "down"]) == 0
        shutil.rmtree(made)
