"""Rules for a training set before anything is fitted to it. [yours]"""

from collections.abc import Sequence

import great_expectations.expectations as gxe
import numpy as np
from great_expectations.expectations.expectation import Expectation

from validation.gate import Suite
from validation.task import REGRESSION, Task

# A feature may be missing for this share of the rows; beyond it, its pipeline is broken, not its world.
MOSTLY_KNOWN = 0.5
# No honest feature tells late flights from others this well by itself: the best of 2013 has 0.70, the departure delay,
# which is not known two hours before, has 0.90.
MOST_AUC_ALONE = 0.85
# Nor the minutes of a delay, by the share of the variance of their ranks: the best of June 2013 has 0.18, the departure
# delay 0.48.
MOST_R2_ALONE = 0.35
MOST = float(np.finfo("float64").max)


def training_suite(
    name: str, row_key: str, label: str, features: Sequence[str], task: Task = "classification"
) -> Suite:
    """The suite for a training set: its row key, its label column and its model inputs."""
    rows: dict[str, Expectation] = {}
    batch: dict[str, Expectation] = {"rows_are_unique": gxe.ExpectColumnValuesToBeUnique(column=row_key)}
    if task == REGRESSION:
        rows[f"{label}_is_finite"] = gxe.ExpectColumnValuesToBeBetween(column=label, min_value=-MOST, max_value=MOST)
        batch["outcomes_differ"] = gxe.ExpectColumnStdevToBeBetween(column=label, min_value=0, strict_min=True)
    else:
        rows[f"{label}_is_0_or_1"] = gxe.ExpectColumnValuesToBeInSet(column=label, value_set=[0, 1])
        batch["both_outcomes_occur"] = gxe.ExpectColumnMeanToBeBetween(column=label, min_value=0.01, max_value=0.99)
    rows[f"{label}_present"] = gxe.ExpectColumnValuesToNotBeNull(column=label)
    for feature in features:
        # A share, not a rule of rows with `mostly`: that would list every null row of every feature, two minutes of it.
        batch[f"{feature}_mostly_known"] = gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
            column=feature, min_value=MOSTLY_KNOWN
        )
    return Suite(f"training_set_{name}", rows, batch, min_rows=1000, max_held_share=0.0)


def leak_suite(name: str, task: Task = "classification") -> Suite:
    """The suite for a frame of one row a feature: `feature`, and how much of the outcome it alone tells, `auc_alone` of
    a class or `r2_alone` of a number (training/leaks.py)."""
    column, most = ("r2_alone", MOST_R2_ALONE) if task == REGRESSION else ("auc_alone", MOST_AUC_ALONE)
    rule = gxe.ExpectColumnValuesToBeBetween(column=column, max_value=most)
    return Suite(f"leaks_{name}", {}, {"no_feature_knows_the_outcome": rule}, label="feature")
