"""The model that serves now: an alias in the MLflow registry in; predictions of the version it points to out.

A version is loaded beside the one that serves, checked (contract digest, live Feast registry, a prediction of its own
example request), and only then takes over, in one assignment. A bad version is refused and the last good one stays.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from feast import FeatureStore
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import BaseModel

from serving.features import FeatureReader, FeatureRow
from serving.schemas import AS_OF, parse, request_schema
from serving.settings import ServingSettings
from validation.contract import ContractBroken, FeatureContract, fetch_version

logger = logging.getLogger("serving")


class NoModel(RuntimeError):
    """There is no version to serve."""


@dataclass(frozen=True)
class ServedModel:
    """One loaded model version with all it needs to answer."""

    name: str
    version: str
    contract: FeatureContract
    estimator: Any
    reader: FeatureReader
    schema: type[BaseModel]

    def answer(self, body: bytes, now: datetime) -> dict[str, Any]:
        """Predict for one JSON request, as of its `as_of` or `now` (UTC). Raises RequestInvalid, AsOfTooEarly."""
        request = parse(self.schema, self.contract, body)
        as_of = request.pop(AS_OF) or now
        row = self.reader.read(request, as_of)
        interface = self.contract.interface
        inputs = interface.model_inputs(pd.DataFrame([row.values]))
        probability = float(self.estimator.predict_proba(inputs)[0, 1])
        return {
            "probability": probability,
            "predicts": f"{interface.label}: {interface.label_definition}",
            "model": {"name": self.name, "version": self.version},
            "feature_service": interface.feature_service,
            "as_of": _iso(as_of),
            "features": self._features(row),
            "warnings": row.warnings,
        }

    def _features(self, row: FeatureRow) -> dict[str, dict[str, Any]]:
        """Each model input with its value, where it came from and, for a stored one, the age of its row in seconds."""
        return {
            model_input.name: {"value": row.values[model_input.name], "source": model_input.source}
            | ({"age_seconds": row.ages[model_input.source].total_seconds()} if model_input.source in row.ages else {})
            for model_input in self.contract.interface.inputs
        }


class Predictor:
    """Follows one alias of one registered model."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._client = MlflowClient()
        self._served: ServedModel | None = None
        self._refused: str | None = None
        self._stop = threading.Event()

    @property
    def served(self) -> ServedModel:
        """The version that serves now. Raises NoModel."""
        if self._served is None:
            raise NoModel(self._refused or self._absent())
        return self._served

    @property
    def ready(self) -> bool:
        return self._served is not None

    def refresh(self) -> None:
        """Look the alias up; load and check the version when it is another one, and let it take over."""
        try:
            version = self._client.get_model_version_by_alias(self._settings.model_name, self._settings.model_alias)
        except MlflowException as error:
            self._note(f"{self._absent()} ({error.message.splitlines()[0]})")
            return
        if self._served is not None and self._served.version == str(version.version):
            self._refused = None
            return
        try:
            loaded = load(version, self._settings.feast_repo)
        except Exception as error:
            # Whatever is wrong with a version, the one that serves goes on serving.
            self._note(f"version {version.version} of {version.name} cannot be served: {error}")
            return
        self._served, self._refused = loaded, None
        logger.info("serving %s version %s on %s", loaded.name, loaded.version, loaded.contract.interface.feature_service)

    def follow(self) -> None:
        """Refresh now and then every `poll_seconds`, in a thread of its own, until `stop`."""
        self.refresh()
        threading.Thread(target=self._poll, name="follow-registry", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _poll(self) -> None:
        while not self._stop.wait(self._settings.poll_seconds):
            self.refresh()

    def _note(self, problem: str) -> None:
        """Log a problem once, not at every poll."""
        if problem != self._refused:
            logger.error("%s", problem)
        self._refused = problem

    def _absent(self) -> str:
        name, alias = self._settings.model_name, self._settings.model_alias
        return f"No model to serve: {name!r} has no alias {alias!r} in {mlflow.get_tracking_uri()}. Train one: `make pipeline`."


def load(version: Any, feast_repo: Path) -> ServedModel:
    """Load a registered version and check that it can answer. Raises ContractBroken, and what its parts raise."""
    folder, contract = fetch_version(version)
    # A store of its own: its registry is as new as the version, and no other thread reads it.
    store = FeatureStore(repo_path=str(feast_repo))
    contract.verify(store)
    model = ServedModel(
        name=version.name,
        version=str(version.version),
        contract=contract,
        estimator=mlflow.sklearn.load_model(str(folder)),
        reader=FeatureReader(store, contract.interface),
        schema=request_schema(contract),
    )
    _warm_up(model)
    return model


def _warm_up(model: ServedModel) -> None:
    """Answer the contract's example once: the first request pays no import, and a model that cannot answer never serves.

    Read as of the end of time, because by now the online store may have moved past the example's own moment.
    """
    import json

    example = json.dumps(model.contract.example_request | {AS_OF: "9999-01-01T00:00:00Z"})
    probability = model.answer(example.encode(), datetime.max)["probability"]
    if not 0 <= probability <= 1:
        raise ContractBroken(f"its example request gives {probability}, which is no probability")


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
