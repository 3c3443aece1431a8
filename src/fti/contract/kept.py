"""The model versions that are registered: MLflow in; the contract of each, by what the version is called, out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from fti.contract.feature_contract import FeatureContract
from fti.contract.registered import DIGEST_TAG, FILE_NAME, SERVICE_TAG, fetch_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def versions(client: MlflowClient) -> Iterator[ModelVersion]:
    """Every registered version of every model that reads a feature service, whether or not it has an alias."""
    token: str | None = None
    while True:
        page = client.search_model_versions(page_token=token)
        yield from (version for version in page if SERVICE_TAG in version.tags)
        token = page.token
        if not token:
            return


def contracts(client: MlflowClient) -> dict[str, FeatureContract]:
    """The contract of each registered version. Raises ContractBroken for one that cannot be read."""
    return {f"{version.name} version {version.version}": _contract_of(version) for version in versions(client)}


def _contract_of(version: ModelVersion) -> FeatureContract:
    """A version's contract: from the run that trained it, which is one small file, else from the model's own files."""
    from mlflow.artifacts import load_text
    from mlflow.exceptions import MlflowException

    try:
        contract = FeatureContract.model_validate_json(load_text(f"runs:/{version.run_id}/{FILE_NAME}"))
    except (MlflowException, OSError, ValidationError):
        return fetch_version(version)[1]
    return contract if contract.sha256 == version.tags.get(DIGEST_TAG) else fetch_version(version)[1]
