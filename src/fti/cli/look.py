"""Commands that show what is there, by the pages that MLflow and Feast bring."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from fti.command import Command, Option
from fti.project import project

SECTION = "Look inside"
HOST = "127.0.0.1"


def _mlflow_ui(port: int) -> int:
    return _become("mlflow", "ui", "--host", HOST, "--port", str(port))


def _feast_ui(port: int) -> int:
    return _become("feast", "-c", str(project().root / "feature_repo"), "ui", "--host", HOST, "--port", str(port))


def _become(program: str, *words: str) -> int:
    """Let this process be another program of the environment that this one runs in."""
    return os.execv(Path(sys.executable).with_name(program), [program, *words])  # noqa: S606 - no shell


def _port(usual: int) -> Option:
    return Option("--port", type=click.IntRange(1, 65535), default=usual, usual=str(usual), help="Where it listens.")


COMMANDS: list[click.Command] = [
    Command("mlflow-ui", _mlflow_ui, _port(5000), about="Runs, models and aliases, in a browser."),
    Command("feast-ui", _feast_ui, _port(8888), about="Entities, views and services, in a browser."),
]
