"""Registries whose folder was moved or copied: where MLflow looks for artifacts, and where it writes new ones."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fti.contract.artifact_places import place
from fti.contract.interface import ContractBroken
from fti.contract.registered import fetch_version

NAME, ODD = "made-up", "two words, ümlaut and 50%"


def at(folder: Path, name: str = "mlflow.db") -> MlflowClient:
    """A client of the registry in this folder; MLflow finds logged models by its global setting."""
    uri = f"sqlite:///{folder / name}"
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def log(client: MlflowClient, text: str, experiment: str = "0") -> str:
    run_id: str = client.create_run(experiment).info.run_id
    client.log_text(run_id, text, "file.txt")
    return run_id


def read(client: MlflowClient, run_id: str) -> str:
    return Path(client.download_artifacts(run_id, "file.txt")).read_text()


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def stored(folder: Path) -> list[tuple[str, ...]]:
    """Every place that the database holds, as it is written there."""
    columns = [
        ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
        ("model_versions", "source"), ("model_versions", "storage_location"),
    ]  # fmt: skip
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return [row for table, column in columns for row in connection.execute(f"SELECT {column} FROM {table}")]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry as MLflow makes it, which takes seconds."""
    folder = tmp_path_factory.mktemp("empty")
    assert at(folder).get_experiment("0").artifact_location == str(folder / "mlruns" / "0")
    return folder


@pytest.fixture
def make(empty: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Make a registry as if MLflow had made it, in a folder of this name, at a moment of its own."""
    moments = count(1)

    def made(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(empty / "mlflow.db", folder)
        changed = "UPDATE experiments SET artifact_location = ?, creation_time = creation_time + ?"
        with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
            connection.execute(changed, [str(folder / "mlruns" / "0"), next(moments)])
        return folder

    return made


@pytest.fixture
def original(make: Callable[[str], Path]) -> tuple[Path, str]:
    """A registry with a run, a logged model and two versions, one of the model and one of the run; the run's id."""
    folder = make("original")
    client = at(folder)
    run_id = log(client, "of the original")
    model = client.create_logged_model("0", name="model", source_run_id=run_id)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, f"models:/{model.model_id}", run_id)
    client.create_model_version(NAME, client.get_run(run_id).info.artifact_uri, run_id)
    return folder, run_id


def test_artifacts_lie_beside_the_database_wherever_the_process_is(original):
    """MLflow's own default is the working folder."""
    folder, run_id = original
    assert (folder / "mlruns" / "0" / run_id / "artifacts" / "file.txt").read_text() == "of the original"


@pytest.mark.parametrize("name", ["moved", ODD])
def test_what_was_moved_is_read_and_written_where_it_is_now(original, tmp_path, name):
    """Runs, logged models and versions; the folder of before is not made again, and no stored place is changed."""
    before, run_id = original
    now, places = tmp_path / name, stored(before)
    before.rename(now)
    client = at(now)
    assert read(client, run_id) == "of the original"
    new = log(client, "new")
    client.set_terminated(run_id)
    client.set_model_version_tag(NAME, "1", "seen", "yes")
    client.rename_experiment("0", "renamed")
    assert (now / "mlruns" / "0" / new / "artifacts" / "file.txt").read_text() == "new"
    model = client.search_logged_models(["0"])[0]
    told = [
        client.get_experiment("0").artifact_location, client.get_run(run_id).info.artifact_uri,
        client.search_runs(["0"])[-1].info.artifact_uri, model.artifact_location,
        client.get_model_version_download_uri(NAME, "1"), client.get_model_version_download_uri(NAME, "2"),
        client.get_model_version(NAME, "2").source, client.search_model_versions(f"name = '{NAME}'")[0].source,
    ]  # fmt: skip
    assert [place for place in told if not place.startswith((str(now / "mlruns"), "models:/"))] == []
    assert not before.exists()
    assert set(places) <= set(stored(now))


def test_a_copy_reads_and_writes_its_own(original, tmp_path):
    """What was written into the copy comes out of the copy, and the original stays as it was."""
    folder, run_id = original
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "mlruns" / "0" / run_id / "artifacts" / "file.txt").write_text("of the copy")
    before, client = files(folder), at(copy)
    assert read(client, run_id) == "of the copy"
    log(client, "new in the copy")
    assert files(folder) == before
    assert read(at(folder), run_id) == "of the original"


@pytest.mark.parametrize("name", ["mlflow.db", "kept.db"])
def test_a_copy_without_its_artifacts_does_not_take_the_originals(original, tmp_path, name):
    """It says that they are not there; what is new lies beside the copy."""
    folder, run_id = original
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(folder / "mlflow.db", copy / name)
    before, client = files(folder), at(copy, name)
    with pytest.raises((MlflowException, OSError)):
        read(client, run_id)
    assert read(client, log(client, "new")) == "new"
    assert files(folder) == before


def test_a_version_whose_files_were_left_behind_says_so(original, tmp_path):
    """Where they should be, and that `mlruns` goes with the database."""
    folder, _ = original
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(folder / "mlflow.db", copy)
    version = at(copy).get_model_version(NAME, "1")
    with pytest.raises(ContractBroken, match=f"are not at {copy / 'mlruns'}/0/models/.* the other goes with it"):
        fetch_version(version)


def test_a_copy_of_a_moved_project_and_a_move_of_a_copy(original, tmp_path):
    """Runs that were made in three folders are all found in the last."""
    folder, first = original
    one = shutil.copytree(folder, tmp_path / "one")
    second = log(at(one), "second")
    two = one.rename(tmp_path / ODD)
    third = log(at(two), "third")
    three = shutil.copytree(two, tmp_path / "three")
    client = at(three)
    assert [read(client, run_id) for run_id in (first, second, third)] == ["of the original", "second", "third"]


@pytest.mark.parametrize("form", [str, Path.as_uri])
def test_a_folder_that_somebody_chose_stays_chosen(tmp_path, make, form: Callable[[Path], str]):
    """Before anything is in it, after, and when the project has moved."""
    chosen, folder = tmp_path / "disk" / "mlruns", make("project")
    chosen.parent.mkdir()
    experiment = at(folder).create_experiment("chosen", artifact_location=form(chosen / "1"))
    run_id = log(at(folder), "chosen", experiment)
    assert (chosen / "1" / run_id / "artifacts" / "file.txt").exists()
    client = at(folder.rename(tmp_path / "moved"))
    assert read(client, run_id) == "chosen"
    assert read(client, log(client, "again", experiment)) == "again"
    assert not (tmp_path / "moved" / "mlruns").exists()


def test_artifacts_beside_another_registry_stay_there_unless_it_is_the_original(make, original):
    """As of a replay made before: MLflow had put its artifacts where the process was, in the project around it."""
    (around, _), inner = original, make("inner")
    experiment = at(inner).create_experiment("of before", artifact_location=str(around / "mlruns" / "0"))
    run_id = log(at(inner), "of before", experiment)
    assert (around / "mlruns" / "0" / run_id).is_dir()
    assert read(at(inner), run_id) == "of before"


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/mlruns/0", "mlflow-artifacts:/0/mlruns/x", "models:/m-1", "runs:/1/mlruns/a", "/gone/artifacts/0"],
)
def test_other_addresses_are_what_they_are(tmp_path, address):
    """Object stores, servers, references, and folders of another name."""
    assert place(address, tmp_path / "mlflow.db") == address


def test_plain_mlflow_does_the_same(original, tmp_path):
    """Its own command, in a moved folder with an odd name, of which MLflow makes no second one with %20 in its name."""
    folder, run_id = original
    folder.rename(tmp_path / ODD)
    command = [sys.executable, "-m", "mlflow", "artifacts", "download", "--run-id", run_id, "-a", "file.txt"]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(command, cwd=tmp_path / ODD, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_text() == "of the original"
    assert [path.name for path in tmp_path.iterdir()] == [ODD]


def test_a_database_is_opened_by_an_mlflow_below_a_folder_with_a_percent_sign(tmp_path, monkeypatch):
    """As in the environment of a project whose path has one; where it has none, MLflow's own settings are used."""
    from mlflow.store.db import utils

    (tmp_path / "100% mine").symlink_to(Path(mlflow.__file__).parent, target_is_directory=True)
    monkeypatch.setattr(utils, "_get_alembic_config", utils._get_alembic_config)
    monkeypatch.setattr(utils, "_get_package_dir", lambda: str(tmp_path / "100% mine"))
    (tmp_path / "50%").mkdir()
    at(tmp_path / "50%").create_registered_model(NAME)
    assert (tmp_path / "50%" / "mlflow.db").is_file()
