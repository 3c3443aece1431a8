"""Rules for a training set before anything is fitted to it. [yours]"""

from collections.abc import Sequence

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation

from validation.gate import Suite
from validation.task import REGRESSION, Task

# A feature may be missing for this share of the rows; beyond it, its pipeline is broken, not its world.
MOSTLY_KNOWN = 0.5
# An honest feature explains much of the ranks here: the mean of four weeks 0.93. The count itself explains all.
MOST_R2_ALONE = 0.97


def training_suite(name: str, row_key: str, label: str, features: Sequence[str], task: Task = REGRESSION) -> Suite:
    """The suite for a training set: its row key, its label column and its model inputs."""
    assert task == REGRESSION, "people are a number"
    rows: dict[str, Expectation] = {
        f"{label}_present": gxe.ExpectColumnValuesToNotBeNull(column=label),
        f"{label}_in_range": gxe.ExpectColumnValuesToBeBetween(column=label, min_value=0, max_value=20_000),
    }
    batch: dict[str, Expectation] = {
        "rows_are_unique": gxe.ExpectColumnValuesToBeUnique(column=row_key),
        "outcomes_differ": gxe.ExpectColumnStdevToBeBetween(column=label, min_value=0, strict_min=True),
    }
    for feature in features:
        batch[f"{feature}_mostly_known"] = gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
            column=feature, min_value=MOSTLY_KNOWN
        )
    return Suite(f"training_set_{name}", rows, batch, min_rows=1000, max_held_share=0.0)


def leak_suite(name: str, task: Task = REGRESSION) -> Suite:
    """The suite for a frame of one row a feature: `feature`, and `r2_alone`, how much of the outcome it alone tells."""
    assert task == REGRESSION, "people are a number"
    rule = gxe.ExpectColumnValuesToBeBetween(column="r2_alone", max_value=MOST_R2_ALONE)
    return Suite(f"leaks_{name}", {}, {"no_feature_knows_the_outcome": rule}, label="feature")
