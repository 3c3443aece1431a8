"""What the service is told by its environment; `.env.example` documents each variable."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[1]


class ServingSettings(BaseSettings):
    """Read once at start, from variables named `SERVING_*`. MLflow reads MLFLOW_TRACKING_URI by itself."""

    model_config = SettingsConfigDict(env_prefix="SERVING_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=3000, gt=0, lt=65536)
    model_name: str = "arrival-delay"
    model_alias: str = "champion"
    feast_repo: Path = ROOT / "feature_repo"
    poll_seconds: float = Field(default=5.0, gt=0)
    max_body_bytes: int = Field(default=65_536, gt=0)
    max_batch_rows: int = Field(default=1000, gt=0)
    max_batch_bytes: int = Field(default=1_048_576, gt=0)
    api_keys: Path | None = None
