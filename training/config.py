"""What a training run is told: `config.yaml`, overridden by the command line, checked as a whole."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from validation.errors import Refusal
from validation.times import utc

CONFIG_FILE = Path(__file__).with_name("config.yaml")


class ConfigInvalid(Refusal):
    """The configuration or a parameter cannot be used."""


def _moment(value: Any) -> Any:
    """YAML reads 2013-10-01 as a date, the command line as text; both mean a moment in UTC."""
    if isinstance(value, str):
        return utc(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


Moment = Annotated[datetime, BeforeValidator(_moment)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelParameters(Section):
    """Parameters of scikit-learn's HistGradientBoostingClassifier."""

    max_iter: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    max_leaf_nodes: int = Field(gt=1)
    min_samples_leaf: int = Field(gt=0)
    l2_regularization: float = Field(ge=0)
    random_state: int


class GateRules(Section):
    """What a challenger must show on the validation rows."""

    mode: Literal["enabled", "dry_run", "disabled"]
    min_roc_auc: float
    min_gain_over_request_features: float
    max_calibration_error: float
    max_roc_auc_regression: float
    max_brier_regression: float


class TrainingConfig(Section):
    """Rows predicted in `[start, fit_end)` are fitted to, those in `[validation_start, validation_end)` judge it."""

    model_name: str = Field(pattern=r"^[\w.-]+$")
    feature_service: str = Field(min_length=1)
    as_of: Moment
    start: Moment
    validation_days: int = Field(gt=0)
    label_delay_hours: int = Field(ge=0)
    model: ModelParameters
    gate: GateRules

    @property
    def label_delay(self) -> timedelta:
        return timedelta(hours=self.label_delay_hours)

    @property
    def validation_end(self) -> datetime:
        return self.as_of - self.label_delay

    @property
    def validation_start(self) -> datetime:
        return self.validation_end - timedelta(days=self.validation_days)

    @property
    def fit_end(self) -> datetime:
        return self.validation_start - self.label_delay

    @model_validator(mode="after")
    def _has_room(self) -> TrainingConfig:
        if self.start >= self.fit_end:
            raise ValueError(
                f"start {self.start:%Y-%m-%d} leaves nothing to fit to before {self.fit_end:%Y-%m-%d}, "
                "where the gap before the validation rows begins: choose an earlier start or a later as_of"
            )
        return self


def load_config(overrides: dict[str, Any], file: Path = CONFIG_FILE) -> TrainingConfig:
    """Read the file and put `overrides` that are not empty over it. Raises ConfigInvalid with one line."""
    try:
        written = yaml.safe_load(file.read_text()) or {}
        return TrainingConfig.model_validate(written | {name: value for name, value in overrides.items() if value})
    except (OSError, yaml.YAMLError) as error:
        raise ConfigInvalid(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors())
        raise ConfigInvalid(f"{found}. Mend the parameter, or {file}.") from error
