"""Judge a challenger: two registered versions in; their scores on the same rows and the gate's decision out.

Each version reads the feature store through its own contract, so models with different features meet on equal terms.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from threadpoolctl import threadpool_limits

from fti.contract.feature_contract import FeatureContract
from fti.contract.metrics import HEADLINE, differences, gain, scores, slice_scores
from fti.contract.registered import (
    AGAINST_TAG,
    DECISION_TAG,
    FAILED,
    PASSED,
    REASONS_TAG,
    TRIAL_TAG,
    fetch_version,
    load_model,
)
from fti.contract.spine import PREDICTION_TIME
from fti.contract.task import Task
from fti.contract.task import forecast as forecast_of
from fti.errors import Refusal
from fti.steps import step
from fti.training.baseline import REQUEST_FEATURES
from fti.training.card import record
from fti.training.config import TrainingConfig
from fti.training.dataset import LabelledRows, labelled_rows, pin_versions
from fti.training.gate import Decision, decide

LATENCY_REPEATS = 30
# Whole days are drawn to tell a difference from chance: of fewer, each draw is nearly the same and all would look sure.
LEAST_DAYS = 7


class NotComparable(Refusal):
    """The two versions cannot be judged on the same rows."""


@dataclass(frozen=True)
class Forecast:
    """What a version says of rows: `said` in the order of `rows`, and the milliseconds that one row takes."""

    rows: LabelledRows
    said: np.ndarray
    latency_ms: float

    def at(self, positions: np.ndarray) -> Forecast:
        """Of the rows at these positions, in this order."""
        frame = self.rows.frame.iloc[positions].reset_index(drop=True)
        rows = LabelledRows(frame, self.rows.interface, self.rows.row_key)
        return Forecast(rows, self.said[positions], self.latency_ms)

    @property
    def scores(self) -> dict[str, float]:
        return scores(self.rows.labels, self.said, self.rows.interface.task) | {"latency_ms": self.latency_ms}


def evaluate(
    store: FeatureStore,
    client: MlflowClient,
    config: TrainingConfig,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> Decision:
    """Score both versions on the challenger's validation rows, decide, and record it with the challenger.

    With a champion, on those that both answer and that neither was fitted to. Raises NotComparable when there are too
    few, or when the two do not predict the same outcomes.
    """
    if champion is not None and str(champion.version) == str(challenger.version):
        champion = None
    versions = [version for version in (challenger, champion) if version is not None]
    fetched = [fetch_version(version) for version in versions]
    contract, run_id = fetched[0][1], str(challenger.run_id)
    task, rows = contract.interface.task, contract.training_set
    starts, end = unseen_by([theirs for _, theirs in fetched], config)
    with step("evaluate") as report:
        for _, theirs in fetched:
            theirs.verify(store)
        pin_versions(store, *(theirs.interface for _, theirs in fetched))
        own, *others = (
            forecast(store, version, *files, start, end, rows.as_of)
            for version, files, start in zip(versions, fetched, starts, strict=True)
        )
        found, other = own.scores, others[0] if others else None
        reference = client.get_run(run_id).data.metrics.get(f"validation_{REQUEST_FEATURES}_{HEADLINE[task]}")
        if champion is not None and other is not None:
            answered = len(own.rows)
            own, other = on_common_rows(own, other, f"{challenger.version} and {champion.version}")
            report.update(left_out=answered - len(own.rows))
        report.update(rows=len(own.rows), challenger=challenger.version, champion=champion and champion.version)
    own_scores, champion_scores = own.scores, other.scores if other else None
    if reference is not None and HEADLINE[task] in found:  # the reference is of all rows that the challenger answers
        own_scores["gain_over_request_features"] = gain(found[HEADLINE[task]], reference, task)
    slices = slice_scores(own.rows.inputs, config.slices, own.rows.labels, own.said, task)
    apart = {} if other is None else _differences(config, own, other)
    decision = Decision(
        challenger=str(challenger.version),
        champion=str(champion.version) if champion else None,
        start=max(starts),
        end=end,
        challenger_scores=own_scores,
        champion_scores=champion_scores,
        differences=apart,
        rules=decide(config.gate, own_scores, slices, champion_scores, apart),
    )
    write(client, challenger, decision)
    record(client, challenger)
    return decision


def unseen_by(contracts: list[FeatureContract], config: TrainingConfig) -> tuple[list[datetime], datetime]:
    """From when on the challenger, and then both it and the champion, know none of the rows; and when those end.

    Raises NotComparable when the champion was fitted to rows so late that fewer than LEAST_DAYS are left.
    """
    rows, delay = contracts[0].training_set, config.label_delay
    own, end = rows.end + delay, rows.as_of - delay
    starts = [max(own, one.training_set.end + delay) for one in contracts]
    if starts[-1] > own and end - starts[-1] < timedelta(days=LEAST_DAYS):
        raise NotComparable(
            f"The challenger would be judged on the predictions of [{own:%Y-%m-%d}, {end:%Y-%m-%d}), but the champion "
            f"was fitted to those until {contracts[-1].training_set.end:%Y-%m-%d}: that proves nothing, "
            f"and from {starts[-1]:%Y-%m-%d} on fewer than {LEAST_DAYS} days are left. Train as of "
            f"{starts[-1] + (end - own) + delay:%Y-%m-%d} or later, or roll back to an older champion first."
        )
    return starts, end


def write(client: MlflowClient, challenger: ModelVersion, decision: Decision) -> None:
    """Log the decision and tag the version with it. Cut off in between, the version has not been judged."""
    name, version, run_id = challenger.name, challenger.version, str(challenger.run_id)
    for tag in (DECISION_TAG, TRIAL_TAG):
        client.delete_model_version_tag(name, version, tag)
    client.log_dict(run_id, asdict(decision) | {"passed": decision.passed}, "gate.json")
    client.log_text(run_id, table(decision), "gate.txt")
    client.set_model_version_tag(name, version, AGAINST_TAG, decision.champion or "none")
    client.set_model_version_tag(name, version, REASONS_TAG, decision.reasons)
    client.set_model_version_tag(name, version, DECISION_TAG, PASSED if decision.passed else FAILED)


def forecast(
    store: FeatureStore, version: ModelVersion, folder: Path, contract: FeatureContract,
    start: datetime, end: datetime, as_of: datetime,
) -> Forecast:  # fmt: skip
    """Score the rows predicted in `[start, end)` whose labels were known by `as_of`, through a version's contract.

    `folder` and `contract` are as `fetch_version` gives them. Raises LibraryMissing.
    """
    rows = labelled_rows(store, contract.interface, start, as_of).between(start, end)
    model, task = load_model(version, folder), contract.interface.task
    inputs = rows.inputs
    return Forecast(rows, forecast_of(model, inputs, task), _latency_ms(model, inputs, task))


def _latency_ms(model: Any, inputs: pd.DataFrame, task: Task) -> float:
    """The least time of one row by itself, in one thread: what else the machine does is not the model's doing."""

    def timed(row: int) -> float:
        one = inputs.iloc[[row % len(inputs)]]
        began = time.perf_counter()
        forecast_of(model, one, task)
        return (time.perf_counter() - began) * 1000

    with threadpool_limits(1):
        return min(timed(row) for row in range(LATENCY_REPEATS))


def on_common_rows(own: Forecast, other: Forecast, versions: str) -> tuple[Forecast, Forecast]:
    """Both forecasts of the rows that both versions answer, in one order. Raises NotComparable.

    A version does not answer rows that lack a view of its own which is declared `when_missing: reject`.
    """
    keys, theirs = own.rows.frame[own.rows.row_key], pd.Index(other.rows.frame[other.rows.row_key])
    positions = theirs.get_indexer(pd.Index(keys))
    common = positions >= 0
    own, other = own.at(np.flatnonzero(common)), other.at(positions[common])
    if not common.any() or not own.rows.labels.equals(other.rows.labels):
        told = "not the same outcomes for the same rows" if common.any() else "no row in common"
        raise NotComparable(
            f"Versions {versions} have {told}: they predict different things. Give one another model_name."
        )
    return own, other


def _differences(config: TrainingConfig, own: Forecast, other: Forecast) -> dict[str, Any]:
    rules, bootstrap = config.gate.metrics, config.gate.bootstrap
    return differences(
        own.rows.labels.to_numpy(),
        own.said,
        other.said,
        own.rows.frame[PREDICTION_TIME].dt.floor("D").to_numpy(),
        [name for name, rule in rules.items() if rule.max_regression is not None],
        bootstrap.resamples,
        bootstrap.confidence,
        config.model.random_state,
        own.rows.interface.task,
    )


def table(decision: Decision) -> str:
    """The decision as lines: scores side by side, what tells the two apart, then the rules."""
    columns = {f"challenger {decision.challenger}": decision.challenger_scores}
    if decision.champion_scores is not None:
        columns[f"champion {decision.champion}"] = decision.champion_scores
    lines = [
        f"Predictions of [{decision.start:%Y-%m-%d}, {decision.end:%Y-%m-%d}), none of which was fitted to:",
        " " * 30 + "".join(f"{title:>16}" for title in columns),
    ]
    for metric in decision.challenger_scores:
        values = "".join(f"{found[metric]:16.4f}" if metric in found else f"{'-':>16}" for found in columns.values())
        lines += [f"  {metric:28}{values}"]
    lines += [
        f"  {metric} differs by {found.value:+.4f}, [{found.low:+.4f}, {found.high:+.4f}] by chance: "
        f"{'a real difference' if found.is_real else 'no real difference'}"
        for metric, found in decision.differences.items()
    ]
    sliced = [rule for rule in decision.rules if rule.of_slice and rule.passed]
    lines += [f"  {'ok  ' if rule.passed else 'FAIL'} {rule}" for rule in decision.rules if rule not in sliced]
    if sliced:
        lower = sliced[0].better == "lower"
        worst = (max if lower else min)(sliced, key=lambda rule: rule.observed or 0)
        lines.append(f"  ok   {len(sliced)} slices; the {'highest' if lower else 'lowest'}: {worst}")
    return "\n".join(lines)
