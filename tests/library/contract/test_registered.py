"""A registered version's files: what they need, and what is said where that is missing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow.sklearn
import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from fti.contract.registered import (
    LibraryMissing,
    RegistryMissing,
    folder_sha256,
    load_model,
    registry_file,
    require_registry,
)

VERSION = SimpleNamespace(name="made-up", version="2")
BOOSTER = """
from sklearn.base import BaseEstimator, ClassifierMixin


class Booster(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = [0, 1]
        return self
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, saved as training saves one, of a library that is installed at first."""
    (tmp_path / "boosters_of_2031").mkdir()
    (tmp_path / "boosters_of_2031" / "__init__.py").write_text(BOOSTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    from boosters_of_2031 import Booster  # type: ignore[import-not-found]

    mlflow.sklearn.save_model(
        Booster().fit([[0.0]], [0]), str(tmp_path / "model"), skops_trusted_types=["boosters_of_2031.Booster"],
        serialization_format="skops", pip_requirements=[],
    )  # fmt: skip
    return tmp_path / "model"


def test_a_model_whose_library_is_gone_says_which(folder, monkeypatch):
    """In a message that names the version, the package, and what can be done."""
    assert type(load_model(VERSION, folder)).__name__ == "Booster"
    monkeypatch.undo()
    shutil.rmtree(folder.parent / "boosters_of_2031")
    monkeypatch.setitem(sys.modules, "boosters_of_2031", None)  # no import finds it, whatever a finder remembers
    with pytest.raises(LibraryMissing, match="made-up version 2 needs the package 'boosters_of_2031', which is not"):
        load_model(VERSION, folder)


def test_only_the_file_that_mlflow_writes_is_left_out_of_a_models_hash(tmp_path):
    """That is the one at the top; another of its name, at any depth, counts as every file does."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "MLmodel").write_text("flavors")
    before = folder_sha256(tmp_path)
    (tmp_path / "registered_model_meta").write_text("version 1")
    assert folder_sha256(tmp_path) == before
    found = {before}
    for place in ("data", "data/deep", "data/registered_model_meta.d"):
        (tmp_path / place).mkdir(exist_ok=True)
        for content in ("one", "two"):
            (tmp_path / place / "registered_model_meta").write_text(content)
            found.add(folder_sha256(tmp_path))
    assert len(found) == 7


@pytest.mark.parametrize("scheme", ["sqlite:///", "file://"])
def test_a_registry_that_is_not_there_is_not_made_by_who_looks(scheme, tmp_path, monkeypatch):
    """MLflow would make an empty one; one that is there, and a server, are left to it."""
    place = tmp_path / "registry"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}{place}")
    with pytest.raises(RegistryMissing, match=r"There is no model registry at .*make train"):
        require_registry()
    assert not place.exists()
    place.touch()
    require_registry()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    require_registry()


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////a%20b/100%25.db", "sqlite:////a%2520b", "sqlite:///x.db?timeout=5", "sqlite+pysqlite:////a#b/c",
        "sqlite:////a+b", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?uri=true", "sqlite:x",
        "sqlite", "postgresql://u:p@h/d", "http://h/d",
    ],
)  # fmt: skip
def test_the_file_of_a_registry_is_the_one_that_sqlalchemy_opens(uri):
    """None for servers, for memory, and for what is no address at all."""
    try:
        named = make_url(uri).database if uri.startswith("sqlite") else None
    except ArgumentError:
        named = None
    assert registry_file(uri) == (Path(named) if named and not named.startswith((":memory:", "file:")) else None)
