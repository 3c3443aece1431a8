"""The training pipeline's commands: what each takes, and what is wrong with it before anything heavy is imported."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from fti.command import FOLDER, MOMENT, Command, Option

SECTION = "Training pipeline"
CHAMPION = "champion"

FEATURE_SERVICE = Option("--feature-service", default="", usual="training/config.yaml", help="What the model reads.")
AS_OF = Option("--as-of", type=MOMENT, usual="training/config.yaml", help="The moment to train as of, UTC.")
TRIALS = Option(
    "--trials", type=click.IntRange(0), usual="training/config.yaml", help="Optuna trials before the fit; 0: none."
)
CAUSE = Option("--cause", default="", help="Why this run: a tag of the run and of its version.")
MODE = Option(
    "--mode", type=click.Choice(["enabled", "dry_run", "disabled"]), usual="training/config.yaml",
    metavar="MODE", help="What the gate may do: enabled, dry_run or disabled.",
)  # fmt: skip
VERSION = Option("--version", default=CHAMPION, usual=CHAMPION, help="A version's number or alias.")
RUN_ID = Option("--run-id", default="", help="The version that this run registered, instead.")


def _carry_out(command: str, **given: Any) -> int:
    from fti.training.config import PARAMETERS, feast_repo, load_config

    config = load_config({name: given.get(name) for name in PARAMETERS})
    if command in ("main", "train"):
        from fti.training.known_services import require_service

        require_service(feast_repo(), config.feature_service)
        from fti.stores.landed import require_landed

        require_landed(feast_repo(), {"--as-of" if given["as_of"] else "as_of": config.as_of})
    # Not above: it takes seconds that a wrong parameter should not wait for.
    from fti.training.run import Options, execute

    return execute(Options(command, **given), config)


def _step(name: str, about: str, *parameters: click.Parameter, command: str = "") -> Command:
    return Command(name, partial(_carry_out, command or name), *parameters, about=about)


def _card(**given: Any) -> int:
    from fti.training.card import write_card

    return write_card(**given)


STEPS = {
    "main": _step(
        "train", "Train, register and gate one model.", FEATURE_SERVICE, AS_OF, TRIALS, MODE, CAUSE, command="main"
    ),
    "train": _step(
        "fit", "Fit a model and register it as the challenger; next: evaluate, promote.", FEATURE_SERVICE, AS_OF,
        TRIALS, CAUSE, command="train",
    ),
    "evaluate": _step("evaluate", "Judge the challenger against the champion."),
    "promote": _step("promote", "Make the challenger the champion, if it passed.", MODE),
    "rollback": _step("rollback", "Give the alias back to the champion before.", MODE),
    "retire": _step("retire", "Drop a version's aliases, so that the definitions it reads may go.", VERSION),
    "reproduce": _step(
        "reproduce", "Build a version again, and compare it to the last bit.", VERSION, RUN_ID
    ),
}  # fmt: skip
CARD = Command(
    "card", _card, VERSION,
    Option("--model-name", default="", usual="training/config.yaml", help="The registered model."),
    Option("--folder", type=FOLDER, usual="data/cards", help="Where cards go."),
    about="Write the model card of a version.",
)  # fmt: skip
COMMANDS = [*STEPS.values(), CARD]
