"""What the service is told by its environment; `.env.example` documents each variable."""

from __future__ import annotations

import ipaddress
import socket
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, HttpUrl, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from fti.contract.settings import PredictionSettings
from fti.serving.addresses import origin_of
from fti.times import LONGEST

GRACE_SECONDS = 30.0  # of BentoML 1.4's supervisor, circus, whatever is configured


class ServingSettings(PredictionSettings):
    """Read once at start, from variables named `SERVING_*`. MLflow reads MLFLOW_TRACKING_URI by itself."""

    host: str = "127.0.0.1"
    port: int = Field(default=3000, gt=0, lt=65536)
    workers: int = Field(default=1, gt=0)
    model_alias: str = "champion"
    model_version: int | None = Field(default=None, gt=0)
    shadow_alias: str | None = None
    shadow_share: float = Field(default=0.1, ge=0, le=1)
    poll_seconds: float = Field(default=5.0, gt=0)
    max_body_bytes: int = Field(default=65_536, gt=0)
    max_batch_rows: int = Field(default=1000, gt=0)
    max_batch_bytes: int = Field(default=1_048_576, gt=0)
    max_concurrency: int = Field(default=64, gt=0)
    max_header_bytes: int = Field(default=32_768, ge=1024)
    max_connections: int = Field(default=1000, gt=0)
    requests_per_minute: int | None = Field(default=None, gt=0)
    header_seconds: float = Field(default=5.0, gt=0)
    body_seconds: float = Field(default=5.0, gt=0)
    drain_seconds: float = Field(default=2.0, ge=0)
    timeout_seconds: float = Field(default=10.0, gt=0)
    clock_skew_seconds: float = Field(default=5.0, ge=0, le=3600)
    access_log: bool = True
    audit_log: Path | None = None
    api_keys: Path | None = None
    trusted_proxies: Annotated[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], NoDecode] = ()
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    log_retention_days: int | None = Field(default=None, gt=0, le=LONGEST.days)
    traces_url: str | None = None
    traces_share: float = Field(default=1.0, ge=0, le=1)
    mlflow_url: HttpUrl | None = None
    feast_url: HttpUrl | None = None
    report_url: HttpUrl | None = None
    docs_url: HttpUrl | None = None

    @property
    def clock_skew(self) -> timedelta:
        """How far ahead of this machine's clock a feature row may be stamped."""
        return timedelta(seconds=self.clock_skew_seconds)

    @property
    def links(self) -> list[dict[str, str]]:
        """Where a browser finds what goes with the service: those that are set."""
        known = {
            "Models and runs (MLflow)": self.mlflow_url,
            "Features (Feast)": self.feast_url,
            "Monitoring report": self.report_url,
            "Documentation": self.docs_url,
        }
        return [{"title": title, "url": str(url)} for title, url in known.items() if url is not None]

    @field_validator("trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _is_list(cls, given: Any) -> Any:
        return [item for item in given.replace(",", " ").split() if item] if isinstance(given, str) else given

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        found = [origin if origin == "*" else origin_of(origin) for origin in origins]
        if None in found:
            raise ValueError("expected origins as browsers send them, such as https://app.example.org, or *")
        return tuple(origin for origin in found if origin)

    @field_validator("host")
    @classmethod
    def _is_an_address(cls, host: str) -> str:
        """An IP address for a name: BentoML takes no names."""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ValueError(
                f"this machine knows no address of that name ({error}): give an IP address, 127.0.0.1 for this machine "
                "only or 0.0.0.0 for others too"
            ) from error
        version_4 = [where for family, *_, where in found if family == socket.AF_INET]
        return str((version_4 or [found[0][-1]])[0][0])

    @field_validator("timeout_seconds")
    @classmethod
    def _ends_before_it_is_killed(cls, timeout: float, others: ValidationInfo) -> float:
        drain = others.data.get("drain_seconds", 0.0)
        if drain + timeout >= GRACE_SECONDS:
            raise ValueError(
                f"with SERVING_DRAIN_SECONDS={drain:g} a last request may end {drain + timeout:g} s after SIGTERM, and "
                f"BentoML kills its workers after {GRACE_SECONDS:g}: both together have to be less"
            )
        return timeout

    @property
    def tracing(self) -> dict[str, Any]:
        """BentoML's settings for OpenTelemetry; without a place to send traces to, no request pays for one."""
        if self.traces_url is None:
            return {"excluded_urls": ".*"}
        to = {"protocol": "http", "endpoint": self.traces_url}
        return {"exporter_type": "otlp", "sample_rate": self.traces_share, "otlp": to}
