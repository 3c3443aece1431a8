"""The training pipeline's command line; MLproject's entry points call it.

    python -m fti.training.run main --trials 50

Exit codes: 0 done, 1 refused or failed, 2 wrong usage. `main` ends with 0 when the gate refuses: the champion stays.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fti.contract.predictions import CHAMPION
from fti.contract.registered import CAUSE_TAG, require_registry
from fti.errors import Refusal
from fti.project import project
from fti.stores.landed import require_landed
from fti.stores.repository import open_repository
from fti.training.config import PARAMETERS, ConfigInvalid, TrainingConfig, load_config

if TYPE_CHECKING:
    from feast import FeatureStore
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from fti.training.promote import Trial

COMMANDS = {
    "main": "train, evaluate and promote",
    "train": "fit a model and register it as the challenger",
    "evaluate": "judge the challenger against the champion",
    "promote": "make the challenger the champion, if it passed",
    "rollback": "give the alias back to the champion before",
    "retire": "drop the aliases of a version, so that the definitions that it reads may go",
    "reproduce": "build a version again, training set and model, and compare to the digit",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fti.training.run", description=__doc__.split("\n")[0])
    parser.add_argument(
        "command", choices=COMMANDS, help="; ".join(f"{name}: {what}" for name, what in COMMANDS.items())
    )
    parser.add_argument("--feature-service", default="", help="what the model reads (default: config.yaml)")
    parser.add_argument("--as-of", default="", help="the moment to train as of, UTC (default: config.yaml)")
    parser.add_argument("--trials", default="", help="Optuna trials before the fit; 0 for none (default: config.yaml)")
    parser.add_argument("--cause", default="", help="why this run: a tag of the run and of its version")
    parser.add_argument(
        "--mode", default="", help="promote, rollback: enabled, dry_run or disabled (default: config.yaml)"
    )
    parser.add_argument("--version", default=CHAMPION, help="reproduce, retire: a version's number or alias (champion)")
    parser.add_argument("--run-id", default="", help="reproduce: the version that this run registered, instead")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("step").setLevel(logging.INFO)
    # uv's environments hold no pip; MLflow warns of it, and of SQLAlchemy's plans for its own code, at every start.
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        config = load_config({name: getattr(options, name) for name in PARAMETERS})
        if options.command in ("main", "train"):
            require_landed(feast_repo(), {"as_of": config.as_of})
    except Refusal as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # Not above: it takes seconds that a wrong parameter should not wait for.
    from mlflow.exceptions import MlflowException

    try:
        return run(options.command, config, options)
    except (Refusal, MlflowException, OSError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1


def _one_line(error: Exception) -> str:
    if isinstance(error, Refusal):
        return str(error)
    said = " ".join(str(error).split())
    if isinstance(error, OSError):
        return f"{said}. Versions and aliases that were registered before it stay; mend that and run the command again."
    import mlflow

    server = re.sub(r"//[^/@]*@", "//***@", mlflow.get_tracking_uri())  # without a password
    return f"MLflow: {said} (tracking server: {server}). What was registered before stays as it is."


def run(command: str, config: TrainingConfig, options: argparse.Namespace) -> int:
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


def feast_repo() -> Path:
    """The Feast repository to train over: TRAINING_FEAST_REPO, or the project's."""
    return project().root / os.environ.get("TRAINING_FEAST_REPO", "feature_repo")


def require_one_registry(uri: str) -> None:
    """Refuse a relative SQLite path: `mlflow run` changes folder, and a second, empty registry would appear there."""
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).is_absolute():
        raise ConfigInvalid(
            f"MLFLOW_TRACKING_URI is {uri}, a relative path, but MLflow runs projects in their own folder. "
            f"Give it whole: sqlite:///{project().root / path}"
        )


if __name__ == "__main__":
    # An end that was asked for is an exception like another: the run is marked as failed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
