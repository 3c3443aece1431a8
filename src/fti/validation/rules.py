"""The suites that every problem needs alike: its names, bounds and limits, of a project's validation/; suites out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import great_expectations.expectations as gxe
import numpy as np
import pyarrow as pa
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

from fti.contract.task import REGRESSION, Task
from fti.errors import Refusal
from fti.validation.gate import Suite

# The least and the most that a number may be. None leaves a side open.
Bounds = tuple[float | None, float | None]
LARGEST = float(np.finfo("float64").max)


class LimitUnknown(Refusal):
    """Nobody has said how much a single feature may tell of an outcome of this task."""


# ---- feature rows ---------------------------------------------------------------------------------------------------


def feature_suite(
    table: str,
    keys: Sequence[str],
    columns: Sequence[str],
    bounds: Mapping[str, Bounds],
    floats: Collection[str] = (),
) -> Suite:
    """The suite for one feature table, from its keys and columns.

    `bounds` are by pattern of a column's name; the first that fits counts. What is in `floats` is finite, too, where
    its bounds leave a side open or it has none: no model takes an infinite number.
    """
    rows: dict[str, Expectation] = {
        f"{column}_present": gxe.ExpectColumnValuesToNotBeNull(column=column) for column in [*keys, "event_timestamp"]
    }
    for column in columns:
        found = next((limits for pattern, limits in bounds.items() if fnmatch(column, pattern)), None)
        if found or column in floats:
            low, high = _finite(found) if column in floats else found or (None, None)
            rows[f"{column}_in_range" if found else f"{column}_is_finite"] = gxe.ExpectColumnValuesToBeBetween(
                column=column, min_value=low, max_value=high
            )
    unique = gxe.ExpectCompoundColumnsToBeUnique(column_list=[*keys, "event_timestamp"])
    batch: dict[str, Expectation] = {"one_row_a_key_and_moment": unique}
    return Suite(f"features_{table}", rows, batch, min_rows=0, max_held_share=0.01, few_held=0)


def floats_of(schema: pa.Schema) -> list[str]:
    """The columns that can hold an infinite number."""
    return [column.name for column in schema if pa.types.is_floating(column.type)]


def _finite(bounds: Bounds | None) -> Bounds:
    """The bounds, with the largest number there is where they leave a side open."""
    low, high = bounds or (None, None)
    return (-LARGEST if low is None else low, LARGEST if high is None else high)


def landed_suite(max_hours: float = 24) -> Suite:
    """The suite for a frame of one row: `newest`, when the newest raw event was, as text, and `hours_after_newest`, how
    long after it the interval to publish ends.

    A day, because feeds are silent at night; that none of them says anything for longer means that nothing has landed.
    """
    rule = gxe.ExpectColumnValuesToBeBetween(column="hours_after_newest", max_value=max_hours)
    return Suite("landed", {}, {"events_to_the_end": rule}, label="newest")


# ---- profiles of batches --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feed:
    """What to profile as one feed (see `fti.validation.profile.profile`), and the suite that judges its profile."""

    tables: tuple[str, ...]
    values: tuple[str, ...]
    suite: Suite
    newest_by: str | None = None
    spread_by: str | None = None


def profile_suite(name: str, critical: Mapping[str, Bounds], warning: Mapping[str, Bounds]) -> Suite:
    """The suite for a feed's profile: what is outside of `critical` stops a batch, outside of `warning` is reported.

    Both are by column of the profile. The rules are named after it, `_possible` and `_normal`.
    """
    rules: dict[str, Expectation] = {}
    for severity, suffix, limits in (
        (FailureSeverity.CRITICAL, "possible", critical),
        (FailureSeverity.WARNING, "normal", warning),
    ):
        for column, (low, high) in limits.items():
            rules[f"{column}_{suffix}"] = gxe.ExpectColumnValuesToBeBetween(
                column=column, min_value=low, max_value=high, severity=severity
            )
    return Suite(f"profile_{name}", {}, rules, min_rows=0, label="window")


# ---- training sets --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingLimits:
    """What a training set of the problem may look like.

    `mostly_known` is the least share of the rows of which each feature is known. `told_alone`, by task, is the most
    that a single feature may tell of the outcome (fti/training/leaks.py): as ROC AUC of a class, as r2 of the ranks of
    a number. `label` are the bounds of one that is a number.
    """

    mostly_known: float
    told_alone: Mapping[Task, float]
    label: Bounds = (-LARGEST, LARGEST)


def training_suite(
    name: str, row_key: str, label: str, features: Sequence[str], task: Task, limits: TrainingLimits
) -> Suite:
    """The suite for the rows to fit to: their row key, label column and model inputs."""
    batch: dict[str, Expectation] = {"rows_are_unique": gxe.ExpectColumnValuesToBeUnique(column=row_key)}
    if task == REGRESSION:
        batch["outcomes_differ"] = gxe.ExpectColumnStdevToBeBetween(column=label, min_value=0, strict_min=True)
    else:
        batch["both_outcomes_occur"] = gxe.ExpectColumnMeanToBeBetween(column=label, min_value=0.01, max_value=0.99)
    for feature in features:
        # A share, not a rule of rows with `mostly`: that would list every null row of every feature, two minutes of it.
        batch[f"{feature}_mostly_known"] = gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
            column=feature, min_value=limits.mostly_known
        )
    return Suite(
        f"training_set_{name}", _label_rules(label, task, limits), batch, min_rows=1000, max_held_share=0.0, few_held=0
    )


def judging_suite(name: str, row_key: str, label: str, task: Task, limits: TrainingLimits) -> Suite:
    """The suite for the rows that judge a fit: too few decide nothing, and a label that is none would be scored."""
    unique = gxe.ExpectColumnValuesToBeUnique(column=row_key)
    rows = _label_rules(label, task, limits)
    return Suite(f"judging_set_{name}", rows, {"rows_are_unique": unique}, min_rows=100, max_held_share=0.0, few_held=0)


def _label_rules(label: str, task: Task, limits: TrainingLimits) -> dict[str, Expectation]:
    """Of each row: an outcome that its task can have."""
    rules: dict[str, Expectation] = {f"{label}_present": gxe.ExpectColumnValuesToNotBeNull(column=label)}
    if task == REGRESSION:
        low, high = _finite(limits.label)
        rules[f"{label}_in_range"] = gxe.ExpectColumnValuesToBeBetween(column=label, min_value=low, max_value=high)
    else:
        rules[f"{label}_is_0_or_1"] = gxe.ExpectColumnValuesToBeInSet(column=label, value_set=[0, 1])
    return rules


def leak_suite(name: str, task: Task, limits: TrainingLimits) -> Suite:
    """The suite for a frame of one row a feature: `feature`, and how much of the outcome it alone tells, `auc_alone` of
    a class or `r2_alone` of a number. Raises LimitUnknown."""
    if task not in limits.told_alone:
        raise LimitUnknown(
            f"The label is one of {task}, and `told_alone` in validation/training_set.py has a limit for "
            f"{', '.join(limits.told_alone) or 'nothing'} only. Add one, or mend the tag `task` of the label's view."
        )
    column = "r2_alone" if task == REGRESSION else "auc_alone"
    rule = gxe.ExpectColumnValuesToBeBetween(column=column, max_value=limits.told_alone[task])
    return Suite(f"leaks_{name}", {}, {"no_feature_knows_the_outcome": rule}, label="feature")
