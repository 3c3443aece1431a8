"""What the service and whoever looks at its predictions are told alike; `.env.example` documents each variable."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[1]
OFF = "off"


class PredictionSettings(BaseSettings):
    """Which model predicts, where it reads features, and where its predictions are logged: `SERVING_*`."""

    # A variable that is set to nothing is as good as unset.
    model_config = SettingsConfigDict(env_prefix="SERVING_", env_ignore_empty=True, frozen=True)

    model_name: str = "arrival-delay"  # [yours] as in training/config.yaml
    feast_repo: Path = ROOT / "feature_repo"
    prediction_log: str = f"sqlite:///{ROOT / 'data' / 'predictions.db'}"  # or OFF
