"""Feature services that surely do not exist, told without Feast."""

from __future__ import annotations

from pathlib import Path

import pytest

import fti.project
from fti.training.known_services import UnknownFeatureService, require_service

SETTINGS = """
project: p
registry:
  path: ../data/registry.db
  registry_store_type: fti.stores.atomic_registry.AtomicFileRegistryStore
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose registry holds `applied`, and whose definitions name `defined`."""
    monkeypatch.delenv("FEAST_FS_YAML_FILE_PATH", raising=False)
    monkeypatch.setattr(fti.project, "_CURRENT", [])
    monkeypatch.setenv("FTI_PROJECT", str(tmp_path))
    (tmp_path / "pyproject.toml").write_text('[tool.fti]\nmodel_name = "m"\n')
    repo = tmp_path / "feature_repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(SETTINGS)
    (repo / "services.py").write_text('one = FeatureService(name="defined", features=[])\n')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "registry.db").write_bytes(b"\x0a\x07applied\x12")
    return repo


def test_a_name_that_the_registry_does_not_hold_is_refused(repo):
    """Also one that is defined and not applied: training reads the registry."""
    require_service(repo, "applied")
    for name, reason in {
        "nope": r"Known are \['defined'\]",
        "defined": "is defined, and the registry does not",
    }.items():
        with pytest.raises(UnknownFeatureService, match=f"{reason}.*make apply"):
            require_service(repo, name)


def test_the_projects_own_list_counts_where_there_is_one(repo):
    """And the nearest of it is named."""
    (repo.parent / "pyproject.toml").write_text('[tool.fti]\nmodel_name = "m"\nfeature_services = ["delay_v1"]\n')
    require_service(repo, "delay_v1")
    with pytest.raises(UnknownFeatureService, match="did you mean 'delay_v1'"):
        require_service(repo, "delay_v2")


@pytest.mark.parametrize(
    "settings",
    [
        "registry: s3://lake/registry.db",
        "registry: {registry_type: sql, path: postgresql://db}",
        "registry: gone.db",
        "[",
    ],
)
def test_a_registry_that_is_elsewhere_is_left_to_feast(repo, settings):
    """What cannot be seen is not refused here."""
    (repo / "feature_store.yaml").write_text(settings)
    require_service(repo, "anything")
