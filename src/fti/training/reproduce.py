"""Build a registered model again: a version in; its training set and its predictions compared to the digit, out."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from deltalake.exceptions import DeltaError
from feast import FeatureStore
from mlflow import MlflowClient
from mlflow.artifacts import load_text
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fti.contract.feature_contract import FeatureContract
from fti.contract.registered import ERASED_TAG, fetch_version, load_model
from fti.contract.spine import row_key_of
from fti.contract.task import forecast
from fti.errors import Refusal
from fti.steps import step
from fti.training.config import TrainingConfig
from fti.training.dataset import LabelledRows, labelled_rows, stored_rows, training_sets
from fti.training.promote import NothingToDo, find_version
from fti.training.run_record import CONFIG_ARTIFACT, PINNED
from fti.training.train import fit, git_commit, split

SAMPLE_ROWS = 1000
SHOWN = 5


class NotReproduced(Refusal):
    """The rebuilt training set or model is not the recorded one."""


@dataclass
class Rebuilt:
    """What came out the same, and what did not, a line each; `circumstances` may explain the latter."""

    same: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    circumstances: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(
            [f"  same     {line}" for line in self.same]
            + [f"  DIFFERS  {line}" for line in self.differs]
            + [f"  note     {line}" for line in self.circumstances]
        )


def reproduce(store: FeatureStore, client: MlflowClient, version: ModelVersion) -> Rebuilt:
    """Build the rows again from the recorded table versions, fit again, and predict a fixed sample of them again.

    Raises ContractBroken when the feature service has changed or the model's files have, NotReproduced when rows that
    it was fitted to were erased, NothingToDo when the run did not record how it was trained. Whether all came out the
    same is for the caller to see.
    """
    if erased := version.tags.get(ERASED_TAG):
        raise NotReproduced(
            f"{version.name} version {version.version} was fitted to rows that were erased on {erased}, so it can no "
            "longer be rebuilt. The receipts in data/erasures say what was erased."
        )
    folder, contract = fetch_version(version)
    contract.verify(store)
    config = _config_of(version)
    found = Rebuilt(circumstances=_circumstances(client, version, folder))
    with step("rebuild the training set") as report:
        rows = _rows(store, contract, config, found)
        report.update(rows=len(rows), sha256=rows.sha256[:12])
    with step("fit again"):
        model = fit(rows, config)
    recorded = load_model(version, folder)
    sample = rows.inputs.iloc[np.linspace(0, len(rows) - 1, min(SAMPLE_ROWS, len(rows))).astype(int)]
    again, before = (forecast(one, sample, contract.interface.task) for one in (model, recorded))
    if np.array_equal(again, before):
        found.same.append(f"predictions of {len(sample):,} rows, to the last bit")
    else:
        apart = np.abs(again - before)
        found.differs.append(
            f"predictions of {int((apart > 0).sum()):,} of {len(sample):,} rows, by up to {apart.max():.3g}"
        )
    return found


def version_of(client: MlflowClient, name: str, version: str, run_id: str) -> ModelVersion:
    """The version that a run registered, else the one with that number or alias. Raises NothingToDo."""
    if run_id:
        registered = client.search_model_versions(f"run_id = '{run_id}'")
        if not registered:
            raise NothingToDo(f"Run {run_id!r} registered no model version, so there is nothing to compare with.")
        return registered[0]
    return find_version(client, name, version)


def _config_of(version: ModelVersion) -> TrainingConfig:
    try:
        written = load_text(f"runs:/{version.run_id}/{CONFIG_ARTIFACT}")
    except (MlflowException, OSError) as error:
        raise NothingToDo(
            f"Run {version.run_id} of {version.name} version {version.version} has no {CONFIG_ARTIFACT}: how it was "
            "trained is not on record."
        ) from error
    return TrainingConfig.model_validate(json.loads(written))


def _rows(store: FeatureStore, contract: FeatureContract, config: TrainingConfig, found: Rebuilt) -> LabelledRows:
    """The rows to fit to, rebuilt from the recorded table versions, or the copy that training kept of them."""
    recorded, interface = contract.training_set, contract.interface
    kept = stored_rows(
        interface, row_key_of(store, interface), training_sets(store, interface.feature_service), recorded.sha256
    )
    store.config.offline_store.delta_versions.update(recorded.delta_versions)
    try:
        rows = split(labelled_rows(store, interface, recorded.start, recorded.as_of), config)[0]
    except (Refusal, DeltaError, OSError) as error:  # the store refuses tables of which VACUUM removed files
        if kept is None:
            raise NotReproduced(
                f"The recorded table versions {recorded.delta_versions} cannot be read any more "
                f"({type(error).__name__}: {' '.join(str(error).split())}), and no copy of the training set was kept."
            ) from error
        found.circumstances.append("the recorded table versions are gone; the kept copy of the training set was used")
        rows = kept
    if rows.sha256 == recorded.sha256:
        found.same.append(f"training set, {len(rows):,} rows, sha256 {rows.sha256}")
    else:
        found.differs.append(
            f"training set: {recorded.rows:,} rows with sha256 {recorded.sha256} recorded, {len(rows):,} rows with "
            f"sha256 {rows.sha256} rebuilt"
        )
        found.differs += _cells(rows, kept) if kept is not None else []
    return rows


def _cells(rows: LabelledRows, kept: LabelledRows) -> list[str]:
    """Which rows and cells of the rebuilt training set are not those that training kept."""
    key, label = rows.row_key, rows.interface.label
    new, old = (one.inputs.assign(**{label: one.labels}).set_axis(one.frame[key]) for one in (rows, kept))
    lines = [
        f"{len(only):,} rows only {where}, such as {list(only[:SHOWN])}"
        for only, where in ((new.index.difference(old.index), "rebuilt"), (old.index.difference(new.index), "recorded"))
        if len(only)
    ]
    both = new.index.intersection(old.index)
    new, old = new.loc[both], old.loc[both]
    for column in old:
        unlike = (new[column] != old[column]) & ~(new[column].isna() & old[column].isna())
        if unlike.any():
            first = unlike.index[unlike][0]
            lines.append(
                f"{column}: {int(unlike.sum()):,} cells; {first} had {old[column][first]!r}, has {new[column][first]!r}"
            )
    return lines


def _circumstances(client: MlflowClient, version: ModelVersion, folder: Path) -> list[str]:
    """Code and packages that are not those of the recorded run."""
    commit, now = client.get_run(str(version.run_id)).data.tags.get("git_commit", "unknown"), git_commit()
    notes = [] if commit == now else [f"code: recorded at commit {commit}, now at {now}"]
    written: dict[str, Any] = dict(
        line.split("==") for line in (folder / "requirements.txt").read_text().split() if "==" in line
    )
    return notes + [
        f"{name} {written[name]} recorded, {installed} installed"
        for name in PINNED
        if name in written and (installed := importlib.metadata.version(name)) != written[name]
    ]
