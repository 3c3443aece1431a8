"""The model that serves now: an alias in the MLflow registry in; predictions of the version it points to out.

A version is loaded beside the one that serves, checked (contract digest, live Feast registry, a prediction of its own
example request), and only then takes over, in one assignment. A bad version is refused and the last good one stays.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from pydantic import BaseModel

from serving import metrics
from serving.compiled import TOLERANCE, Compiled, Native, compiled
from serving.features import AsOfTooEarly, FeatureReader, FeatureRow, StoreUnavailable, open_store, request_names
from serving.schemas import AS_OF, LATEST, RequestInvalid, parse, parse_row, request_schema, rows_of
from serving.settings import ServingSettings
from validation.contract import GOLDEN_NAME, ContractBroken, FeatureContract, fetch_version

# Under BentoML's own logger, whose handler and level are the only ones that show what is not a warning.
logger = logging.getLogger("bentoml.serving")
# What MLflow answers for an unknown model, and for a known one without the alias.
ABSENT = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}
# Opening the feature store anew costs about 0.1 s of one core.
REOPEN_SECONDS = 60.0


class NoModel(RuntimeError):
    """There is no version to serve."""


@dataclass(frozen=True)
class ServedModel:
    """One loaded model version with all it needs to answer."""

    name: str
    version: str
    contract: FeatureContract
    model: Compiled | Native
    reader: FeatureReader
    schema: type[BaseModel]

    def answer(self, body: bytes, now: datetime) -> dict[str, Any]:
        """Predict for one JSON request, as of its `as_of` or `now` (UTC).

        Raises RequestInvalid, AsOfTooEarly, StoreUnavailable.
        """
        with metrics.stage("parse"):
            request, warnings = parse(self.schema, self.contract, body)
        ((row, probability),) = self.score([request], now)
        if isinstance(row, AsOfTooEarly):
            raise row
        metrics.count_rows([row])
        return self._about | {
            "probability": probability,
            "as_of": _iso(request[AS_OF] or now),
            "features": self._features(row),
            "warnings": warnings + row.warnings,
        }

    def answer_batch(self, body: bytes, now: datetime, limit: int) -> dict[str, Any]:
        """Predict for each row of a JSON request, in their order; a row that cannot be answered says why.

        Raises RequestInvalid of the request as a whole, StoreUnavailable.
        """
        with metrics.stage("parse"):
            rows, with_features = rows_of(body, limit)
            parsed = [self._parsed(row) for row in rows]
        good = [outcome for outcome in parsed if not isinstance(outcome, RequestInvalid)]
        scored = self.score([request for request, _ in good], now) if good else []
        metrics.count_rows([row for row, _ in scored if isinstance(row, FeatureRow)])
        following = iter(scored)
        answers: list[dict[str, Any]] = []
        for outcome in parsed:
            if isinstance(outcome, RequestInvalid):
                answers.append({"error": str(outcome), "fields": outcome.problems})
                continue
            (request, warnings), (row, probability) = outcome, next(following)
            if isinstance(row, AsOfTooEarly):
                answers.append({"error": str(row)})
                continue
            answer: dict[str, Any] = {"probability": probability, "as_of": _iso(request[AS_OF] or now)}
            answer |= {"features": self._features(row)} if with_features else {}
            answers.append(answer | {"warnings": warnings + row.warnings})
        return self._about | {"rows": answers}

    def _parsed(self, row: Any) -> tuple[dict[str, Any], list[str]] | RequestInvalid:
        try:
            return parse_row(self.schema, self.contract, row)
        except RequestInvalid as invalid:
            return invalid

    def score(
        self, requests: Sequence[dict[str, Any]], now: datetime
    ) -> list[tuple[FeatureRow, float] | tuple[AsOfTooEarly, None]]:
        """Features and probability of each request, or why it has none. Raises StoreUnavailable."""
        with metrics.stage("features"):
            outcomes = self.reader.read(requests, [request[AS_OF] or now for request in requests])
        rows = [row for row in outcomes if isinstance(row, FeatureRow)]
        with metrics.stage("model"):
            probabilities = iter(self.model.predict([row.values for row in rows]).tolist() if rows else [])
        return [
            (outcome, next(probabilities)) if isinstance(outcome, FeatureRow) else (outcome, None)
            for outcome in outcomes
        ]

    @property
    def _about(self) -> dict[str, Any]:
        interface = self.contract.interface
        return {
            "predicts": f"{interface.label}: {interface.label_definition}",
            "model": {"name": self.name, "version": self.version},
            "feature_service": interface.feature_service,
        }

    def _features(self, row: FeatureRow) -> dict[str, dict[str, Any]]:
        """Each model input with its value, where it came from and, for a stored one, the age of its row in seconds."""
        return {
            model_input.name: {"value": _json(row.values[model_input.name]), "source": model_input.source}
            | ({"age_seconds": row.ages[model_input.source].total_seconds()} if model_input.source in row.ages else {})
            for model_input in self.contract.interface.inputs
        }


class Predictor:
    """Follows one alias of one registered model, and keeps its feature store open."""

    def __init__(self, settings: ServingSettings) -> None:
        # A pooled connection would go on reading the file of a registry that has been replaced.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        # MLflow logs a traceback at every poll while its database is away; `_note` says it once, in a line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self._settings = settings
        self._served: ServedModel | None = None
        self._opened = 0.0
        self._problems: dict[str, str] = {}
        self._stop = threading.Event()

    @property
    def served(self) -> ServedModel:
        """The version that serves now. Raises NoModel."""
        if self._served is None:
            raise NoModel(" ".join(["There is no model to serve.", *self._problems.values()]))
        return self._served

    @property
    def ready(self) -> bool:
        return self._served is not None

    def refresh(self) -> None:
        """Follow the alias, and open the store anew when it is time. Whatever fails, what serves goes on serving."""
        for step in (self._follow_alias, self._reopen_store):
            try:
                step()
            except Exception as error:  # noqa: BLE001 - it is logged, and the next poll tries again
                self._note(step.__name__, error)
            else:
                self._problems.pop(step.__name__, None)

    def follow(self) -> None:
        """Refresh now and then every `poll_seconds`, in a thread of its own, until `stop`."""
        self.refresh()
        threading.Thread(target=self._poll, name="follow-registry", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _poll(self) -> None:
        while not self._stop.wait(self._settings.poll_seconds):
            self.refresh()

    def _follow_alias(self) -> None:
        """Look the alias up; load and check another version, and let it take over. Raises NoModel."""
        name, alias = self._settings.model_name, self._settings.model_alias
        try:
            version = MlflowClient().get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in ABSENT:
                absent = f"{name!r} has no version with the alias {alias!r}. Train one: `make pipeline`."
                raise NoModel(absent) from None
            raise NoModel("The MLflow registry does not answer; see MLFLOW_TRACKING_URI.") from error
        if self._served is not None and self._served.version == str(version.version):
            return
        try:
            self._take_over(load(version, self._settings.feast_repo))
        except Exception as error:
            raise NoModel(f"Version {version.version} of {name!r} is refused: {_public(error)}") from error
        metrics.SWAPS.inc()
        logger.info("serving version %s of %r", version.version, name)

    def _reopen_store(self) -> None:
        """Notice a store that was mended, replaced or changed: an open one shows what it was when it was opened."""
        served = self._served
        if served is not None and (served.reader.failed or time.monotonic() - self._opened > REOPEN_SECONDS):
            self._take_over(reopen(served, self._settings.feast_repo))

    def _take_over(self, model: ServedModel) -> None:
        self._served, self._opened = model, time.monotonic()

    def _note(self, step: str, error: Exception) -> None:
        """Keep a problem, in words fit for clients, and log it with its cause once, not at every poll."""
        problem = _public(error)
        metrics.REFUSALS.labels(step.strip("_")).inc()
        if problem != self._problems.get(step):
            goes_on = f" Version {self._served.version} goes on serving." if self._served else ""
            root = _root(error)
            cause = "" if str(root) in problem else f" ({type(root).__name__}: {root})"
            logger.error("%s%s%s", problem, goes_on, cause)
        self._problems[step] = problem


def _public(error: Exception) -> str:
    """What clients may read: other errors' words hold paths and addresses."""
    known = isinstance(error, (NoModel, ContractBroken, StoreUnavailable))
    return str(error) if known else "the service's log says why."


def _root(error: BaseException) -> BaseException:
    return _root(error.__cause__) if error.__cause__ else error


def load(version: ModelVersion, feast_repo: Path) -> ServedModel:
    """Load a registered version and check that it can answer. Raises ContractBroken, and what its parts raise."""
    folder, contract = fetch_version(version)
    # A store of its own: its registry is as new as the version, and no other thread reads it.
    store = open_store(feast_repo)
    contract.verify(store)
    used = {field.name for field in contract.interface.request_fields}
    fast = compiled(mlflow.sklearn.load_model(str(folder)), contract.interface)
    _require_golden(f"{version.name} version {version.version}", fast, folder / "extra_files" / GOLDEN_NAME)
    model = ServedModel(
        name=version.name,
        version=str(version.version),
        contract=contract,
        model=fast,
        reader=FeatureReader(store, contract.interface),
        schema=request_schema(contract, unused=request_names(store) - used),
    )
    _warm_up(model)
    return model


def reopen(model: ServedModel, feast_repo: Path) -> ServedModel:
    """The same version on the feature store as it is now. Raises ContractBroken, StoreUnavailable."""
    store = open_store(feast_repo)
    model.contract.verify(store)
    model = replace(model, reader=FeatureReader(store, model.contract.interface))
    _warm_up(model)
    return model


def _warm_up(model: ServedModel) -> None:
    """Answer the contract's example: the first request pays no import, and a model that cannot answer never serves.

    Read as of the end of time, because by now the online store may have moved past the example's own moment.
    """
    example = json.dumps(model.contract.example_request | {AS_OF: _iso(LATEST - timedelta(days=1))})
    request, _ = parse(model.schema, model.contract, example.encode())
    ((row, probability),) = model.score([request], LATEST)
    if probability is None or not 0 <= probability <= 1:
        raise ContractBroken(f"its example request gives {probability}, which is no probability ({row})")


def _require_golden(named: str, model: Compiled | Native, file: Path) -> None:
    """Predict what training has predicted. Raises ContractBroken when there is nothing, or it comes out otherwise."""
    if not file.is_file():
        raise ContractBroken(f"{named} carries no {file.name}; it was not registered by this training pipeline.")
    golden = json.loads(file.read_text())
    apart = float(np.abs(model.predict(golden["inputs"]) - golden["probabilities"]).max())  # NaN, if one is NaN
    if not apart <= TOLERANCE:
        raise ContractBroken(
            f"{named} does not predict here what it did in training: {len(golden['inputs'])} golden rows differ by up "
            f"to {apart:.3g}. Compare the packages in its requirements.txt with those installed."
        )


def _json(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
