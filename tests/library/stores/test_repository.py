"""A feature_store.yaml from before the library was a package: one line says what its plug-ins are called now."""

from __future__ import annotations

from pathlib import Path

import pytest

from fti.features import run
from fti.project import project
from fti.scoring.features import StoreUnavailable, open_store
from fti.stores.repository import StoreMoved, open_repository, require_current
from fti.training.run import main as train

MOVED = r"feature_repo\.stores\.\w+\.\w+, which is fti\.stores\.\w+\.\w+ now\. Put fti\.stores\. for feature_repo"


@pytest.fixture(params=["feature_store.yaml", "production/feature_store.yaml"])
def repo(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A repository whose settings are those of this project with the names of before."""
    settings = (project().repo / request.param).read_text()
    (tmp_path / "feature_store.yaml").write_text(settings.replace("fti.stores.", "feature_repo.stores."))
    return tmp_path


def test_the_shipped_profiles_name_what_there_is():
    """Both of them, as they lie in the project."""
    for folder in (project().repo, project().repo / "production"):
        require_current(folder)


def test_an_old_name_is_refused_with_the_new_one(repo):
    """By whoever opens the store: pipelines, and the service, which says it as its reason for not answering."""
    with pytest.raises(StoreMoved, match=MOVED):
        open_repository(repo)
    with pytest.raises(StoreUnavailable, match=MOVED):
        open_store(repo)


def test_the_file_that_feast_reads_instead_counts(repo, tmp_path, monkeypatch):
    """FEAST_FS_YAML_FILE_PATH decides which settings there are."""
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(repo / "feature_store.yaml"))
    with pytest.raises(StoreMoved, match=MOVED):
        require_current(project().repo)


@pytest.mark.parametrize("command", ["plan", "apply", "materialize"])
def test_commands_say_it_in_one_line(repo, capsys, command):
    assert run.main([command, "--repo", str(repo)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "which is fti.stores." in line


def test_training_says_it_in_one_line(repo, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_FEAST_REPO", str(repo))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert train(["train"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "which is fti.stores." in line
