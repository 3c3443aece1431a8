"""The model versions that are registered: MLflow in; the contract of each, by what the version is called, out.

Versions and runs that nobody will ask for again are deleted here, where a policy says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from fti.contract.feature_contract import FeatureContract
from fti.contract.registered import DIGEST_TAG, FILE_NAME, SERVICE_TAG, fetch_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.entities import PagedList

PARENT = "mlflow.parentRunId"  # of a run of the search for parameters
Found = TypeVar("Found")


def versions(client: MlflowClient) -> Iterator[ModelVersion]:
    """Every registered version of every model that reads a feature service, whether or not it has an alias."""
    yield from (version for version in _pages(client.search_model_versions) if SERVICE_TAG in version.tags)


def contracts(client: MlflowClient) -> dict[str, FeatureContract]:
    """The contract of each registered version. Raises ContractBroken for one that cannot be read."""
    return {f"{version.name} version {version.version}": _contract_of(version) for version in versions(client)}


def delete_old(client: MlflowClient, model: str, services: Collection[str], before: datetime) -> tuple[int, int]:
    """Delete versions of a model that have no alias and were made before a moment; then training runs of these feature
    services that ended before it and of which no version is. Returns how many versions, and runs.

    A version is gone then. A run is hidden, as MLflow deletes runs, until `mlflow gc` frees its files.
    """
    until = int(before.timestamp() * 1000)
    models = _pages(client.search_registered_models, f"name = '{model}'")
    with_alias = {str(number) for found in models for number in found.aliases.values()}
    old = [
        version for version in _pages(client.search_model_versions, f"name = '{model}'")
        if str(version.version) not in with_alias and version.creation_timestamp < until
    ]  # fmt: skip
    for version in old:
        client.delete_model_version(model, str(version.version))
    used = {version.run_id for version in _pages(client.search_model_versions)}
    experiments = [one.experiment_id for one in _pages(client.search_experiments)]
    ended = f"attributes.end_time < {until}"
    runs = [
        run for service in services
        for run in _pages(partial(client.search_runs, experiments), f"tags.`{SERVICE_TAG}` = '{service}' AND {ended}")
        if run.info.run_id not in used
    ]  # fmt: skip
    for run in runs:
        for trial in _pages(partial(client.search_runs, experiments), f"tags.`{PARENT}` = '{run.info.run_id}'"):
            client.delete_run(trial.info.run_id)
        client.delete_run(run.info.run_id)
    return len(old), len(runs)


def _pages(search: Callable[..., PagedList[Found]], filter_string: str | None = None) -> list[Found]:
    """All that MLflow finds, whatever the size of its pages."""
    given = {"filter_string": filter_string} if filter_string else {}
    page = search(**given)
    found = list(page)
    while page.token:
        page = search(**given, page_token=page.token)
        found += page
    return found


def _contract_of(version: ModelVersion) -> FeatureContract:
    """A version's contract: from the run that trained it, which is one small file, else from the model's own files."""
    from mlflow.artifacts import load_text
    from mlflow.exceptions import MlflowException

    try:
        contract = FeatureContract.model_validate_json(load_text(f"runs:/{version.run_id}/{FILE_NAME}"))
    except (MlflowException, OSError, ValidationError):
        return fetch_version(version)[1]
    return contract if contract.sha256 == version.tags.get(DIGEST_TAG) else fetch_version(version)[1]
