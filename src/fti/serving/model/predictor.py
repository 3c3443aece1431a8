"""The model that serves now: an alias in the MLflow registry in; the version it points to, loaded and checked, out.

A version is loaded beside the one that serves, checked (digests, live Feast registry, golden predictions, its own
example request), and only then takes over, in one assignment. A bad version is refused and the last good one stays.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, UNAUTHENTICATED, ErrorCode

from fti.contract.interface import ContractBroken
from fti.contract.registered import MODEL_DIGEST_TAG, RegistryMissing
from fti.scoring.features import StoreUnavailable
from fti.scoring.loading import find_version, load, reopen
from fti.scoring.served_model import ServedModel
from fti.serving import metrics
from fti.serving.settings import ServingSettings

# Under BentoML's own logger, whose handler and level are the only ones that show what is not a warning.
logger = logging.getLogger("bentoml.serving")
AWAY = "The MLflow registry does not answer; see MLFLOW_TRACKING_URI."
GONE = "There is no MLflow registry where MLFLOW_TRACKING_URI says. Correct that, or train a model: `make pipeline`."
# A registry that has users answers 403 for a model that is not there, too: MLflow 3.17 does not tell the two apart.
REFUSED = {
    ErrorCode.Name(PERMISSION_DENIED): "The MLflow registry shows no {name!r} to this service's user: there is none "
    "yet, and `make pipeline` trains one, or the user may not read it.",
    ErrorCode.Name(UNAUTHENTICATED): "The MLflow registry does not know this service's user; see "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
}
# Opening the feature store anew costs about 0.1 s of one core.
REOPEN_SECONDS = 60.0


class NoModel(RuntimeError):
    """There is no version to serve."""


class Predictor:
    """Follows one alias of one registered model, or keeps to one version of it, and keeps its feature store open."""

    def __init__(self, settings: ServingSettings, role: str, alias: str, version: int | None = None) -> None:
        # A pooled connection would go on reading the file of a registry that has been replaced.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        # The poll is what tries again. By its own defaults MLflow 3.17 does so for four minutes before it says that its
        # server is away, or for sixteen when packets are lost: nobody is told, and one that is back is noticed late.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        # MLflow logs a traceback at every poll while its database is away; `_note` says it once, in a line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self._settings = settings
        self._role = role
        self._alias, self._pinned = alias, version
        self.aliases: list[str] = []
        self.events: deque[tuple[datetime, str]] = deque(maxlen=20)  # what this process saw, and when, in UTC
        self._served: ServedModel | None = None
        # The number and the digest of what serves: in a registry that was rebuilt, the same numbers come again.
        self._loaded: tuple[str, str | None] | None = None
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
    def served_or_none(self) -> ServedModel | None:
        return self._served

    @property
    def problems(self) -> list[str]:
        """What keeps it from following, in words fit for clients."""
        return [*self._problems.values()]

    @property
    def ready(self) -> bool:
        return self._served is not None

    @property
    def following(self) -> str:
        return f"version {self._pinned}" if self._pinned is not None else f"alias {self._alias}"

    @property
    def _wanted(self) -> str:
        if self._pinned is not None:
            return f"version {self._pinned}. Set SERVING_MODEL_VERSION to one that is there, or unset it."
        return f"version with the alias {self._alias!r}. Train one: `make pipeline`."

    def refresh(self) -> None:
        """Follow the alias, and open the store anew when it is time. Whatever fails, what serves goes on serving."""
        for step in (self._follow_registry, self._reopen_store):
            try:
                step()
            except Exception as error:  # noqa: BLE001 - it is logged, and the next poll tries again
                self._note(step.__name__, error)
            else:
                self._problems.pop(step.__name__, None)

    def follow(self) -> None:
        """Refresh now and then within every `poll_seconds`, in a thread of its own, until `stop`."""
        self.refresh()
        threading.Thread(target=self._poll, name=f"follow-{self._role}", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _poll(self) -> None:
        # Never later than the interval, so that all workers agree within one; earlier by chance, so that they do not
        # all ask at once.
        while not self._stop.wait(self._settings.poll_seconds * random.uniform(0.7, 1.0)):  # noqa: S311 - no secret
            self.refresh()

    def _follow_registry(self) -> None:
        """Look up which version is to serve; load and check another one, and let it take over. Raises NoModel."""
        version = self._version_to_serve()
        found = (str(version.version), version.tags.get(MODEL_DIGEST_TAG))
        if self._loaded != found:
            try:
                self._take_over(load(version, self._settings.feast_repo, self._settings.clock_skew))
            except Exception as error:
                raise NoModel(f"Version {version.version} of {version.name!r} is refused: {_public(error)}") from error
            self._loaded = found
            metrics.SWAPS.labels(self._role).inc()
            metrics.VERSION.labels(self._role).set(int(version.version))
            what = f"serving version {version.version} of {version.name!r} as {self._role}"
            logger.info("%s", what)
            self.events.append((datetime.now(UTC), what))
        self.aliases = list(version.aliases)

    def _version_to_serve(self) -> ModelVersion:
        """The registry's word on it. Raises NoModel."""
        name, number = self._settings.model_name, None if self._pinned is None else str(self._pinned)
        try:
            version = find_version(name, self._alias, number)
        except RegistryMissing as error:
            raise NoModel(GONE) from error
        except MlflowException as error:
            raise NoModel(REFUSED.get(error.error_code, AWAY).format(name=name)) from error
        if version is None:
            raise NoModel(f"{name!r} has no {self._wanted}")
        return version

    def _reopen_store(self) -> None:
        """Notice a store that was mended, replaced or changed: an open one shows what it was when it was opened."""
        served = self._served
        if served is not None and (served.reader.failed or time.monotonic() - self._opened > REOPEN_SECONDS):
            self._take_over(reopen(served, self._settings.feast_repo, self._settings.clock_skew))

    def _take_over(self, model: ServedModel) -> None:
        self._served, self._opened = replace(model, stage=metrics.stage), time.monotonic()

    def _note(self, step: str, error: Exception) -> None:
        """Keep a problem, in words fit for clients, and log it with its cause once, not at every poll."""
        problem = _public(error)
        metrics.REFUSALS.labels(step.strip("_")).inc()
        if problem != self._problems.get(step):
            goes_on = f" Version {self._served.version} goes on serving." if self._served else ""
            root = _root(error)
            cause = "" if str(root) in problem else f" ({type(root).__name__}: {root})"
            logger.error("%s%s%s", problem, goes_on, cause)
            self.events.append((datetime.now(UTC), f"{problem}{goes_on}"))
        self._problems[step] = problem


def _public(error: Exception) -> str:
    """What clients may read: other errors' words hold paths and addresses."""
    known = isinstance(error, (NoModel, ContractBroken, StoreUnavailable))
    return str(error) if known else "the service's log says why."


def _root(error: BaseException) -> BaseException:
    return _root(error.__cause__) if error.__cause__ else error
