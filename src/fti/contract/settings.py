"""What the service and whoever looks at its predictions are told alike; `.env.example` documents each variable."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fti.project import project

OFF = "off"


class PredictionSettings(BaseSettings):
    """Which model predicts, where it reads features, and where its predictions are logged: `SERVING_*`."""

    # A variable that is set to nothing is as good as unset.
    model_config = SettingsConfigDict(env_prefix="SERVING_", env_ignore_empty=True, frozen=True)

    model_name: str = Field(default_factory=lambda: project().model_name)
    feast_repo: Path = Field(default_factory=lambda: project().repo)
    prediction_log: str = Field(  # or OFF
        default_factory=lambda: f"sqlite:///{project().root / 'data' / 'predictions.db'}"
    )
