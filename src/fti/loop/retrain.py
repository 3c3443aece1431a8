"""Train again when the monitors ask for it: their verdicts in; a version that the gate has judged out.

The training pipeline is run as anybody runs it, by `mlflow run`; its own gate decides. What asked for it, the run, the
version and the outcome are one row of `retrainings`, and the cause is a tag of the run and of the version.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from sqlalchemy import Engine, delete, select, update

from fti.contract.events import RETRAININGS
from fti.contract.registered import (
    CAUSE_TAG,
    DECISION_TAG,
    FAILED,
    PASSED,
    REASONS_TAG,
    SERVICE_TAG,
    require_registry,
)
from fti.errors import Refusal
from fti.monitoring.trigger import decide
from fti.project import project
from fti.training.promote import CHAMPION, version_at
from fti.training.runs import is_carried_out

LAST_LINES = 3
WAIT_SECONDS, WAIT_STEP = 3600, 2
logger = logging.getLogger("cycle")


class TrainingFailed(Refusal):
    """The training pipeline ended with an error."""


def retrain(engine: Engine, name: str, repo: Path, as_of: datetime) -> str:
    """Do what the monitors' verdicts ask for; returns what was done. Raises TrainingFailed, RegistryMissing.

    Killed anywhere and run again, it goes on: a version that this moment has asked for already is not trained twice.
    """
    require_registry()
    decision = decide(engine, name, champion_then(engine, name, as_of), as_of)
    if decision.action != "train":
        return f"{decision.action}: {decision.reasons}"
    client, cause = MlflowClient(), f"monitors as of {as_of:%Y-%m-%dT%H:%MZ}"
    _await_process(client, cause)
    this = (RETRAININGS.c.model_name == name) & (RETRAININGS.c.as_of == as_of)
    version = _version_of(client, name, cause)
    if version is None:
        before = version_at(client, name, CHAMPION)
        asked = {"model_name": name, "as_of": as_of, "reasons": decision.reasons, "champion_before": _number(before)}
        with engine.begin() as connection:
            connection.execute(delete(RETRAININGS).where(this))
            connection.execute(RETRAININGS.insert().values(asked))
        service = {} if before is None else {"feature_service": before.tags[SERVICE_TAG]}
        mlflow_run("main", repo, as_of=as_of.isoformat(), cause=cause, **service)
        version = _version_of(client, name, cause)
        if version is None:
            raise TrainingFailed(
                f"`mlflow run` of {name!r} ended well, but no version has the tag {CAUSE_TAG} {cause!r}."
            )
    elif DECISION_TAG not in version.tags:
        mlflow_run("evaluate", repo)  # it was killed between the two
    champion = version_at(client, name, CHAMPION)
    version = client.get_model_version(name, str(version.version))
    passed = version.tags.get(DECISION_TAG) == PASSED
    if passed and _number(champion) != str(version.version):
        try:
            mlflow_run("promote", repo)
        except TrainingFailed:
            version = client.get_model_version(name, str(version.version))
            if version.tags.get(DECISION_TAG) != FAILED:
                raise
            passed = False  # no service can serve it: it is left like one that failed a rule
        champion = version_at(client, name, CHAMPION)
    outcome = {"run_id": version.run_id, "version": str(version.version), "decision": version.tags.get(DECISION_TAG)}
    with engine.begin() as connection:
        connection.execute(update(RETRAININGS).where(this).values(outcome | {"champion_after": _number(champion)}))
    became = "is the champion" if _number(champion) == str(version.version) else "was left: "
    why = "" if passed else version.tags.get(REASONS_TAG, "not judged")
    return f"trained version {version.version}, which {became}{why} ({decision.reasons})"


def champion_then(engine: Engine, name: str, as_of: datetime) -> str | None:
    """The version to find wanting as of a moment: the champion, or, where that moment has begun a retraining already,
    the one from before, which it may have replaced."""
    columns = RETRAININGS.c
    asked = select(columns.champion_before).where(columns.model_name == name, columns.as_of == as_of)
    with engine.connect() as connection:
        begun = connection.execute(asked).first()
    return begun.champion_before if begun else _number(version_at(MlflowClient(), name, CHAMPION))


def _await_process(client: MlflowClient, cause: str) -> None:
    """Until a training for this cause has ended whose cycle was killed, and which went on by itself.

    Raises TrainingFailed after an hour.
    """
    experiments = [one.experiment_id for one in client.search_experiments()]
    for waited in range(0, WAIT_SECONDS, WAIT_STEP):
        runs = client.search_runs(experiments, f"tags.`{CAUSE_TAG}` = '{cause}'")
        if not (going := [one.info.run_id for one in runs if is_carried_out(one)]):
            return
        if not waited:
            logger.info("waiting for run %s, which an earlier cycle began", going[0])
        time.sleep(WAIT_STEP)
    raise TrainingFailed(f"Run {going[0]} goes on since {WAIT_SECONDS} s. End its process, then run this again.")


def _version_of(client: MlflowClient, name: str, cause: str) -> ModelVersion | None:
    found = [one for one in client.search_model_versions(f"name = '{name}'") if one.tags.get(CAUSE_TAG) == cause]
    return max(found, key=lambda one: int(one.version), default=None)


def _number(version: ModelVersion | None) -> str | None:
    return None if version is None else str(version.version)


def mlflow_run(entry_point: str, repo: Path, **parameters: str) -> None:
    """An entry point of the training project, over this feature store and registry. Raises TrainingFailed."""
    given = [word for key, value in parameters.items() for word in ("-P", f"{key}={value}")]
    folder = project().root / "training"
    command = [sys.executable, "-m", "mlflow", "run", str(folder), "-e", entry_point, "--env-manager", "local", *given]
    here = {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "TRAINING_FEAST_REPO": str(repo.resolve())}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    result = subprocess.run(
        command, env=os.environ | here | {"PATH": path}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.strip()]
        told = [line for line in said if line.startswith("error:")] or said[-LAST_LINES:]
        raise TrainingFailed(f"`mlflow run {folder.name} -e {entry_point}` failed: {' '.join(told)}")
