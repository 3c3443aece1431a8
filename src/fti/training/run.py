"""The training pipeline's command line; MLproject's entry points call it.

    fti train --trials 50

Exit codes: 0 done, 1 refused or failed, 2 wrong usage. `main` ends with 0 when the gate refuses: the champion stays.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fti.command import alias, fail
from fti.contract.registered import CAUSE_TAG, CHAMPION, require_registry
from fti.errors import Refusal
from fti.project import project
from fti.stores.repository import open_repository
from fti.training.config import ConfigInvalid, TrainingConfig, feast_repo
from fti.training.known_services import unknown

if TYPE_CHECKING:
    from feast import FeatureStore
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from fti.training.promote import Trial


@dataclass(frozen=True)
class Options:
    """What one command is told; empty where config.yaml says it."""

    command: str
    feature_service: str = ""
    as_of: datetime | None = None
    trials: int | None = None
    mode: str | None = None
    cause: str = ""
    version: str = CHAMPION
    run_id: str = ""


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    # MLproject hands over all parameters, also those that nobody gave.
    return alias("fti.training.run", "fti.training.commands:STEPS", _without_empty(given))


def _without_empty(arguments: list[str]) -> list[str]:
    """Leave out options whose value is empty: `mlflow run` has no other way not to give one."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word.startswith("--") and "=" not in word and word not in ("--help", "--verbose"):
            value = next(words, None)
            kept += [] if value == "" else [word] if value is None else [word, value]
        else:
            kept.append(word)
    return kept


def execute(options: Options, config: TrainingConfig) -> int:
    """Carry out one command; returns the exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in MLproject: else a busy machine fits seven times slower
    if threading.current_thread() is threading.main_thread():
        # An end that was asked for is an exception like another: the run is marked as failed on the way out.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from mlflow.exceptions import MlflowException

    try:
        return run(options.command, config, options)
    except (MlflowException, OSError) as error:
        return fail(_one_line(error))


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).partition("[SQL:")[0].split())  # not the statement of a database that refuses it
    if isinstance(error, OSError):
        return f"{said}. Versions and aliases that were registered before it stay; fix that and run the command again."
    import mlflow

    server = re.sub(r"//[^/@]*@", "//***@", mlflow.get_tracking_uri())  # without a password
    return f"MLflow: {said} (tracking server: {server}). What was registered before stays as it is."


def run(command: str, config: TrainingConfig, options: Options) -> int:
    """Carry out one command; returns the exit code."""
    import mlflow
    from mlflow import MlflowClient

    from fti.training.promote import PATIENCE, challenger_of, retire, version_at
    from fti.training.rollback import rollback
    from fti.training.turn import PromotionRefused

    require_one_registry(mlflow.get_tracking_uri())
    if command not in ("main", "train"):
        require_registry()
    client, name = MlflowClient(), config.model_name
    if command == "rollback":
        print(rollback(client, name, None if config.gate.mode == "disabled" else _trial()))
        return 0
    if command == "retire":
        print(retire(client, name, options.version))
        return 0
    if command == "promote":
        print(_promote(client, config, _trial()))
        return 0
    # Not above: Feast, Great Expectations and scikit-learn take ten seconds that a forced rollback does not wait for.
    from fti.training.evaluate import evaluate, table
    from fti.training.reproduce import NotReproduced, reproduce, version_of
    from fti.training.runs import claim
    from fti.training.train import train

    store = open_repository(feast_repo())
    if command == "reproduce":
        version = version_of(client, name, options.version, options.run_id)
        found = reproduce(store, client, version)
        print(f"{name} version {version.version}, built again:\n{found}")
        if found.differs:
            raise NotReproduced(f"{name} version {version.version} did not come out the same: {found.differs[0]}.")
        return 0
    trained = None
    if command in ("main", "train"):
        services = [service.name for service in store.list_feature_services()]
        if config.feature_service not in services:  # before a run is started, which would be left behind as failed
            raise unknown(config.feature_service, services)
        with mlflow.start_run(tags={CAUSE_TAG: options.cause} if options.cause else None) as active:
            claim(client, active.info.run_id)
            trained = train(store, client, config, active.info.run_id, options.cause)
    if command in ("main", "evaluate"):
        # Not whatever is the challenger by now: another training may have ended meanwhile.
        challenger = trained or challenger_of(client, name)
        decision = evaluate(store, client, config, challenger, version_at(client, name, CHAMPION))
        print(table(decision))
    if trained is not None and command == "main":
        try:
            # Another training may be making its version the challenger just now.
            print(_promote(client, config, _trial(store), str(trained.version), PATIENCE))
        except PromotionRefused as refusal:
            print(f"{refusal} It stays the challenger, and the champion stays the champion.")
    return 0


def _promote(
    client: MlflowClient, config: TrainingConfig, trial: Trial, version: str | None = None, patience: float = 0
) -> str:
    from fti.training.promote import TrialFailed, promote

    try:
        return promote(client, config.model_name, config.gate.mode, trial, version, patience)
    except TrialFailed as failed:
        from fti.training.card import record

        with suppress(Refusal):  # a version whose files were changed has no card
            record(client, failed.version)
        raise


def _trial(store: FeatureStore | None = None) -> Trial:
    """Try versions on this feature store, or on one that is opened once there is something to try."""

    def trial(version: ModelVersion, champion: ModelVersion | None) -> str:
        from fti.training.trial import try_version

        return try_version(store or open_repository(feast_repo()), version, champion)

    return trial


def require_one_registry(uri: str) -> None:
    """Refuse a relative SQLite path: `mlflow run` changes folder, and a second, empty registry would appear there."""
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).is_absolute():
        raise ConfigInvalid(
            f"MLFLOW_TRACKING_URI is {uri}, a relative path, but MLflow runs projects in their own folder. "
            f"Give it whole: sqlite:///{project().root / path}"
        )


if __name__ == "__main__":
    sys.exit(main())
