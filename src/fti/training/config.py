"""What a training run is told: `config.yaml`, overridden by the command line, checked as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from fti.contract.task import WEIGHABLE
from fti.errors import Refusal, few
from fti.project import project
from fti.times import LONGEST, utc

# Parameters of the command line and of MLproject, and where in config.yaml their defaults are.
PARAMETERS = {
    "feature_service": ("feature_service",),
    "as_of": ("as_of",),
    "trials": ("search", "trials"),
    "mode": ("gate", "mode"),
}


class ConfigInvalid(Refusal):
    """The configuration or a parameter cannot be used."""


def _moment(value: Any) -> Any:
    """YAML reads 2013-10-01 as a date, the command line as text; both mean a moment in UTC."""
    return utc(value.isoformat() if isinstance(value, date) else value) if isinstance(value, str | date) else value


Moment = Annotated[datetime, BeforeValidator(_moment)]
Days = Annotated[int, Field(gt=0, le=LONGEST.days)]
Mode = Literal["enabled", "dry_run", "disabled"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelParameters(Section):
    """Parameters of scikit-learn's HistGradientBoosting trees, and how a classifier's probabilities are calibrated."""

    max_iter: PositiveInt
    learning_rate: float = Field(gt=0)
    max_leaf_nodes: int = Field(gt=1)
    min_samples_leaf: PositiveInt
    l2_regularization: float = Field(ge=0)
    max_features: float = Field(gt=0, le=1)
    calibration: Literal["none", "sigmoid", "isotonic"]
    random_state: int


class Search(Section):
    """Optuna's search for better parameters before the fit. No trials: the parameters as they are written."""

    trials: int = Field(ge=0)
    days: Days


class MetricRule(Section):
    """What a challenger must show in one metric: a limit of its own, and how much worse than the champion it may be."""

    better: Literal["higher", "lower"]
    limit: float | None = None
    max_regression: float | None = Field(default=None, ge=0)


class SliceRule(Section):
    """The limit of one metric in every slice of at least `min_rows` validation rows."""

    metric: Literal["roc_auc", "average_precision", "rmse", "mae", "r2"]
    better: Literal["higher", "lower"] = "higher"
    limit: float
    min_rows: PositiveInt


class Bootstrap(Section):
    """How a difference to the champion is told from chance: whole days are drawn anew `resamples` times."""

    resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)


class GateRules(Section):
    """What a challenger must show on the validation rows. `disabled` asks nobody, `dry_run` moves nothing."""

    mode: Mode
    metrics: dict[str, MetricRule]
    slices: SliceRule
    bootstrap: Bootstrap

    @field_validator("metrics")
    @classmethod
    def _can_regress(cls, metrics: dict[str, MetricRule]) -> dict[str, MetricRule]:
        """Nothing tells the difference of another one from chance, and what is missing never passes."""
        for name, rule in metrics.items():
            if rule.max_regression is not None and name not in WEIGHABLE:
                raise ValueError(
                    f"{name} can have a limit, but no max_regression; those that can: {', '.join(WEIGHABLE)}"
                )
        return metrics


class TrainingConfig(Section):
    """Rows predicted in `[start, fit_end)` are fitted to, those in `[validation_start, validation_end)` judge it."""

    model_name: str = Field(pattern=r"^[\w.-]+$")
    feature_service: str = Field(min_length=1)
    as_of: Moment
    start: Moment
    validation_days: Days
    label_delay_hours: int = Field(ge=0, le=LONGEST.days * 24)
    model: ModelParameters
    search: Search
    slices: dict[str, list[float]]
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


def load_config(overrides: Mapping[str, Any], file: Path | None = None) -> TrainingConfig:
    """Read the file, by default the project's, and put the PARAMETERS that are not empty over it.

    Raises ConfigInvalid with one line.
    """
    file = file or project().root / "training" / "config.yaml"
    try:
        written = yaml.safe_load(file.read_text()) or {}
        for name, value in overrides.items():
            if value not in (None, ""):
                *sections, key = PARAMETERS.get(name, (name,))
                section = written
                for part in sections:
                    section = section.setdefault(part, {})
                section[key] = value
        return TrainingConfig.model_validate(written)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigInvalid(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        found = few((f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors()), "; ")
        raise ConfigInvalid(f"{found}. Mend the parameter, or {file}.") from error


def feast_repo() -> Path:
    """The Feast repository to train over: TRAINING_FEAST_REPO, or the project's."""
    return project().root / os.environ.get("TRAINING_FEAST_REPO", "feature_repo")
