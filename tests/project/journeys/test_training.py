"""Real models of the real year, through `mlflow run`: what they saw, what they carry, what the gate did with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score

from tests.conftest import Workspace
from tests.oracle import HOUR, MINUTE, Oracle, micros, timestamp

NAME = "arrival-delay"
AS_OF = pd.Timestamp("2013-10-01", tz="UTC")
FIT_END, VALIDATION_START, VALIDATION_END = (
    pd.Timestamp(day, tz="UTC") for day in ("2013-08-28", "2013-08-30", "2013-09-29")
)


@pytest.fixture(scope="module")
def client(trained: Workspace) -> Iterator[MlflowClient]:
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MLFLOW_TRACKING_URI", trained.tracking_uri)
        yield MlflowClient()


@pytest.fixture(scope="module")
def store(trained: Workspace) -> Any:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(trained.repo))


@pytest.fixture(scope="module")
def outcomes() -> pd.DataFrame:
    """Every flight that landed: prediction time, moment of landing and label, by flight, from the raw file alone."""
    flights = Oracle().flights
    landed = flights[flights.arr_delay.notna()]
    return pd.DataFrame(
        {
            "predicted_at": [timestamp(at - 2 * HOUR) for at in landed.scheduled_departure],
            "landed_at": [timestamp(at) for at in landed.arrived_at],
            "is_late": (landed.arr_delay >= 15).astype(int).to_numpy(),
        },
        index=landed.flight_id,
    )


def aliases(client: MlflowClient) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(NAME).aliases.items()}


def metrics(client: MlflowClient, version: str) -> dict[str, float]:
    return client.get_run(client.get_model_version(NAME, version).run_id).data.metrics


# ---- what a run leaves in the registry ------------------------------------------------------------------------------


def test_the_better_model_is_champion_and_the_other_can_come_back(client):
    """v1 was promoted first, v2 passed the gate against it."""
    assert aliases(client) == {"champion": "2", "previous": "1"}
    for version, service in (("1", "arrival_delay_v1"), ("2", "arrival_delay_v2")):
        tags = client.get_model_version(NAME, version).tags
        assert tags["feast.feature_service"] == service
        assert tags["gate.decision"] == "passed"
    assert client.get_model_version(NAME, "1").tags["gate.against"] == "none"
    assert client.get_model_version(NAME, "2").tags["gate.against"] == "1"


def test_a_run_holds_its_evidence(client):
    """Plots, the training set's validation, the contract and the gate's decision are artifacts of the run."""
    run_id = client.get_model_version(NAME, "2").run_id
    plots = {Path(file.path).name for file in client.list_artifacts(run_id, "plots")}
    curves = {"roc.png", "precision_recall.png", "calibration.png", "gain.png"}
    assert plots == curves | {"permutation_importance.png", "slices.png"}
    files = {file.path for file in client.list_artifacts(run_id)}
    records = {"training_set_validation.json", "feature_contract.json", "training_config.json", "training_profile.json"}
    assert files >= records | {"slices.json", "gate.json", "gate.txt"}
    tags = client.get_run(run_id).data.tags
    assert tags["git_commit"]
    assert tags["feast.feature_service"] == "arrival_delay_v2"


def test_the_recorded_scores_are_those_of_the_registered_model(client, store, outcomes):
    """Loading the version and scoring October to December again gives the AUC in MLflow, over all landed flights."""
    from fti.contract.registered import fetch_version
    from fti.training.dataset import END_OF_TIME, labelled_rows

    folder, contract = fetch_version(client.get_model_version(NAME, "2"))
    rows = labelled_rows(store, contract.interface, AS_OF, END_OF_TIME)
    late = outcomes[outcomes.predicted_at >= AS_OF].is_late
    assert sorted(rows.frame.flight_id) == sorted(late.index)
    probabilities = mlflow.sklearn.load_model(str(folder)).predict_proba(rows.inputs)[:, 1]
    auc = roc_auc_score(late[rows.frame.flight_id], probabilities)
    recorded = metrics(client, "2")
    assert recorded["holdout_roc_auc"] == pytest.approx(auc, abs=1e-12)
    assert recorded["holdout_rows"] == len(late)
    assert recorded["holdout_brier"] == pytest.approx(np.mean((probabilities - late[rows.frame.flight_id]) ** 2))


def test_stored_features_earn_their_keep(client):
    """On the months after training, v2 beats v1, and both beat what the request alone can tell."""
    first, second = metrics(client, "1"), metrics(client, "2")
    assert second["holdout_roc_auc"] > first["holdout_roc_auc"] + 0.03
    assert first["holdout_roc_auc"] > first["holdout_request_features_roc_auc"] + 0.02
    assert second["holdout_roc_auc"] > 0.74
    assert second["holdout_calibration_error"] < 0.02
    for reference in ("request_features", "climatology"):
        assert second[f"holdout_{reference}_roc_auc"] < 0.65
    assert second["holdout_logistic_regression_roc_auc"] < second["holdout_roc_auc"] - 0.005


@pytest.mark.parametrize("version", ["1", "2"])
def test_the_training_set_is_kept_and_named_as_the_data_of_the_run(client, store, trained, version):
    """MLflow names table, version and hash; what is kept there is what the model was fitted to, to the bit."""
    from fti.contract.registered import fetch_version
    from fti.contract.spine import row_key_of
    from fti.training.dataset import stored_rows, training_sets

    contract = fetch_version(client.get_model_version(NAME, version))[1]
    service, sha256 = contract.interface.feature_service, contract.training_set.sha256
    run = client.get_run(client.get_model_version(NAME, version).run_id)
    (used,) = run.inputs.dataset_inputs
    table = training_sets(store, service)
    assert table == trained.root / "data" / "training_sets" / service
    assert (used.dataset.name, used.dataset.digest) == (service, sha256[:32])
    assert json.loads(used.dataset.source)["path"] == str(table)
    assert run.data.params["training_set.version"] == "0"
    kept = stored_rows(contract.interface, row_key_of(store, contract.interface), table, sha256)
    assert (len(kept), kept.sha256) == (contract.training_set.rows, sha256)


# ---- what a model saw -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "2"])
def test_the_training_set_is_rebuilt_to_the_bit_from_its_contract(client, store, outcomes, version):
    """The recorded table versions give rows with the recorded hash: all flights known in time, no others."""
    from fti.contract.registered import fetch_version
    from fti.training.dataset import labelled_rows

    contract = fetch_version(client.get_model_version(NAME, version))[1]
    recorded = contract.training_set
    store.config.offline_store.delta_versions.update(recorded.delta_versions)
    known = labelled_rows(store, contract.interface, recorded.start, recorded.as_of)
    rows = known.between(recorded.start, recorded.end, known_by=VALIDATION_START)
    assert (len(rows), rows.sha256) == (recorded.rows, recorded.sha256)
    assert recorded.end == FIT_END
    wanted = outcomes[(outcomes.predicted_at < FIT_END) & (outcomes.landed_at <= VALIDATION_START)]
    assert sorted(rows.frame.flight_id) == sorted(wanted.index)
    assert rows.labels.tolist() == wanted.is_late[rows.frame.flight_id].tolist()
    changed = rows.frame.assign(is_late=1 - rows.labels)
    assert type(rows)(changed, rows.interface, rows.row_key).sha256 != recorded.sha256


def test_no_outcome_after_as_of_reaches_a_training_set(store, outcomes):
    """Two minutes before a landing its label does not exist; at the landing it does."""
    from fti.training.dataset import labelled_rows
    from fti.training.train import read_interface

    interface = read_interface(store, "arrival_delay_v1")
    near = outcomes[outcomes.landed_at.between(*(pd.Timestamp(f"2013-06-0{day}", tz="UTC") for day in (2, 3)))]
    landed_at = near.landed_at.iloc[len(near) // 2]
    start = landed_at - pd.Timedelta(days=1)
    for as_of in (landed_at - pd.Timedelta(minutes=2), landed_at):
        rows = labelled_rows(store, interface, start.to_pydatetime(), as_of.to_pydatetime())
        known = outcomes[(outcomes.landed_at <= as_of) & (outcomes.predicted_at >= start)]
        assert sorted(rows.frame.flight_id) == sorted(known.index)


def test_prediction_times_are_two_hours_before_departure(store):
    """A row's features are as of its prediction time, not of its departure or its landing."""
    from fti.training.dataset import labelled_rows
    from fti.training.train import read_interface

    rows = labelled_rows(
        store,
        read_interface(store, "arrival_delay_v1"),
        *(timestamp(micros(day)).to_pydatetime() for day in ("2013-05-01", "2013-05-03")),
    ).frame
    lead = rows.scheduled_departure - rows.event_timestamp
    assert (lead == pd.Timedelta(microseconds=120 * MINUTE)).all()


# ---- the contract ---------------------------------------------------------------------------------------------------


def test_each_version_carries_its_own_features(client):
    """v1 and v2 ask for different columns, and each lists those its estimator was fitted to, in order."""
    from fti.contract.registered import fetch_version

    inputs = {}
    for version in ("1", "2"):
        folder, contract = fetch_version(client.get_model_version(NAME, version))
        estimator = mlflow.sklearn.load_model(str(folder))
        inputs[version] = [model_input.name for model_input in contract.interface.inputs]
        assert estimator.feature_names_in_.tolist() == inputs[version]
        assert client.get_model_version(NAME, version).tags["feature_contract.sha256"] == contract.sha256
    assert set(inputs["1"]) - set(inputs["2"])
    assert set(inputs["2"]) - set(inputs["1"])


def test_a_changed_contract_is_refused(client, tmp_path, store):
    """A contract that is not the one registered, and one that the live registry no longer honours, say what differs."""
    from fti.contract.interface import ContractBroken
    from fti.contract.registered import fetch_version

    version = client.get_model_version(NAME, "2")
    folder, contract = fetch_version(version)
    contract.verify(store)
    view = contract.interface.stored_views[0]
    shorter = contract.interface.model_copy(
        update={"stored_views": [view.model_copy(update={"ttl_seconds": 60}), *contract.interface.stored_views[1:]]}
    )
    with pytest.raises(ContractBroken, match="ttl_seconds: recorded 60, now 21600"):
        contract.model_copy(update={"interface": shorter}).verify(store)
    tampered = json.loads((folder / "extra_files/feature_contract.json").read_text())
    tampered["training_set"]["rows"] += 1
    (tmp_path / "extra_files").mkdir()
    (tmp_path / "extra_files/feature_contract.json").write_text(json.dumps(tampered))
    client.create_registered_model("forged")
    forged = client.create_model_version("forged", source=tmp_path.as_uri(), tags=version.tags)
    with pytest.raises(ContractBroken, match="was changed since"):
        fetch_version(forged)


# ---- the gate, from the command line --------------------------------------------------------------------------------


@pytest.fixture
def training(client, trained, monkeypatch, capsys):
    """Call the training command line in this process, over the trained workspace; returns exit code, output, errors."""
    from fti.training.run import main

    monkeypatch.setenv("TRAINING_FEAST_REPO", str(trained.repo))

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(list(arguments))
        except SystemExit as wrong_usage:
            code = wrong_usage.code
        return code, *capsys.readouterr()

    return run


def test_a_worse_challenger_is_refused_and_rollback_takes_the_features_along(client, training):
    """v1 as a challenger of v2 fails, promotes nothing and exits with 1; rollback then makes v1 champion, and back."""
    client.set_registered_model_alias(NAME, "challenger", "1")
    try:
        code, said, _ = training("evaluate")
        assert code == 0
        assert "FAIL roc_auc_regression" in said
        code, _, error = training("promote")
        assert code == 1
        assert error.startswith("error: The gate refuses version 1")
        assert aliases(client) == {"champion": "2", "previous": "1", "challenger": "1"}
    finally:
        client.delete_registered_model_alias(NAME, "challenger")
    assert training("rollback")[0] == 0
    assert aliases(client) == {"champion": "1", "previous": "2"}
    assert client.get_model_version_by_alias(NAME, "champion").tags["feast.feature_service"] == "arrival_delay_v1"
    assert training("rollback")[0] == 0
    assert client.get_model_version_by_alias(NAME, "champion").tags["feast.feature_service"] == "arrival_delay_v2"


def test_a_champion_is_rebuilt_to_the_last_bit(training):
    """The training set from the recorded table versions, the model from the recorded parameters."""
    code, said, _ = training("reproduce")
    assert code == 0
    assert "same     training set" in said
    assert "same     predictions of 1,000 rows, to the last bit" in said
    assert "DIFFERS" not in said


def test_what_does_not_come_out_the_same_is_named(client, store, training, monkeypatch):
    """Another value in one cell of the rebuilt rows, or other parameters: which row, which cell, by how much."""
    from fti.training import reproduce

    real = reproduce.labelled_rows

    def one_cell_off(*arguments: Any) -> Any:
        rows = real(*arguments)
        rows.frame.loc[7, "route_distance_miles"] += 1
        return rows

    with monkeypatch.context() as here:
        here.setattr(reproduce, "labelled_rows", one_cell_off)
        code, said, error = training("reproduce", "--version", "1")
    assert code == 1
    assert "arrival-delay version 1 did not come out the same" in error
    assert "route_distance_miles: 1 cells; " in said
    run = training("reproduce", "--run-id", "0123456789")
    assert run[0] == 1
    assert "registered no model version" in run[2]


def test_table_versions_that_are_gone_are_made_up_for_by_the_kept_copy(client, store, training, monkeypatch):
    """VACUUM has removed what the contract names: the kept training set has it still."""
    from deltalake.exceptions import DeltaError

    from fti.training import reproduce

    def gone(*_: Any) -> Any:
        raise DeltaError("version 0 is no more")

    monkeypatch.setattr(reproduce, "labelled_rows", gone)
    code, said, _ = training("reproduce", "--version", "1")
    assert code == 0
    assert "the kept copy of the training set was used" in said
    assert "same     predictions of 1,000 rows" in said


@pytest.mark.parametrize(
    ("parameters", "ends_with", "said", "marked_failed"),
    [
        (("--feature-service", "arrival_delay_v9"), 1, "Known are ['arrival_delay_v1', 'arrival_delay_v2']", None),
        (("--as-of", "yesterday"), 2, "'yesterday' is not a moment", None),
        (("--as-of", "2012-12-20"), 1, "choose an earlier start or a later as_of", None),
        (("--as-of", "2013-02-03"), 1, "at least 1000 expected", True),
    ],
)
def test_a_parameter_that_cannot_be_is_one_line_and_registers_nothing(
    client, training, parameters, ends_with, said, marked_failed
):
    """A run that cannot be ends with one line and is marked failed; versions and aliases stay as they were."""
    before = aliases(client), len(client.search_model_versions(f"name='{NAME}'"))
    code, _, error = training("main", *parameters)
    assert code == ends_with
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert said in line
    assert "Traceback" not in error
    assert (aliases(client), len(client.search_model_versions(f"name='{NAME}'"))) == before
    # None: the parameter is refused before there is a run.
    assert marked_failed is None or (client.search_runs(["0"], max_results=1)[0].info.status == "FAILED")
