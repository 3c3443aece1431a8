"""What training decides without data: configuration, scores, the gate's rules, and where the aliases go."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.projects._project_spec import load_project
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from sklearn.metrics import roc_auc_score

from fti.contract.feature_contract import TrainingSet
from fti.contract.metrics import Difference, calibration_error, differences, gain, scores, slice_scores
from fti.contract.registered import AGAINST_TAG, DECISION_TAG, PROJECT_TAG, REASONS_TAG
from fti.contract.task import WEIGHABLE
from fti.times import utc
from fti.training.config import PARAMETERS, ConfigInvalid, GateRules, SliceRule, load_config
from fti.training.dataset import LabelledRows
from fti.training.evaluate import NotComparable, unseen_by
from fti.training.evaluate import write as write_decision
from fti.training.gate import Decision, decide
from fti.training.leaks import auc_alone, r2_alone
from fti.training.promote import (
    PATIENCE,
    NothingToDo,
    challenger_of,
    find_version,
    make_challenger,
    promote,
    retire,
    version_at,
)
from fti.training.rollback import rollback
from fti.training.run import require_one_registry
from fti.training.runs import claim
from fti.training.search import search
from fti.training.train import ModelOfAnother, _ensure_registered, known_of
from fti.training.turn import PromotionRefused, _read, one_at_a_time
from tests.conftest import ROOT
from training.model import build_model

MODEL = "made-up"
CONFIG_FILE = ROOT / "training" / "config.yaml"
RULES = GateRules.model_validate(
    {
        "mode": "enabled",
        "metrics": {
            "roc_auc": {"better": "higher", "limit": 0.7, "max_regression": 0.01},
            "brier": {"better": "lower", "max_regression": 0.01},
            "calibration_error": {"better": "lower", "limit": 0.05},
            "gain_over_request_features": {"better": "higher", "limit": 0.02},
            "latency_ms": {"better": "lower", "limit": 20},
        },
        "slices": {"metric": "roc_auc", "limit": 0.6, "min_rows": 100},
        "bootstrap": {"resamples": 200, "confidence": 0.95},
    }
)
GOOD = {
    "roc_auc": 0.75, "brier": 0.15, "calibration_error": 0.01, "gain_over_request_features": 0.05, "latency_ms": 5.0,
}  # fmt: skip


def sliced(roc_auc: float, rows: int = 100) -> pd.DataFrame:
    return pd.DataFrame({"slice": ["origin"], "group": ["JFK"], "rows": [rows], "roc_auc": [roc_auc]})


def apart(roc_auc: tuple[float, float, float] = (0.0, -0.005, 0.005), **others: Difference) -> dict[str, Difference]:
    return {"roc_auc": Difference(*roc_auc), "brier": Difference(0.0, -0.005, 0.005)} | others


# ---- configuration --------------------------------------------------------------------------------------------------


def test_mlproject_has_no_defaults_of_its_own():
    """MLflow passes its defaults on as if they were asked for: all but an empty one would win over config.yaml."""
    project = yaml.safe_load(CONFIG_FILE.with_name("MLproject").read_text())
    declared = [
        (name, given["default"])
        for entry in project["entry_points"].values()
        for name, given in entry.get("parameters", {}).items()
        if name in PARAMETERS
    ]
    assert {name for name, _ in declared} == set(PARAMETERS)
    assert {default for _, default in declared} == {""}


def test_its_own_environment_has_what_training_was_tested_with():
    """Each package of the `training` extra and of all pipelines, at the version in uv.lock.

    But numpy: uv.lock has a version of it for each Python, and pandas brings it.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["training"]
    wanted = {re.split("[<>=]", one)[0] for one in needed} - {"numpy"}
    written = yaml.safe_load(CONFIG_FILE.with_name("python_env.yaml").read_text())["dependencies"]
    pinned = dict(one.split("==") for one in written)
    assert set(pinned) == wanted
    locked = {(one["name"], one["version"]) for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert {(name.partition("[")[0], version) for name, version in pinned.items()} <= locked


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
        ({"trials": "many"}, "search.trials"),
        ({"mode": "off"}, "gate.mode"),
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


@pytest.mark.parametrize("metric", ["calibration_error", "latency_ms", "gain_over_request_features", "log_los"])
def test_a_regression_that_nobody_can_tell_is_refused_at_once(tmp_path: Path, metric: str):
    """The first release would pass and every later one fail, for its difference to the champion is always missing."""
    written = yaml.safe_load(CONFIG_FILE.read_text())
    written["gate"]["metrics"][metric] = {"better": "lower", "limit": 1.0}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(written))
    load_config({}, file)
    written["gate"]["metrics"][metric]["max_regression"] = 0.01
    file.write_text(yaml.safe_dump(written))
    with pytest.raises(
        ConfigInvalid, match=f"gate.metrics.*{metric} can have.* no max_regression.*roc_auc.*rmse"
    ) as error:
        load_config({}, file)
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


def test_scores_of_numbers_are_their_formulas():
    """Errors in the label's unit, the bias with its sign; of one label only there is no R2."""
    labels, said = pd.Series([10.0, 20.0, 60.0]), np.array([12.0, 18.0, 54.0])
    found = scores(labels, said, "regression")
    assert found == pytest.approx(
        {
            "rmse": ((4 + 4 + 36) / 3) ** 0.5, "mae": 10 / 3, "bias": -2.0, "mean_label": 30.0, "rows": 3,
            "label_std": ((400 + 100 + 900) / 3) ** 0.5, "r2": 1 - 44 / 1400,
        }
    )  # fmt: skip
    assert "r2" not in scores(pd.Series([5.0, 5.0]), np.array([4.0, 6.0]), "regression")
    assert gain(8.0, 10.0, "regression") == pytest.approx(0.2)
    assert gain(0.75, 0.7, "classification") == pytest.approx(0.05)


def test_slices_of_numbers_have_errors():
    columns = pd.DataFrame({"origin": ["JFK", "JFK", "EWR"]})
    found = slice_scores(columns, {"origin": []}, pd.Series([1.0, 3.0, 8.0]), np.array([2.0, 2.0, 5.0]), "regression")
    found = found.set_index("group")
    assert found.loc["JFK", ["rows", "rmse", "bias", "mean_label", "mean_forecast"]].tolist() == [2, 1, 0, 2, 2]
    assert found.loc["EWR", ["rmse", "mae", "bias"]].tolist() == [3, 3, -3]
    assert np.isnan(found.loc["EWR", "r2"])


def test_a_slice_has_a_ceiling_where_lower_is_better():
    """An RMSE above the limit of a slice fails, one below passes; a score that the task has not, fails."""
    rules = RULES.model_copy(
        update={"metrics": {}, "slices": SliceRule(metric="rmse", better="lower", limit=5, min_rows=100)}
    )
    named = {"slice": ["origin"] * 2, "group": ["JFK", "EWR"], "rows": [100, 100]}
    found = decide(rules, {}, pd.DataFrame(named | {"rmse": [4.9, 5.1]}))
    assert [(rule.name, rule.passed) for rule in found] == [("rmse[origin=JFK]", True), ("rmse[origin=EWR]", False)]
    assert not any(rule.passed for rule in decide(rules, {}, pd.DataFrame(named | {"roc_auc": [0.9, 0.9]})))


def test_a_feature_that_knows_the_class_is_found_however_it_tells():
    """Also one that tells by where it is missing, or by being extreme; noise, names of rows and constants do not."""
    chance, rows = np.random.default_rng(12), 20_000
    labels = pd.Series((chance.random(rows) < 0.2).astype(int))
    noise, late = pd.Series(chance.normal(size=rows)), labels == 1
    others = pd.Series(np.arange(rows), labels.index).isin(np.flatnonzero(~late)[:100])
    mixed = labels.where(chance.random(rows) < 0.5, chance.permutation(labels))
    numbers = pd.DataFrame(
        {
            "copy": labels, "turned": -labels + noise / 10, "known_if_late": noise.where(late | others),
            "missing_if_late": noise.mask(late & (noise > -2)), "extreme": labels * np.sign(noise) * 2 + noise / 10,
            "mixed": mixed, "noise": noise, "name": chance.permutation(rows), "constant": 1.0, "empty": np.nan,
        }
    )  # fmt: skip
    found = auc_alone(numbers, labels).set_index("feature").auc_alone
    assert (found[["copy", "turned", "known_if_late", "missing_if_late", "extreme"]] > 0.98).all()
    assert found["mixed"] == pytest.approx(roc_auc_score(labels, mixed), abs=1e-9)  # two values, so two groups
    assert (found[["noise", "name"]] < 0.55).all()
    assert found[["constant", "empty"]].tolist() == [0.5, 0.5]


def test_a_feature_that_knows_the_number_is_found_however_it_tells():
    """A copy, one bent or turned round, one that is blank where the label is high; noise and constants tell nothing."""
    chance = np.random.default_rng(12)
    labels = pd.Series(np.exp(chance.normal(0, 2, 4000)))  # a few are a thousand times the usual
    numbers = pd.DataFrame(
        {
            "copy": labels, "bent": -np.log(labels), "folded": np.abs(labels.rank() - 2000),
            "blank": pd.Series(1.0, labels.index).where(labels < labels.median()),
            "near": labels.rank() + chance.normal(0, 2000, 4000), "noise": chance.normal(size=4000),
            "constant": 1.0, "empty": np.nan,
        }
    )  # fmt: skip
    found = r2_alone(numbers, labels).set_index("feature").r2_alone
    assert (found[["copy", "bent"]] > 0.99).all()
    assert found["folded"] < 0.05  # it does not tell high from low: no more than noise does
    assert found["blank"] == pytest.approx(0.75, abs=0.01)  # which half it is in: 3/4 of a uniform's variance
    assert 0.1 < found["near"] < 0.4
    assert found["noise"] < 0.02
    assert found[["constant", "empty"]].tolist() == [0, 0]


def test_a_probability_is_calibrated_and_a_number_is_not():
    parameters = load_config({}).model.model_copy(update={"calibration": "isotonic"})
    with pytest.raises(ConfigInvalid, match="calibration is isotonic"):
        build_model(["origin"], parameters, "regression")


def test_a_real_difference_is_told_from_chance():
    """A forecast that knows more is better beyond chance; the same knowledge with other noise is not; by days."""
    chance = np.random.default_rng(1)
    days = np.repeat(np.arange(40), 100)
    risk = chance.uniform(0.05, 0.6, len(days))
    labels = (chance.random(len(days)) < risk).astype(int)
    noisy = [np.clip(risk + chance.normal(0, 0.2, len(days)), 0, 1) for _ in range(2)]
    found = differences(labels, risk, noisy[0], days, ["roc_auc", "brier"], 200, 0.95, seed=3)
    assert found["roc_auc"].value == pytest.approx(roc_auc_score(labels, risk) - roc_auc_score(labels, noisy[0]))
    assert found["roc_auc"].low > 0
    assert found["brier"].high < 0
    assert found["roc_auc"].is_real
    same = differences(labels, noisy[0], noisy[1], days, ["roc_auc"], 200, 0.95, seed=3)["roc_auc"]
    assert same.low < 0 < same.high
    assert not same.is_real
    assert differences(labels, noisy[0], noisy[0], days, ["roc_auc"], 200, 0.95, seed=3)["roc_auc"].high == 0


def test_a_difference_is_told_of_every_score_that_may_have_a_max_regression():
    """Of a probability and of a number; the difference is that of the scores themselves."""
    chance = np.random.default_rng(4)
    days, outcomes = np.repeat(np.arange(20), 50), {"classification": chance.integers(0, 2, 1000)}
    outcomes["regression"] = chance.normal(size=1000)
    told = set()
    for task, labels in outcomes.items():
        one, other = (np.clip(labels * 0.2 + chance.uniform(0.1, 0.7, 1000), 0, 1) for _ in range(2))
        own, theirs = (scores(pd.Series(labels), said, task) for said in (one, other))
        names = [name for name in WEIGHABLE if name in own]
        found = differences(labels, one, other, days, names, 100, 0.9, seed=1, task=task)
        assert {name: each.value for name, each in found.items()} == pytest.approx(
            {name: own[name] - theirs[name] for name in names}
        )
        told |= set(names)
    assert told == set(WEIGHABLE)


def test_whole_days_are_drawn_because_their_flights_are_alike():
    """One forecast is better on half of the days only: by days that is less sure than by flights."""
    chance = np.random.default_rng(2)
    days = np.repeat(np.arange(20), 200)
    labels = chance.integers(0, 2, len(days))
    one = np.where(days % 2, labels * 0.5 + 0.25, 0.5) + chance.normal(0, 0.05, len(days))
    other = np.full(len(days), 0.5) + chance.normal(0, 0.05, len(days))
    widths = [
        (found := differences(labels, one, other, blocks, ["roc_auc"], 200, 0.95, seed=1)["roc_auc"]).high - found.low
        for blocks in (days, np.arange(len(days)))
    ]
    assert widths[0] > 2 * widths[1]


def test_slices_cover_each_row_once_and_say_what_is_missing():
    """Texts by value, numbers between their cuts, missing by itself, and columns that are not there left out."""
    columns = pd.DataFrame({"origin": ["JFK", "JFK", "EWR", None], "hour": [8.0, 9.0, 20.0, np.nan]})
    cuts = {"origin": [], "hour": [9, 15], "weather": []}
    found = slice_scores(columns, cuts, pd.Series([0, 1, 0, 1]), np.array([0.1, 0.9, 0.2, 0.8]))
    groups = found[["slice", "group", "rows"]].to_numpy().tolist()
    assert groups == [
        ["origin", "EWR", 1], ["origin", "JFK", 2], ["origin", "missing", 1],
        ["hour", "below 9", 1], ["hour", "9 to 15", 1], ["hour", "from 15", 1], ["hour", "missing", 1],
    ]  # fmt: skip
    assert found[found.group == "JFK"].roc_auc.tolist() == [1.0]
    assert found[found.group == "EWR"].roc_auc.isna().all()


# ---- the gate's rules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("challenger", "slices", "champion", "between", "wanted"),
    [
        (GOOD, sliced(0.7), None, None, set()),
        (GOOD, sliced(0.7), GOOD, apart(), set()),
        (GOOD | {"roc_auc": 0.69}, sliced(0.7), None, None, {"roc_auc"}),
        (GOOD | {"calibration_error": 0.06}, sliced(0.7), None, None, {"calibration_error"}),
        (GOOD | {"gain_over_request_features": 0.01}, sliced(0.7), None, None, {"gain_over_request_features"}),
        (GOOD | {"latency_ms": 21.0}, sliced(0.7), None, None, {"latency_ms"}),
        (GOOD, sliced(0.59), None, None, {"roc_auc[origin=JFK]"}),
        (GOOD, sliced(0.59, rows=99), None, None, set()),
        (GOOD, sliced(float("nan")), None, None, {"roc_auc[origin=JFK]"}),
        # The interval decides: worse by little but surely, and worse by little for all that is known.
        (GOOD, sliced(0.7), GOOD, apart((-0.005, -0.009, -0.001)), set()),
        (GOOD, sliced(0.7), GOOD, apart((-0.005, -0.011, 0.001)), {"roc_auc_regression"}),
        (GOOD, sliced(0.7), GOOD, apart(brier=Difference(0.005, 0.0, 0.011)), {"brier_regression"}),
        # What is missing does not pass.
        ({}, sliced(0.7), None, None, {"roc_auc", "calibration_error", "gain_over_request_features", "latency_ms"}),
        (GOOD | {"roc_auc": float("nan")}, sliced(0.7), None, None, {"roc_auc"}),
        (GOOD, sliced(0.7), GOOD, {}, {"roc_auc_regression", "brier_regression"}),
        (GOOD, sliced(0.7), GOOD, None, {"roc_auc_regression", "brier_regression"}),
    ],
)
def test_each_rule_decides_alone_and_a_missing_score_fails_it(challenger, slices, champion, between, wanted):
    """Limits, slices that are large enough, regressions against the champion; no score, no promotion."""
    assert {rule.name for rule in decide(RULES, challenger, slices, champion, between) if not rule.passed} == wanted


@pytest.mark.parametrize(
    ("later", "judged"),
    [(-40, None), (0, None), (1, "2013-08-31"), (23, "2013-09-22"), (24, "refused"), (400, "refused")],
)
def test_a_champion_fitted_to_later_rows_shortens_what_both_are_judged_on(later: int, judged: str | None):
    """By as many days as it knows more, whatever its own start; of less than a week it is refused, with a way out.

    As of 1 October the challenger is fitted to what was predicted before 28 August, and judged from the 30th on.
    """
    config = load_config({"as_of": "2013-10-01"})
    known: dict[str, Any] = {"rows": 1, "sha256": "0", "delta_versions": {}, "start": config.start}
    own = TrainingSet(as_of=config.as_of, end=config.fit_end, **known)
    days = timedelta(days=later)
    theirs = TrainingSet(as_of=config.as_of + days, end=config.fit_end + days, **known)
    challenger, champion = (SimpleNamespace(training_set=one) for one in (own, theirs))
    assert unseen_by([challenger], config) == ([utc("2013-08-30")], utc("2013-09-29"))
    if judged == "refused":
        at_least = f"{utc('2013-10-01') + days:%Y-%m-%d}"
        with pytest.raises(NotComparable, match=f"fewer than 7 days are left. Train as of {at_least} or later"):
            unseen_by([challenger, champion], config)
        assert unseen_by([SimpleNamespace(training_set=theirs), champion], config)[0] == [utc("2013-08-30") + days] * 2
    else:
        starts = [utc("2013-08-30"), utc(judged or "2013-08-30")]
        assert unseen_by([challenger, champion], config) == (starts, utc("2013-09-29"))


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_without_git_a_model_names_the_commit_that_the_image_was_built_from(tmp_path: Path, monkeypatch):
    """In a container there is neither git nor a checkout, and training goes on all the same."""
    from fti.training.train import git_commit

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("GIT_COMMIT", "8c0ffee")
    assert git_commit() == "8c0ffee"
    monkeypatch.delenv("GIT_COMMIT")
    assert git_commit() == "unknown"


def test_a_run_whose_process_was_killed_is_marked_failed_by_the_next(tmp_path: Path):
    """kill -9 leaves a run that says it runs; the next run on this machine says what became of it."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    dead, alive, elsewhere, unclaimed, ours = (client.create_run("0").info.run_id for _ in range(5))
    program = "from mlflow import MlflowClient; from fti.training.runs import claim; import time\n"
    program += f"claim(MlflowClient({uri!r}), {dead!r}); print('claimed', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "claimed\n"
        client.set_tag(alive, "process", client.get_run(dead).data.tags["process"])
        claim(client, ours)
        assert client.get_run(dead).info.status == "RUNNING"
        process.kill()
    client.set_tag(alive, "process", client.get_run(ours).data.tags["process"])
    client.set_tag(elsewhere, "process", f"another-machine:{process.pid}")
    claim(client, ours)
    statuses = {run: client.get_run(run).info.status for run in (dead, alive, elsewhere, unclaimed, ours)}
    assert statuses == {dead: "FAILED", alive: "RUNNING", elsewhere: "RUNNING", unclaimed: "RUNNING", ours: "RUNNING"}


def test_a_search_without_rows_on_either_side_of_its_cut_says_so():
    """As of two weeks later there would be some; scikit-learn alone would end with a traceback."""
    config = load_config({"as_of": "2013-02-10", "trials": 5})
    moments = pd.to_datetime(["2013-01-05T12:00Z"], utc=True)
    frame = pd.DataFrame({"event_timestamp": moments, "label_known_at": moments})
    with pytest.raises(ConfigInvalid, match=r"there are 0 and \d. Choose a later as_of"):
        search(LabelledRows(frame, None, "flight_id"), config)
    with pytest.raises(ConfigInvalid, match="there are 0 and 0"):
        search(LabelledRows(frame[:0], None, "flight_id"), config)


@pytest.mark.parametrize(
    ("keys", "known"),
    [
        (["b", None, "a", "b"], ["a", "b"]), ([10, 9, 10], [9, 10]), ([10.0, None, 9.0], [9, 10]),
        (pd.array([10, None, 9], "Int32"), [9, 10]),
    ],
)  # fmt: skip
def test_known_keys_are_texts_or_whole_numbers(keys, known):
    """Of Python's own types, which a contract takes, however pandas holds them."""
    found = known_of(pd.Series(keys))
    assert (found, {type(one) for one in found}) == (known, {type(known[0])})


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


def served(*_: Any) -> str:
    """A trial that passes: tests/library/training/test_trial.py makes real ones."""
    return ""


def aliases(client: MlflowClient) -> dict[str, str]:
    found = {name: version_at(client, MODEL, name) for name in ("champion", "challenger", "previous")}
    return {name: str(version.version) for name, version in found.items() if version is not None}


def test_a_registered_model_of_another_project_is_refused(client):
    """Before anything is fitted; one that says no project becomes that of the first training."""
    _ensure_registered(client, MODEL, "ports")
    assert client.get_registered_model(MODEL).tags[PROJECT_TAG] == "ports"
    _ensure_registered(client, MODEL, "ports")
    with pytest.raises(ModelOfAnother, match=r"belongs to the project 'ports', and this is 'ships'"):
        _ensure_registered(client, MODEL, "ships")
    _ensure_registered(client, "new", "ships")
    assert client.get_registered_model("new").tags == {PROJECT_TAG: "ships"}


def test_promotion_and_rollback_move_the_aliases_and_nothing_else(client):
    """First release, second release, back, and back again."""
    register(client)
    promote(client, MODEL, "enabled", served)
    assert aliases(client) == {"champion": "1"}
    register(client, against="1")
    promote(client, MODEL, "enabled", served)
    assert aliases(client) == {"champion": "2", "previous": "1"}
    rollback(client, MODEL, served)
    assert aliases(client) == {"champion": "1", "previous": "2"}
    rollback(client, MODEL, served)
    assert aliases(client) == {"champion": "2", "previous": "1"}


@pytest.mark.parametrize(
    ("decision", "against", "said"),
    [(None, "1", "never judged"), ("failed", "1", "because"), ("passed", "none", "judged against champion none")],
)
def test_a_bad_missing_or_outdated_judgement_promotes_nothing(client, decision, against, said):
    """The gate is on: no judgement, a bad one, or one about another champion leaves every alias where it was."""
    register(client)
    promote(client, MODEL, "enabled", served)
    register(client, decision, against)
    before = aliases(client)
    with pytest.raises(PromotionRefused, match=said):
        promote(client, MODEL, "enabled", served)
    assert aliases(client) == before == {"champion": "1", "challenger": "2"}


def test_dry_run_reports_and_disabled_asks_nobody(client):
    """dry_run moves nothing; disabled promotes what was never judged."""
    register(client, decision=None)
    promote(client, MODEL, "disabled", served)
    assert aliases(client) == {"champion": "1"}
    register(client, against="1")
    assert "would be promoted" in promote(client, MODEL, "dry_run", served)
    assert aliases(client) == {"champion": "1", "challenger": "2"}


def test_a_mode_that_only_the_configuration_says_counts(client, tmp_path):
    """`mlflow run -e promote`, as MLflow words that command, with `disabled` in config.yaml: nobody is asked."""
    for package in ("training", "src"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    config = tmp_path / "training" / CONFIG_FILE.name
    written = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(written | {"model_name": MODEL, "gate": written["gate"] | {"mode": "disabled"}}))
    register(client, decision=None)
    command = load_project(str(tmp_path / "training")).get_entry_point("promote").compute_command({}, None)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path / "training", capture_output=True, text=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": client.tracking_uri, "PATH": path},
    )  # fmt: skip
    assert "version 1 is the champion" in done.stdout, done.stderr
    assert aliases(client) == {"champion": "1"}


def test_nothing_to_promote_or_to_go_back_to_says_so(client):
    """An empty registry and a first release are no errors of MLflow's."""
    with pytest.raises(NothingToDo, match="make train"):
        promote(client, MODEL, "enabled", served)
    with pytest.raises(NothingToDo, match="make train"):
        challenger_of(client, "never registered")
    register(client)
    promote(client, MODEL, "enabled", served)
    with pytest.raises(NothingToDo, match="previous"):
        rollback(client, MODEL, served)


def test_of_two_promotions_at_once_one_wins_and_the_other_says_so(client):
    """Two processes, started together, over one registry: one promotes, the other is refused or finds nothing to do."""
    register(client)
    uri = client.tracking_uri
    program = f"""
import sys
from mlflow import MlflowClient
from fti.training import promote
client, judge, calls = MlflowClient({uri!r}), promote._require_judgement, []

def judged(*given):
    calls.append(judge(*given))
    if len(calls) == 2:  # it has its turn, and keeps it until the other one has asked for it
        sys.stdin.readline()

promote._require_judgement = judged
print("ready", flush=True)
sys.stdin.readline()
try:
    print(promote.promote(client, {MODEL!r}, "enabled", lambda *_: ""))
except promote.Refusal as refusal:
    sys.exit(str(refusal))
"""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    rivals = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True, **pipes) for _ in range(2)]
    assert [rival.stdout.readline() for rival in rivals] == ["ready\n"] * 2
    for rival in rivals:
        rival.stdin.write("go\n")
        rival.stdin.flush()
    until = time.monotonic() + 60
    while all(rival.poll() is None for rival in rivals) and time.monotonic() < until:
        time.sleep(0.05)
    said = [rival.communicate("end\n" if rival.poll() is None else None, timeout=60) for rival in rivals]
    assert sorted(rival.returncode for rival in rivals) == [0, 1]
    assert "began" in "".join(error for _, error in said)
    assert aliases(client) == {"champion": "1"}
    with pytest.raises(MlflowException):
        client.get_registered_model(f"{MODEL}.promoting")


def test_a_turn_that_is_given_back_while_another_asks_for_it_is_no_error_of_mlflows(client, monkeypatch):
    """The rival finds the turn taken, and gone when MLflow looks at it: nothing is moved, and the message says why."""
    for _ in range(2):
        register(client)
        promote(client, MODEL, "disabled", served)

    def gone(*_: object, **__: object) -> None:
        raise MlflowException(f"Registered Model with name={MODEL}.promoting not found", RESOURCE_DOES_NOT_EXIST)

    monkeypatch.setattr(client, "create_registered_model", gone)
    with pytest.raises(PromotionRefused, match="Nothing was moved"):
        rollback(client, MODEL, served)
    assert aliases(client) == {"champion": "2", "previous": "1"}


def test_the_turn_of_a_killed_promotion_ends(client, monkeypatch):
    """Until then the next one is told when; afterwards it takes over."""
    register(client)
    client.create_registered_model(f"{MODEL}.promoting")
    with pytest.raises(PromotionRefused, match="its turn ends"):
        promote(client, MODEL, "enabled", served)
    assert aliases(client) == {"challenger": "1"}
    monkeypatch.setattr("fti.training.turn.TURN_SECONDS", 0)
    promote(client, MODEL, "enabled", served)
    assert aliases(client) == {"champion": "1"}


def test_of_two_who_find_a_turn_left_behind_one_takes_it(client, monkeypatch):
    """Both see it before either takes it; who has it is not disturbed when the other, or its first owner, ends."""
    client.create_registered_model(f"{MODEL}.promoting", description="killed")
    monkeypatch.setattr("fti.training.turn.TURN_SECONDS", 0.5)
    time.sleep(1)
    both, had = threading.Barrier(2), []
    monkeypatch.setattr("fti.training.turn._read", lambda *given, read=_read: (both_saw(), read(*given))[1])

    def both_saw() -> None:
        if len(seen := threading.current_thread().__dict__.setdefault("seen", [])) < 1:
            seen.append(both.wait(60))

    def take() -> None:
        with suppress(PromotionRefused), one_at_a_time(MlflowClient(client.tracking_uri), MODEL):
            had.append(client.get_registered_model(f"{MODEL}.promoting").description)
            time.sleep(4)
            assert client.get_registered_model(f"{MODEL}.promoting").description == had[0]

    rivals = [threading.Thread(target=take) for _ in range(2)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    assert len(had) == 1
    with pytest.raises(MlflowException):
        client.get_registered_model(f"{MODEL}.promoting")


def test_who_was_too_slow_leaves_the_turn_to_its_new_owner(client, monkeypatch):
    """The end of the first does not open the door to a third."""
    monkeypatch.setattr("fti.training.turn.TURN_SECONDS", 0)
    with one_at_a_time(client, MODEL):
        with one_at_a_time(client, MODEL):
            taken_over = client.get_registered_model(f"{MODEL}.promoting").description
            monkeypatch.setattr("fti.training.turn.TURN_SECONDS", 60)
        client.create_registered_model(f"{MODEL}.promoting", description=taken_over)
    assert client.get_registered_model(f"{MODEL}.promoting").description == taken_over


def test_a_promotion_is_of_the_version_that_was_judged(client):
    """A training that ends in between has made another version the challenger: that one goes on waiting."""
    judged, newer = register(client), register(client, decision=None)
    assert f"version {judged} is the champion" in promote(client, MODEL, "enabled", served, judged)
    assert aliases(client) == {"champion": judged, "challenger": newer}


def test_a_new_challenger_awaits_the_end_of_a_promotion(client):
    """Else the promotion would delete the alias that the training has just set."""
    register(client)
    newer = client.create_model_version(MODEL, source="file:///nowhere")
    with one_at_a_time(client, MODEL):
        waits = threading.Thread(target=make_challenger, args=(MlflowClient(client.tracking_uri), newer))
        waits.start()
        waits.join(1)
        assert aliases(client) == {"challenger": "1"}
    waits.join(60)
    assert aliases(client) == {"challenger": str(newer.version)}


def test_a_promotion_awaits_the_end_of_another_registration(client):
    """A training that has just passed is promoted, though another one is making its version the challenger."""
    register(client)
    taken, done = threading.Event(), []

    def hold() -> None:
        with one_at_a_time(MlflowClient(client.tracking_uri), MODEL):
            taken.set()
            time.sleep(1)
            done.append(aliases(client))

    holds = threading.Thread(target=hold)
    holds.start()
    assert taken.wait(60)
    with pytest.raises(PromotionRefused, match="began"):
        promote(client, MODEL, "enabled", served)
    assert "is the champion" in promote(client, MODEL, "enabled", served, "1", patience=PATIENCE)
    holds.join()
    assert done == [{"challenger": "1"}]
    assert aliases(client) == {"champion": "1"}


def test_a_judgement_that_was_cut_off_is_none(client, tmp_path, monkeypatch):
    """A version that had passed against another champion is not left with that word beside new ones, nor old ones."""
    experiment = client.create_experiment("here", artifact_location=tmp_path.as_uri())
    run = client.create_run(experiment).info.run_id
    version = client.create_model_version(MODEL, source="file:///nowhere", run_id=run)
    client.set_registered_model_alias(MODEL, "challenger", version.version)
    passed = Decision(
        str(version.version), "7", datetime(2013, 9, 1, tzinfo=UTC), datetime(2013, 10, 1, tzinfo=UTC), {}, {}
    )
    write_decision(client, version, passed)
    tags = {DECISION_TAG: "passed", AGAINST_TAG: "7", REASONS_TAG: "every rule passed"}
    assert client.get_model_version(MODEL, version.version).tags == tags
    for allowed in range(3):
        given = iter(range(allowed))

        def cut_off(*tag: str, set_tag=client.set_model_version_tag, given=given) -> None:
            if next(given, None) is None:
                raise KeyboardInterrupt
            set_tag(*tag)

        with monkeypatch.context() as here:
            here.setattr(client, "set_model_version_tag", cut_off)
            with pytest.raises(KeyboardInterrupt):
                write_decision(client, version, replace(passed, champion="8"))
        with pytest.raises(PromotionRefused, match="never judged"):
            promote(client, MODEL, "enabled", served)


def test_a_version_that_is_not_there_is_told_from_a_server_that_is_not(client, monkeypatch):
    """By alias and by number."""
    register(client)
    assert find_version(client, MODEL, "challenger").version == find_version(client, MODEL, "1").version
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for wanted in ("champion", "9"):
        with pytest.raises(NothingToDo, match=f"no version '{wanted}'; it has .1."):
            find_version(client, MODEL, wanted)
        with pytest.raises(MlflowException, match="refused"):
            find_version(MlflowClient("http://127.0.0.1:9"), MODEL, wanted)


@pytest.mark.parametrize(
    ("write", "left"),
    [
        ("set_registered_model_tag", {"champion": "2", "previous": "1"}),
        ("champion", {"champion": "2", "previous": "1"}),
        ("previous", {"champion": "1", "previous": "1"}),
        ("delete_registered_model_tag", {"champion": "1", "previous": "2"}),
    ],
)
def test_a_rollback_that_was_killed_is_ended_by_the_next(client, monkeypatch, write, left):
    """Before whichever write: the champion before serves then, and the one that was left can be gone back to."""
    for against in ("none", "1"):
        register(client, against=against)
        promote(client, MODEL, "enabled", served)
    program = f"""
import time
from mlflow import MlflowClient
from fti.training.rollback import rollback
def hang_at(name):
    before = getattr(MlflowClient, name)
    def write(client, *given):
        if {write!r} in (name, *given):
            print("there", flush=True)
            time.sleep(600)
        before(client, *given)
    setattr(MlflowClient, name, write)
for name in ("set_registered_model_tag", "set_registered_model_alias", "delete_registered_model_tag"):
    hang_at(name)
rollback(MlflowClient({client.tracking_uri!r}), {MODEL!r}, lambda *_: '')
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        process.kill()
    assert aliases(client) == left
    with pytest.raises(PromotionRefused, match="its turn ends"):
        rollback(client, MODEL, served)
    monkeypatch.setattr("fti.training.turn.TURN_SECONDS", 0)
    monkeypatch.setattr("fti.training.turn.SETTLING", 0)
    assert "back to version 1" in rollback(client, MODEL, served)
    assert aliases(client) == {"champion": "1", "previous": "2"}
    assert "back to version 2" in rollback(client, MODEL, served)
    assert aliases(client) == {"champion": "2", "previous": "1"}


def test_a_retired_version_has_no_alias_and_the_champion_does_not_retire(client):
    """By number or alias; its files and tags stay."""
    for against in ("none", "1"):
        register(client, against=against)
        promote(client, MODEL, "enabled", served)
    for champion in ("champion", "2"):
        with pytest.raises(PromotionRefused, match="is the champion"):
            retire(client, MODEL, champion)
    assert "has lost previous" in retire(client, MODEL, "1")
    assert aliases(client) == {"champion": "2"}
    assert "has no alias" in retire(client, MODEL, "1")
    assert client.get_model_version(MODEL, "1").tags[DECISION_TAG] == "passed"
    with pytest.raises(NothingToDo, match="no version '9'"):
        retire(client, MODEL, "9")


def test_a_promotion_that_was_cut_off_is_no_rollback(client, monkeypatch):
    """Nothing is guessed: which version was the previous one is not known any more."""
    register(client)
    promote(client, MODEL, "enabled", served)
    client.set_registered_model_alias(MODEL, "previous", "1")
    with pytest.raises(NothingToDo, match="Run `make promote` again"):
        rollback(client, MODEL, served)
    register(client, against="1")
    client.set_registered_model_tag(MODEL, "rollback.from", "9")
    promote(client, MODEL, "enabled", served)
    assert "back to version 1" in rollback(client, MODEL, served)


def test_an_alias_of_a_deleted_version_is_none(client):
    """Promotion goes on as if there were no such champion, and a rollback to it is refused."""
    for against in ("none", "1"):
        register(client, against=against)
        promote(client, MODEL, "enabled", served)
    client.delete_model_version(MODEL, "1")
    with pytest.raises(NothingToDo, match="previous"):
        rollback(client, MODEL, served)
    client.delete_model_version(MODEL, "2")
    register(client, against="none")
    promote(client, MODEL, "enabled", served)
    assert aliases(client) == {"champion": "3"}
