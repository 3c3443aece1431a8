"""The training pipeline's command line: main, train, evaluate, promote or rollback; MLproject's entry points call it.

    python -m training.run main --feature-service arrival_delay_v2 --as-of 2013-10-01

Exit codes: 0 done, 1 refused or failed, 2 wrong usage. `main` ends with 0 when the gate refuses: the champion stays.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from training.config import ConfigInvalid, TrainingConfig, load_config
from training.gate import Decision
from training.promote import CHAMPION, PromotionRefused, challenger_of, promote, rollback, version_at
from validation.errors import Refusal

COMMANDS = {
    "main": "train, evaluate and promote",
    "train": "fit a model and register it as the challenger",
    "evaluate": "judge the challenger against the champion",
    "promote": "make the challenger the champion, if it passed",
    "rollback": "give the alias back to the champion before",
}
ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training.run", description=__doc__.split("\n")[0])
    parser.add_argument(
        "command", choices=COMMANDS, help="; ".join(f"{name}: {what}" for name, what in COMMANDS.items())
    )
    parser.add_argument("--feature-service", default="", help="what the model reads (default: config.yaml)")
    parser.add_argument("--as-of", default="", help="the moment to train as of, UTC (default: config.yaml)")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("step").setLevel(logging.INFO)
    # uv's environments hold no pip; MLflow warns of it, and of SQLAlchemy's plans for its own code, at every start.
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        return run(options.command, load_config({"feature_service": options.feature_service, "as_of": options.as_of}))
    except (Refusal, MlflowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(command: str, config: TrainingConfig) -> int:
    """Carry out one command; returns the exit code."""
    require_one_registry(mlflow.get_tracking_uri())
    client, name = MlflowClient(), config.model_name
    if command == "rollback":
        print(rollback(client, name))
        return 0
    if command == "promote":
        print(promote(client, name, config.gate.mode))
        return 0
    # Not above: Feast, Great Expectations and scikit-learn take ten seconds that a rollback should not wait for.
    from feast import FeatureStore

    from training.evaluate import evaluate
    from training.train import train

    store = FeatureStore(repo_path=str(ROOT / os.environ.get("TRAINING_FEAST_REPO", "feature_repo")))
    if command in ("main", "train"):
        with mlflow.start_run() as active:
            train(store, client, config, active.info.run_id)
    if command in ("main", "evaluate"):
        decision = evaluate(store, client, config, challenger_of(client, name), version_at(client, name, CHAMPION))
        print(table(decision))
    if command == "main":
        try:
            print(promote(client, name, config.gate.mode))
        except PromotionRefused as refusal:
            print(f"{refusal} It stays the challenger, and the champion stays the champion.")
    return 0


def require_one_registry(uri: str) -> None:
    """Refuse a relative SQLite path: `mlflow run` changes folder, and a second, empty registry would appear there."""
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).is_absolute():
        raise ConfigInvalid(
            f"MLFLOW_TRACKING_URI is {uri}, a relative path, but MLflow runs projects in their own folder. "
            f"Give it whole: sqlite:///{ROOT / path}"
        )


def table(decision: Decision) -> str:
    """The decision as lines: scores side by side, then each rule."""
    columns = {f"challenger {decision.challenger}": decision.challenger_scores}
    if decision.champion_scores is not None:
        columns[f"champion {decision.champion}"] = decision.champion_scores
    lines = [
        f"Predictions of [{decision.start:%Y-%m-%d}, {decision.end:%Y-%m-%d}), which the challenger was not fitted to:",
        " " * 22 + "".join(f"{title:>16}" for title in columns),
    ]
    for metric in decision.challenger_scores:
        values = "".join(f"{found.get(metric, float('nan')):16.4f}" for found in columns.values())
        lines += [f"  {metric:20}{values}"]
    lines += [f"  {'ok  ' if rule.passed else 'FAIL'} {rule}" for rule in decision.rules]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
