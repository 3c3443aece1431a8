"""A model version made ready to serve: registry and feature store in; a version that has been seen to answer out."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from feast import FeatureStore
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import ContractBroken
from fti.contract.registered import ABSENT, GOLDEN_NAME, GOLDEN_SAID, fetch_version, load_model, require_registry
from fti.contract.request_limits import LATEST
from fti.contract.task import CLASSIFICATION, Task
from fti.scoring.compiled import TOLERANCE, Compiled, Native, apart, compiled
from fti.scoring.explain import explainer
from fti.scoring.features import AHEAD, FeatureReader, open_store, request_names
from fti.scoring.meanings import meanings
from fti.scoring.schemas import AS_OF, RequestInvalid, request_schema
from fti.scoring.served_model import Prediction, ServedModel, iso


def find_version(name: str, alias: str, number: str | None = None) -> ModelVersion | None:
    """A version of a registered model, by its number or else by an alias; None when the registry has none such.

    Raises MlflowException when it does not answer, RegistryMissing when there is none.
    """
    require_registry()
    client = MlflowClient()
    try:
        return client.get_model_version(name, number) if number else client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def load(version: ModelVersion, feast_repo: Path, ahead: timedelta = AHEAD) -> ServedModel:
    """As `load_on`, on a store of its own: its registry is as new as the version, and no other thread reads it."""
    return load_on(version, open_store(feast_repo), ahead)


def load_on(version: ModelVersion, store: FeatureStore, ahead: timedelta = AHEAD) -> ServedModel:
    """Load a registered version and check that it can answer. Raises ContractBroken, and what its parts raise."""
    with TemporaryDirectory(prefix="model-") as here:  # a version that is refused is fetched again at every poll
        folder, contract = fetch_version(version, Path(here))
        checked = checked_model(version, folder, contract, store)
    used = {field.name for field in contract.interface.request_fields}
    model = ServedModel(
        name=version.name,
        version=str(version.version),
        contract=contract,
        model=checked,
        reader=FeatureReader(store, contract.interface, ahead),
        schema=request_schema(contract, unused=request_names(store) - used),
        meanings=meanings(store, contract.interface),
        loaded_at=datetime.now(UTC),
        explainer=explainer(checked),
    )
    _warm_up(model)
    return model


def checked_model(
    version: ModelVersion, folder: Path, contract: FeatureContract, store: FeatureStore
) -> Compiled | Native:
    """The model of a fetched version, if the live registry honours its contract and it predicts here what it did in
    training. Raises ContractBroken."""
    contract.verify(store)
    model = compiled(load_model(version, folder), contract.interface)
    golden, task = folder / "extra_files" / GOLDEN_NAME, contract.interface.task
    _require_golden(f"{version.name} version {version.version}", model, golden, task)
    return model


def reopen(model: ServedModel, feast_repo: Path, ahead: timedelta = AHEAD) -> ServedModel:
    """The same version on the feature store as it is now. Raises ContractBroken, StoreUnavailable."""
    store = open_store(feast_repo)
    model.contract.verify(store)
    interface = model.contract.interface
    model = replace(model, reader=FeatureReader(store, interface, ahead), meanings=meanings(store, interface))
    _warm_up(model)
    return model


def _warm_up(model: ServedModel) -> None:
    """Answer the contract's example: the first request pays no import, and a model that cannot answer never serves.

    Read as of the end of time, because by now the online store may have moved past the example's own moment. A view
    that may not be missing is stale then: the model is not asked. Raises ContractBroken, StoreUnavailable.
    """
    example = model.contract.example_request | {AS_OF: iso(LATEST - timedelta(days=1))}
    try:
        request, _ = model.parse(json.dumps(example).encode(), LATEST)
    except RequestInvalid as invalid:
        raise ContractBroken(
            f"the request schema of its contract refuses its own example request ({invalid}). Let the rows of "
            f"{model.contract.interface.spine_view!r} have the types that the request fields are declared with, and "
            "train again."
        ) from invalid
    (outcome,) = model.predict([request])
    if not isinstance(outcome, Prediction):
        return
    classifies = model.contract.interface.task == CLASSIFICATION
    if not (0 <= outcome.value <= 1 if classifies else math.isfinite(outcome.value)):
        no = "probability" if classifies else "finite number"
        raise ContractBroken(f"its example request gives {outcome.value}, which is no {no}")


def _require_golden(named: str, model: Compiled | Native, file: Path, task: Task) -> None:
    """Predict what training has predicted. Raises ContractBroken when there is nothing, or it comes out otherwise."""
    if not file.is_file():
        raise ContractBroken(f"{named} carries no {file.name}; it was not registered by this training pipeline.")
    golden = json.loads(file.read_text())
    differs = apart(model.predict(golden["inputs"]), np.array(golden[GOLDEN_SAID[task]]))
    if not differs <= TOLERANCE:
        raise ContractBroken(
            f"{named} does not predict here what it did in training: {len(golden['inputs'])} golden rows differ by up "
            f"to {differs:.3g}. Compare the packages in its requirements.txt with those installed."
        )
