"""The model, unfitted, with all encoding inside it: serving needs nothing but the inputs. [yours]"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import TargetEncoder

from fti.contract.task import REGRESSION, Task
from fti.training.config import ConfigInvalid, ModelParameters

if TYPE_CHECKING:
    from optuna import Trial

# What the saved model is made of beyond what skops trusts by itself; loading refuses anything else.
TRUSTED_TYPES = [
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.model_selection._split.KFold",
]


def build_model(categories: list[str], parameters: ModelParameters, task: Task = "regression") -> BaseEstimator:
    """A regressor over a frame of named columns; `categories` are its text columns, every other one is a number.

    A shop becomes the cross-fitted mean of its visitors. Missing numbers take the trees' branch for missing values.
    """
    if task != REGRESSION or parameters.calibration != "none":
        raise ConfigInvalid("This model predicts a number: a label tagged `task: regression`, calibration: none.")
    encode = ColumnTransformer(
        [("category", _target_encoder(parameters.random_state), categories)],
        remainder="passthrough",
        verbose_feature_names_out=False,
    )
    trees = HistGradientBoostingRegressor(early_stopping=False, **parameters.model_dump(exclude={"calibration"}))
    return Pipeline([("encode", encode), ("regress", trees)])


def search_space(trial: Trial) -> dict[str, Any]:
    """The parameters that a trial of Optuna tries, by name as in `config.yaml`."""
    return {
        "max_iter": trial.suggest_int("max_iter", 100, 800, step=50),
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.2, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 7, 63),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 10, 400, log=True),
    }


def _target_encoder(seed: int) -> TargetEncoder:
    return TargetEncoder(target_type="continuous", cv=KFold(5, shuffle=True, random_state=seed))
