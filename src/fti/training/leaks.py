"""How much of the label each feature tells all by itself: numeric inputs and labels in; a row a feature out.

What is known only afterwards tells nearly all of it. validation/training_set.py says how much is too much.
"""

from __future__ import annotations

import pandas as pd
from sklearn.metrics import roc_auc_score

from fti.contract.task import CLASSIFICATION, Task

GROUPS = 20


def told_alone(numbers: pd.DataFrame, labels: pd.Series, task: Task) -> pd.DataFrame:
    """`auc_alone` of a label that is 0 or 1, `r2_alone` of one that is a number."""
    return auc_alone(numbers, labels) if task == CLASSIFICATION else r2_alone(numbers, labels)


def auc_alone(numbers: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """How well each column alone tells the labels apart, in whichever way: columns feature and auc_alone.

    Each row is scored by the mean label of its group, as in `r2_alone`: so a column that is high for both extremes, or
    that is missing for one label, tells as much as one that rises with it. Noise tells some: 0.52 of 20,000 rows, a
    fifth of them 1, and 0.6 of 1,000.
    """
    found = []
    for name in numbers:
        told = labels.groupby(_groups(numbers[name])).transform("mean")
        found.append({"feature": name, "auc_alone": float(roc_auc_score(labels, told))})
    return pd.DataFrame(found)


def r2_alone(numbers: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """The share of the label's variance that each column explains by itself: columns feature and r2_alone.

    The column's rows are put into GROUPS of equally many, as far as ties allow, and one of those where it is missing;
    what the groups' mean labels explain is the correlation ratio (Pearson 1905). So a label that was bent, turned
    round, or only left blank where it is high is found too, which a correlation would miss. Of labels, their ranks: a
    few huge ones would outweigh all others. Of n rows, chance alone explains some GROUPS / n.
    """
    ranks = labels.rank().to_numpy()
    spread = float(((ranks - ranks.mean()) ** 2).sum())
    found = []
    for name in numbers:
        means = pd.Series(ranks, numbers.index).groupby(_groups(numbers[name])).transform("mean").to_numpy()
        found.append({"feature": name, "r2_alone": float(((means - ranks.mean()) ** 2).sum()) / spread})
    return pd.DataFrame(found)


def _groups(column: pd.Series) -> pd.Series:
    """The group that each row is in: many small ones would tell the labels of their own rows."""
    return (column.rank(pct=True) * GROUPS).floordiv(1).fillna(-1)  # ties have one rank, so one group
