"""The inference pipeline's commands: what each takes, and what is wrong with it before anything heavy is imported."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import click

from fti.command import DAYS, FILE, LOG, MOMENT, Command, Option, Parsed, flag, wrong

SECTION = "Inference pipeline"
LONGEST_DAYS = 3660


def _serve(check: bool, host: str | None, port: int | None) -> int:
    for variable, value in {"SERVING_HOST": host, "SERVING_PORT": port}.items():
        if value is not None:
            os.environ[variable] = str(value)  # the service reads it, a process of its own
    from fti.serving.start import start

    return start(check)


def _batch(
    as_of: datetime, known_by: datetime | None, force: bool, alias: str | None, version: str | None, **more: Any
) -> int:
    if alias and version:
        raise wrong("--alias and --version both say whose version scores: give one")
    if known_by is not None and known_by < as_of:
        raise wrong(f"--known-by {known_by.isoformat()} is before --as-of {as_of.isoformat()}")
    from fti.serving.settings import ServingSettings
    from fti.stores.landed import require_landed

    settings = ServingSettings()
    require_landed(settings.feast_repo, {"--as-of": as_of, "--known-by": known_by}, force)
    # Not above: it takes seconds that a wrong command line should not wait for.
    from fti.serving.batch import score

    return score(settings, as_of, known_by=known_by, alias=alias or settings.model_alias, number=version, **more)


def _keys(**given: Any) -> int:
    from fti.serving.keys import make_key

    return make_key(**given)


def _one_word(text: str) -> str:
    if len(text.split()) != 1:
        raise ValueError("a name is one word")
    return text


SERVE = Command(
    "serve", _serve,
    Option("--host", usual="SERVING_HOST, 127.0.0.1", help="Where to listen."),
    Option("--port", type=click.IntRange(1, 65535), usual="SERVING_PORT, 3000", help="And on which port."),
    flag("--check", help="Only look whether the port is free."),
    about="Serve the champion at http://127.0.0.1:3000.",
)  # fmt: skip
BATCH = Command(
    "batch", _batch,
    Option("--as-of", type=MOMENT, required=True, help="The start of the interval of prediction times, UTC."),
    Option("--days", type=DAYS, default=1, usual="1", help="Its length."),
    Option("--known-by", type=MOMENT, help="Predict as of this moment, UTC, what is due later."),
    flag("--force", help="Take moments of which nothing has landed."),
    Option("--alias", usual="SERVING_MODEL_ALIAS", help="Whose version scores."),
    Option("--version", help="The version's number, instead."),
    LOG,
    about="Score in bulk what is due from a moment on, into the log of predictions.",
)  # fmt: skip
KEYS = Command(
    "keys", _keys,
    click.Argument(["name"], type=Parsed("name", _one_word)),
    click.Argument(["file"], type=FILE),
    flag("--admin", help="Of who runs the service: metrics and features too."),
    Option("--to", type=FILE, help="A new file for the key, its owner's alone, instead of printing it."),
    Option("--days", type=click.IntRange(1, LONGEST_DAYS - 1), help="How long the key lives."),
    about="Make an API key of NAME in FILE, the file of hashes that SERVING_API_KEYS names.",
)  # fmt: skip
COMMANDS = [SERVE, BATCH, KEYS]
