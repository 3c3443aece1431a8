"""A registered model version: the tags it carries, and its files, fetched and checked against what was registered."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from fti.contract.artifact_places import resolve_places
from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import ContractBroken
from fti.contract.task import Task
from fti.errors import Refusal

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"  # the alias of the version that answers requests
FILE_NAME = "feature_contract.json"
GOLDEN_NAME = "golden.json"  # model inputs and what the model said of them in training, beside the contract
GOLDEN_SAID: dict[Task, str] = {"classification": "probabilities", "regression": "predictions"}
SERVICE_TAG = "feast.feature_service"
DIGEST_TAG = "feature_contract.sha256"
MODEL_DIGEST_TAG = "model.sha256"
CAUSE_TAG = "training.cause"
PROJECT_TAG = "fti.project"  # of a registered model: the Feast project whose training registers its versions
# What the gate said of a version, against which champion, and why.
DECISION_TAG, AGAINST_TAG, REASONS_TAG = "gate.decision", "gate.against", "gate.reasons"
# The result of its trial: before an alias moves, the version is loaded and answers its example.
TRIAL_TAG = "gate.trial"
PASSED, FAILED = "passed", "failed"
EVERY_RULE = "every rule passed"  # the reasons of a decision to pass
# What MLflow answers for an unknown model or version, and for a known model without the alias.
ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
# When rows were erased that the version was fitted to.
ERASED_TAG = "training_set.erased"
# MLflow writes this one into the folder of a model once it is registered.
WRITTEN_LATER = "registered_model_meta"


class LibraryMissing(Refusal):
    """A model is made of a package that is not installed here."""


class RegistryMissing(Refusal):
    """There is no model registry where one is expected."""


def registry_file(uri: str) -> Path | None:
    """The file or folder that a tracking URI names; None for a server, and for what only MLflow understands."""
    if uri.startswith(("file:", "/", ".")):
        return Path(unquote(urlsplit(uri).path))
    # As SQLAlchemy reads it, which takes a third as long to import as MLflow.
    address = re.fullmatch(r"sqlite(?:\+\w+)?://[^/]*/([^?]+)(?:\?.*)?", uri)
    file = unquote(address[1]) if address else ""
    return Path(file) if file and not file.startswith((":memory:", "file:")) else None


def require_registry() -> None:
    """Refuse a registry whose file does not exist, because MLflow would create an empty one.

    Raises RegistryMissing.
    """
    import mlflow

    file = registry_file(mlflow.get_tracking_uri())
    if file is None:
        return
    if not file.exists():
        raise RegistryMissing(
            f"There is no model registry at {file.resolve()}. Train a model (`make train`), which makes it; or let "
            "MLFLOW_TRACKING_URI name the one that there is."
        )
    resolve_places()  # by itself MLflow does so only where `fti` is installed, which it is not in a Bento


def fetch_version(version: ModelVersion, into: Path | None = None) -> tuple[Path, FeatureContract]:
    """Fetch a registered version's artifacts; returns their folder and the contract in it.

    `into` is a folder that the caller removes; without one they stay for as long as this process.
    Raises ContractBroken when there is none, or when a file is not as the version was registered: nothing of the model
    is to be loaded then, for what a model's files say decides which code runs.
    """
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # of ten small files, beside what is told
    named = f"{version.name} version {version.version}"
    folder = Path(download_artifacts(version.source, dst_path=str(into or mkdtemp(dir=_fetched().name))))
    file = folder / "extra_files" / FILE_NAME
    if not any(folder.iterdir()):
        place = MlflowClient().get_model_version_download_uri(version.name, version.version)
        raise ContractBroken(
            f"The files of {named} are not at {place}. A registry that is a file has its artifacts in the folder "
            "`mlruns` beside it: when one is moved, copied or restored, the other goes with it."
        )
    if not file.is_file():
        raise ContractBroken(f"{named} carries no {FILE_NAME}; it was not registered by this training pipeline.")
    try:
        contract = FeatureContract.model_validate_json(file.read_text())
    except ValidationError as error:
        raise ContractBroken(f"The {FILE_NAME} of {named} cannot be read: {error.errors()[0]['msg']}.") from error
    if contract.sha256 != version.tags.get(DIGEST_TAG):
        raise ContractBroken(
            f"The {FILE_NAME} of {named} has sha256 {contract.sha256}, but the version was registered with "
            f"{version.tags.get(DIGEST_TAG)}: it was changed since. Train and register again."
        )
    if version.tags.get(SERVICE_TAG) != contract.interface.feature_service:
        raise ContractBroken(
            f"{named} has the tag {SERVICE_TAG} {version.tags.get(SERVICE_TAG)!r}, but its {FILE_NAME} reads "
            f"{contract.interface.feature_service!r}: the tag was changed since. Set it to that again."
        )
    if (found := folder_sha256(folder)) != version.tags.get(MODEL_DIGEST_TAG):
        raise ContractBroken(
            f"The files of {named} have sha256 {found}, but the version was registered with "
            f"{version.tags.get(MODEL_DIGEST_TAG)}: the model was changed since. Nothing of it was loaded; find out by "
            "whom, then train and register again."
        )
    return folder, contract


def load_model(version: ModelVersion, folder: Path) -> Any:
    """Load a version's model from the folder that `fetch_version` gave. Raises LibraryMissing."""
    from mlflow.sklearn import load_model

    try:
        return load_model(str(folder))
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise LibraryMissing(
            f"{version.name} version {version.version} needs the package {package!r}, which is not installed here. Add "
            "it to this environment, or roll back to a version without it; a challenger that is not judged yet is "
            "judged by `make evaluate`."
        ) from error


@cache
def _fetched() -> TemporaryDirectory[str]:
    """MLflow leaves behind what it downloads; this goes when the process ends."""
    return TemporaryDirectory(prefix="models-")


def folder_sha256(folder: Path) -> str:
    """A hash over the names and bytes of all files of a model's folder, but the one that MLflow writes at its top."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / WRITTEN_LATER):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()
