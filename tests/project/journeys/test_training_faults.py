"""Training when things go wrong: real processes killed, a tracking server gone, a full disk, data that cannot be."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.conftest import ROOT, Workspace
from tests.oracle import HOUR, Oracle

# Early in the year a fit takes seconds.
EARLY = ("--feature-service", "arrival_delay_v1", "--as-of", "2013-03-20")
FITTED, JUDGING = pd.Timestamp("2013-02-01", tz="UTC"), pd.Timestamp("2013-02-16", tz="UTC")
NAME = "arrival-delay"


@pytest.fixture
def registry(tmp_path, monkeypatch) -> MlflowClient:
    """An empty registry, and the working folder that its artifacts go to."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(uri)


@pytest.fixture
def training(workspace: Workspace, registry, monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """The command line in this process, over the year's features and the empty registry: exit code and stderr."""
    from fti.training.run import main

    monkeypatch.setenv("TRAINING_FEAST_REPO", str(workspace.repo))

    def run(*arguments: str) -> tuple[int, str]:
        code = main(list(arguments))
        return code, capsys.readouterr().err

    return run


@contextmanager
def started(workspace: Workspace, folder: Path, uri: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Training in a process of its own, stderr readable line by line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fti.training.run", "train", *arguments],
        cwd=folder,
        env=os.environ
        | {"MLFLOW_TRACKING_URI": uri, "TRAINING_FEAST_REPO": str(workspace.repo), "FTI_PROJECT": str(ROOT)}
        | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], word: str) -> None:
    """Read its lines until one has the word."""
    said = []
    for line in process.stderr:
        said.append(line)
        if word in line:
            return
    pytest.fail(f"it ended without saying {word!r}: {''.join(said[-20:])}")


def nothing_registered(client: MlflowClient) -> bool:
    return client.search_registered_models() == [] and client.search_model_versions() == []


def labelled(frame: pd.DataFrame, begin: pd.Timestamp, label: float | None) -> pd.DataFrame:
    """The rows with another label for the first that is predicted from then on."""
    first = (frame.event_timestamp >= begin).to_numpy().argmax()
    return frame.assign(is_late=frame.is_late.astype(float).where(np.arange(len(frame)) != first, label))


def the_error(said: str) -> str:
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "Traceback" not in said
    return line


@pytest.mark.parametrize(("end", "status"), [(signal.SIGKILL, "RUNNING"), (signal.SIGTERM, "FAILED")])
def test_a_run_killed_while_it_fits_registers_nothing(workspace, registry, tmp_path, end, status):
    """SIGTERM marks the run as failed itself; after SIGKILL the next run does."""
    from fti.training.runs import claim

    with started(workspace, tmp_path, registry.tracking_uri, *EARLY) as process:
        read_until(process, "training set ")
        process.send_signal(end)
        assert process.wait(30) == (-end if end == signal.SIGKILL else 128 + end)
    assert nothing_registered(registry)
    (run,) = registry.search_runs(["0"])
    assert run.info.status == status
    claim(registry, registry.create_run("0").info.run_id)
    assert registry.get_run(run.info.run_id).info.status == "FAILED"


def test_a_tracking_server_that_goes_away_is_one_line(workspace, registry, tmp_path):
    """A real server killed in the middle of a run: the run ends with one line, and nothing is registered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", store, "--artifacts-destination", str(tmp_path / "artifacts")),
        ],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.3)
        with started(workspace, tmp_path, address, *EARLY) as process:
            read_until(process, "training set ")
            os.killpg(server.pid, signal.SIGKILL)
            _, said = process.communicate(timeout=300)
            assert process.returncode == 1
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert address in the_error(said)
    assert nothing_registered(registry)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_a_full_artifact_store_registers_nothing(training, registry, tmp_path):
    """Artifacts go to a disk of half a megabyte: too little for the plots, let alone the model."""
    disk = tmp_path / "mlruns"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], check=True)
    try:
        code, said = training("train", *EARLY)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert code == 1
    assert "No space left on device" in the_error(said)
    assert nothing_registered(registry)
    assert registry.search_runs(["0"])[0].info.status == "FAILED"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda frame: frame.assign(is_late=1), "both_outcomes_occur"),
        (lambda frame: frame.assign(route_late_rate_7d=np.nan), "route_late_rate_7d_mostly_known"),
        (lambda frame: frame.assign(is_late=frame.is_late.where(frame.index != 5, 2)), "is_late_is_0_or_1"),
        (
            lambda frame: frame.assign(route_late_rate_7d=frame.is_late + frame.route_late_rate_7d / 100),
            "no_feature_knows_the_outcome .1 of 23, route_late_rate_7d: ",
        ),
        (lambda frame: labelled(frame, FITTED, None), "training_set_arrival_delay_v1, .*is_late_present"),
        (lambda frame: labelled(frame, JUDGING, None), "judging_set_arrival_delay_v1, .*is_late_present"),
        (lambda frame: labelled(frame, JUDGING, 0.7), "judging_set_arrival_delay_v1, .*is_late_is_0_or_1"),
        (lambda frame: frame[frame.event_timestamp < JUDGING], "enough_rows .0 rows, at least 100 expected"),
    ],
    ids=[
        "one outcome", "a feature without values", "a label that is none", "a leak", "no outcome of a row",
        "no outcome of a row that judges", "half an outcome of such a row", "nothing that judges",
    ],
)  # fmt: skip
def test_a_training_set_that_cannot_be_registers_nothing(training, registry, monkeypatch, change, reason):
    """Outcomes that are none, or all one, among the rows that are fitted to or that judge; a feature that is all null
    or knows the outcome; nothing to judge by: each is named, and in the findings of the run."""
    from fti.training import dataset, train

    real = dataset.labelled_rows

    def changed(*arguments: Any) -> Any:
        rows = real(*arguments)
        return type(rows)(change(rows.frame), rows.interface, rows.row_key)

    monkeypatch.setattr(train, "labelled_rows", changed)
    code, said = training("train", *EARLY)
    assert code == 1
    assert re.search(reason, the_error(said))
    assert nothing_registered(registry)
    (run,) = registry.search_runs(["0"])
    assert run.info.status == "FAILED"
    assert "training_set_validation.json" in {file.path for file in registry.list_artifacts(run.info.run_id)}


def test_a_champion_is_not_judged_on_rows_that_it_was_fitted_to(training, registry):
    """Fitted to later rows than its challenger, it is judged on those after its own, and so is the challenger.

    The champion knows what was predicted before 14 February, and the challenger would be judged from the 9th on.
    """
    assert training("main", *EARLY)[0] == 0
    assert training("main", *EARLY[:-1], "2013-03-13")[0] == 0
    challenger = registry.get_model_version(NAME, "2")
    assert challenger.tags["gate.against"] == "1"
    decision = mlflow.artifacts.load_dict(f"runs:/{challenger.run_id}/gate.json")
    assert (decision["start"][:10], decision["end"][:10]) == ("2013-02-16", "2013-03-11")
    judged = Oracle().flights
    at = pd.to_datetime(judged.scheduled_departure - 2 * HOUR, unit="us", utc=True)
    judged = judged[judged.arr_delay.notna() & (at >= "2013-02-16") & (at < "2013-03-11")]
    scored = {name: decision[f"{name}_scores"]["rows"] for name in ("challenger", "champion")}
    assert scored == {"challenger": len(judged), "champion": len(judged)}


def test_a_search_tries_the_written_parameters_and_others_as_nested_runs(training, registry):
    """Three trials: the first with what config.yaml says; the best of them is what the model is fitted with."""
    from fti.training.config import load_config

    code, said = training("train", *EARLY, "--trials", "3")
    assert code == 0, said
    version = registry.get_model_version_by_alias(NAME, "challenger")
    parent = registry.get_run(version.run_id)
    trials = registry.search_runs(["0"], f"tags.mlflow.parentRunId = '{version.run_id}'")
    assert sorted(run.info.run_name for run in trials) == ["trial 0", "trial 1", "trial 2"]
    assert {run.info.status for run in trials} == {"FINISHED"}
    best = min(trials, key=lambda run: run.data.metrics["search_log_loss"])
    assert {f"model.{name}": value for name, value in best.data.params.items()}.items() <= parent.data.params.items()
    first = next(run for run in trials if run.info.run_name == "trial 0")
    assert first.data.params == {name: str(value) for name, value in load_config({}).model.model_dump().items()}


def test_a_model_whose_files_were_changed_is_not_loaded(training, registry, tmp_path):
    """One byte of the model, or what MLmodel says of how to load it: both are refused before anything is read."""
    from mlflow.artifacts import download_artifacts

    from fti.contract.interface import ContractBroken
    from fti.contract.registered import fetch_version

    assert training("train", *EARLY)[0] == 0
    version = registry.get_model_version_by_alias(NAME, "challenger")
    fetch_version(version)
    folder = Path(download_artifacts(version.source))  # of artifacts on this disk, the very files
    for file, change in (
        ("model.skops", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("MLmodel", lambda content: content.replace(b"fti.contract.pyfunc", b"evil.loader.of_files")),
    ):
        kept = (folder / file).read_bytes()
        (folder / file).write_bytes(change(kept))
        with pytest.raises(ContractBroken, match="the model was changed since"):
            fetch_version(version)
        code, said = training("evaluate")
        assert code == 1
        assert "the model was changed since" in the_error(said)
        (folder / file).write_bytes(kept)
    fetch_version(version)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "sitecustomize.py").write_text("print('mine')")
    moved = registry.create_model_version(NAME, source=(tmp_path / "copy").as_uri(), tags=version.tags)
    with pytest.raises(ContractBroken, match="the model was changed since"):
        fetch_version(moved)
