"""What training decides without data: configuration, scores, the gate's rules, and where the aliases go."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from training.config import CONFIG_FILE, ConfigInvalid, GateRules, load_config
from training.gate import AGAINST_TAG, DECISION_TAG, REASONS_TAG, decide
from training.metrics import calibration_error, scores
from training.promote import NothingToDo, PromotionRefused, challenger_of, promote, rollback, version_at
from training.run import require_one_registry

MODEL = "made-up"
RULES = GateRules(
    mode="enabled",
    min_roc_auc=0.7,
    min_gain_over_request_features=0.02,
    max_calibration_error=0.05,
    max_roc_auc_regression=0.01,
    max_brier_regression=0.01,
)
GOOD = {"roc_auc": 0.75, "brier": 0.15, "calibration_error": 0.01}


# ---- configuration --------------------------------------------------------------------------------------------------


def test_mlproject_shows_the_defaults_of_the_configuration():
    """MLflow lists defaults of its own; they say what config.yaml says."""
    project = yaml.safe_load(CONFIG_FILE.with_name("MLproject").read_text())
    written = {name: str(value) for name, value in yaml.safe_load(CONFIG_FILE.read_text()).items()}
    declared = [entry.get("parameters", {}) for entry in project["entry_points"].values()]
    assert sum(map(len, declared)) >= 4
    for parameters in declared:
        assert {name: given["default"] for name, given in parameters.items()} == {
            name: written[name] for name in parameters
        }


def test_the_split_leaves_a_gap_before_each_cut():
    """Fit, gap, validation, gap, as_of: nothing is fitted to whose outcome could still be missing for being late."""
    config = load_config({"as_of": "2013-10-01"})
    assert config.as_of == datetime(2013, 10, 1, tzinfo=UTC)
    assert config.validation_end == datetime(2013, 9, 29, tzinfo=UTC)
    assert config.validation_start == datetime(2013, 8, 30, tzinfo=UTC)
    assert config.fit_end == datetime(2013, 8, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"as_of": "last week"}, "2013-10-01T02:00Z"),
        ({"as_of": "2012-12-20"}, "choose an earlier start or a later as_of"),
        ({"validation_days": -1}, "greater than 0"),
        ({"feature_servise": "x"}, "feature_servise"),
    ],
)
def test_a_bad_parameter_is_one_line_that_names_it(overrides, said):
    """The message says which parameter, what was expected, and which file to mend."""
    with pytest.raises(ConfigInvalid) as error:
        load_config(overrides)
    assert said in str(error.value)
    assert "config.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unreadable_configuration_is_one_line(tmp_path: Path):
    """A YAML error does not come as a traceback over ten lines."""
    broken = tmp_path / "config.yaml"
    broken.write_text("gate: [unclosed")
    with pytest.raises(ConfigInvalid, match="cannot be read") as error:
        load_config({}, broken)
    assert "\n" not in str(error.value)


def test_a_relative_registry_path_is_refused():
    """MLflow runs a project in its own folder, where a relative path would start a second, empty registry."""
    with pytest.raises(ConfigInvalid, match="sqlite:////"):
        require_one_registry("sqlite:///mlflow.db")
    require_one_registry("sqlite:////somewhere/mlflow.db")
    require_one_registry("http://tracking.example")


# ---- scores ---------------------------------------------------------------------------------------------------------


def test_calibration_error_is_the_mean_gap_between_forecast_and_frequency():
    """Twenty bins of one row: the mean distance; forecasts equal to the frequency: nothing."""
    forecast = np.linspace(0.02, 0.98, 20)
    labels = pd.Series([0] * 10 + [1] * 10)
    assert calibration_error(labels, forecast) == pytest.approx(np.abs(forecast - labels).mean())
    assert calibration_error(pd.Series([0, 1] * 200), np.full(400, 0.5)) == 0


def test_scores_of_one_outcome_have_no_auc():
    """A month without a late flight has a Brier score and no AUC, instead of an error or a NaN."""
    found = scores(pd.Series([0, 0, 0]), np.array([0.1, 0.2, 0.3]))
    assert "roc_auc" not in found
    assert found["brier"] == pytest.approx((0.01 + 0.04 + 0.09) / 3)
    assert found["base_rate"] == 0


# ---- the gate's rules -----------------------------------------------------------------------------------------------


def failed(challenger: dict, reference: float | None, champion: dict | None) -> set[str]:
    return {rule.name for rule in decide(RULES, challenger, reference, champion) if not rule.passed}


@pytest.mark.parametrize(
    ("challenger", "reference", "champion", "wanted"),
    [
        (GOOD, 0.6, None, set()),
        (GOOD, 0.6, GOOD, set()),
        (GOOD | {"roc_auc": 0.69}, 0.6, None, {"roc_auc"}),
        (GOOD | {"calibration_error": 0.06}, 0.6, None, {"calibration_error"}),
        (GOOD, 0.74, None, {"gain_over_request_features"}),
        (GOOD, 0.6, GOOD | {"roc_auc": 0.77}, {"roc_auc_regression"}),
        (GOOD, 0.6, GOOD | {"brier": 0.13}, {"brier_regression"}),
        (GOOD, None, None, {"gain_over_request_features"}),
        ({"brier": 0.1}, 0.6, None, {"roc_auc", "calibration_error", "gain_over_request_features"}),
        (GOOD | {"roc_auc": float("nan")}, 0.6, GOOD, {"roc_auc", "gain_over_request_features", "roc_auc_regression"}),
        (GOOD, 0.6, {"brier": 0.15}, {"roc_auc_regression"}),
    ],
)
def test_each_rule_decides_alone_and_a_missing_score_fails_it(challenger, reference, champion, wanted):
    """Floors, gain over the reference, regression against the champion; no score, no promotion."""
    assert failed(challenger, reference, champion) == wanted


# ---- aliases, in a real registry ------------------------------------------------------------------------------------


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    found = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found.create_registered_model(MODEL)
    return found


def register(client: MlflowClient, decision: str | None = "passed", against: str = "none") -> str:
    """A new challenger, judged or not."""
    version = str(client.create_model_version(MODEL, source="file:///nowhere").version)
    client.set_registered_model_alias(MODEL, "challenger", version)
    if decision:
        for tag, value in {DECISION_TAG: decision, AGAINST_TAG: against, REASONS_TAG: "because"}.items():
            client.set_model_version_tag(MODEL, version, tag, value)
    return version


def aliases(client: MlflowClient) -> dict[str, str]:
    found = {name: version_at(client, MODEL, name) for name in ("champion", "challenger", "previous")}
    return {name: str(version.version) for name, version in found.items() if version is not None}


def test_promotion_and_rollback_move_the_aliases_and_nothing_else(client):
    """First release, second release, back, and back again."""
    register(client)
    promote(client, MODEL, "enabled")
    assert aliases(client) == {"champion": "1"}
    register(client, against="1")
    promote(client, MODEL, "enabled")
    assert aliases(client) == {"champion": "2", "previous": "1"}
    rollback(client, MODEL)
    assert aliases(client) == {"champion": "1", "previous": "2"}
    rollback(client, MODEL)
    assert aliases(client) == {"champion": "2", "previous": "1"}


@pytest.mark.parametrize(
    ("decision", "against", "said"),
    [(None, "1", "never judged"), ("failed", "1", "because"), ("passed", "none", "judged against champion none")],
)
def test_a_bad_missing_or_outdated_judgement_promotes_nothing(client, decision, against, said):
    """The gate is on: no judgement, a bad one, or one about another champion leaves every alias where it was."""
    register(client)
    promote(client, MODEL, "enabled")
    register(client, decision, against)
    before = aliases(client)
    with pytest.raises(PromotionRefused, match=said):
        promote(client, MODEL, "enabled")
    assert aliases(client) == before == {"champion": "1", "challenger": "2"}


def test_dry_run_reports_and_disabled_asks_nobody(client):
    """dry_run moves nothing; disabled promotes what was never judged."""
    register(client, decision=None)
    promote(client, MODEL, "disabled")
    assert aliases(client) == {"champion": "1"}
    register(client, against="1")
    assert "would be promoted" in promote(client, MODEL, "dry_run")
    assert aliases(client) == {"champion": "1", "challenger": "2"}


def test_nothing_to_promote_or_to_go_back_to_says_so(client):
    """An empty registry and a first release are no errors of MLflow's."""
    with pytest.raises(NothingToDo, match="make train"):
        promote(client, MODEL, "enabled")
    with pytest.raises(NothingToDo, match="make train"):
        challenger_of(client, "never registered")
    register(client)
    promote(client, MODEL, "enabled")
    with pytest.raises(NothingToDo, match="previous"):
        rollback(client, MODEL)
