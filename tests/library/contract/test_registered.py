"""A registered version's files: what they need, and what is said where that is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow.sklearn
import pytest

from fti.contract.registered import LibraryMissing, RegistryMissing, load_model, require_registry

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
    for name in [name for name in sys.modules if name.startswith("boosters_of_2031")]:
        del sys.modules[name]
    with pytest.raises(LibraryMissing, match="made-up version 2 needs the package 'boosters_of_2031', which is not"):
        load_model(VERSION, folder)


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
