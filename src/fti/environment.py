"""The environment variables of every command: the caller's, then those of the project's .env, then no telemetry."""

from __future__ import annotations

import os
from pathlib import Path

# Nothing phones home unless asked to.
QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


def complete(folder: Path | None) -> None:
    """Set what the caller did not, from .env in a folder: values as they are written; an empty one counts as none."""
    from dotenv import dotenv_values

    written = dotenv_values(folder / ".env", interpolate=False) if folder else {}
    for name, value in (QUIET | {name: value for name, value in written.items() if value}).items():
        os.environ.setdefault(name, value)
