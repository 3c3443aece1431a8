"""Look for better parameters with Optuna: rows to fit to in; what scored best on their last days out."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import mlflow
import optuna

from fti.contract.metrics import scores
from fti.contract.task import Task, forecast
from fti.project import project
from fti.training.config import ConfigInvalid, ModelParameters, TrainingConfig
from fti.training.plots import search_figure

if TYPE_CHECKING:
    from fti.training.dataset import LabelledRows

# What a trial is judged by, the lower the better.
METRIC: dict[Task, str] = {"classification": "log_loss", "regression": "rmse"}


def search(rows: LabelledRows, config: TrainingConfig) -> ModelParameters:
    """Try `config.search.trials` parameter sets, the written ones first, each a nested run of the active MLflow run.

    They are judged on the last `config.search.days` of the rows to fit to, after the same gap: the gate's rows are not
    looked at. Raises ConfigInvalid when there are none to learn from, or none to judge by.
    """
    cut = config.fit_end - timedelta(days=config.search.days)
    learn = rows.between(config.start, cut - config.label_delay, known_by=cut)
    judge = rows.between(cut, config.fit_end)
    if not len(learn) or not len(judge):
        raise ConfigInvalid(
            f"A search learns from rows before {cut - config.label_delay:%Y-%m-%d} and judges by those of the "
            f"{config.search.days} days from {cut:%Y-%m-%d} on; of those since {config.start:%Y-%m-%d} there "
            f"are {len(learn)} and {len(judge)}. Choose a later as_of, an earlier start, fewer search.days in "
            "training/config.yaml, or trials=0."
        )
    inputs, labels, task = learn.inputs, learn.labels, rows.interface.task

    def objective(trial: optuna.Trial) -> float:
        parameters = config.model.model_copy(update=project().model.search_space(trial))
        with mlflow.start_run(run_name=f"trial {trial.number}", nested=True):
            mlflow.log_params(parameters.model_dump())
            model = project().model.build_model(rows.interface.categories, parameters, task).fit(inputs, labels)
            found = scores(judge.labels, forecast(model, judge.inputs, task), task)
            mlflow.log_metrics({f"search_{name}": value for name, value in found.items()})
        return found[METRIC[task]]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=config.model.random_state))
    study.enqueue_trial(config.model.model_dump())
    study.optimize(objective, n_trials=config.search.trials, show_progress_bar=True)
    tried = [float(trial.value or 0) for trial in study.trials]
    mlflow.log_figure(search_figure(tried, METRIC[task]), "plots/search.png")
    return config.model.model_copy(update=study.best_params)
