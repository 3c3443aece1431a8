"""Commands that are made of others: `fti pipeline`, and `fti run`, which serves what it made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from fti.command import Command
from fti.errors import Refusal
from fti.features.commands import STEPS
from fti.project import SETTINGS, project
from fti.serving.commands import SERVE

SECTION = "Start here"
PATIENCE = 10  # seconds that a command has to end after Ctrl-C
FEATURES = [param for param in STEPS["all"].params if param.name in ("start", "end", "as_of", "accept", "force")]
ADDRESS = [param for param in SERVE.params if param.name in ("host", "port")]


class NothingToTrain(Refusal):
    """The project does not say which models it has."""


def _pipeline(**given: Any) -> int:
    return _one_after_another(_steps(given))


def _run(**given: Any) -> int:
    serve = ["serve", *_words(ADDRESS, given)]
    return _one_after_another([[*serve, "--check"], *_steps(given), serve])


def _steps(given: dict[str, Any]) -> list[list[str]]:
    """The features, and a training for each feature service, as words of the command line. Raises NothingToTrain."""
    services = project().settings.get("feature_services", [])
    if not services:
        raise NothingToTrain(
            f"[tool.fti] in {project().root / SETTINGS} has no feature_services, the models to train in their order, "
            'such as feature_services = ["arrival_delay_v1"]. Add them, or train one: fti train.'
        )
    moment = _words([param for param in FEATURES if param.name == "as_of"], given)
    trainings = [["train", "--feature-service", str(service), *moment] for service in services]
    return [["features", *_words(FEATURES, given)], *trainings]


def _words(params: Sequence[click.Parameter], given: dict[str, Any]) -> list[str]:
    words = []
    for param in params:
        option, value = max(param.opts, key=len), given[str(param.name)]
        if value is True:
            words.append(option)
        elif value not in (None, False, ()):
            words += [f"{option}={one}" for one in (value if isinstance(value, tuple) else [value])]
    return words


def _one_after_another(commands: list[list[str]]) -> int:
    """Return the exit code of the first command that fails, else that of the last, which this process becomes.

    Each is a process: what one has imported and holds in memory is gone before the next.
    """
    *before, last = ([sys.executable, "-m", "fti.cli", *words] for words in commands)
    for words in before:
        with subprocess.Popen(words) as process:
            signal.signal(signal.SIGTERM, lambda *_, process=process: process.terminate())
            try:
                code = process.wait()
            except KeyboardInterrupt:  # a terminal's is for that process, too
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(PATIENCE)
                process.terminate()
                raise
        if code:
            return code
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return os.execv(last[0], last)  # noqa: S606 - this process, as another command


RUN = Command("run", _run, *FEATURES, *ADDRESS, about="Build the features, train the models, serve the champion.")
PIPELINE = Command("pipeline", _pipeline, *FEATURES, about="Build the features, then train every model.")
COMMANDS: list[click.Command] = [RUN, PIPELINE]
