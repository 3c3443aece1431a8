"""Whether definitions may be applied: a store that holds them in; refusals, a line a problem, out.

A model version under an alias is served, or may be served again at once, and reads a feature service by its contract.
A change that breaks such a version is refused here, before the registry is written.
This library's `apply` asks before it begins; the stores ask for Feast's own `apply`, `teardown` and `delete`
(fti/stores/guarded.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from fti.contract.definitions import require_sound, require_storable
from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import ContractBroken
from fti.contract.registered import PROJECT_TAG, SERVICE_TAG, fetch_version, registry_file
from fti.errors import Refusal

if TYPE_CHECKING:
    from feast import FeatureStore
    from mlflow import MlflowClient

logger = logging.getLogger("features")


class DefinitionNeeded(Refusal):
    """A model version under an alias needs a definition that would be changed or removed."""


class RegistryUnreadable(Refusal):
    """The model registry that is configured does not answer, so nobody knows which definitions are needed."""


def require_allowed(draft: FeatureStore, repo: Path, was_applied: Callable[[], bool], tables: bool = True) -> None:
    """Check definitions, those of `draft`, before they are applied to `repo`: what models under an alias need of them,
    and that training and serving can do what every feature service says. Without `tables`, leave out what is in those.

    Raises DefinitionNeeded, DefinitionUnsound, FieldMistyped, RegistryUnreadable, and ContractBroken for a contract
    that cannot be read.
    """
    uri = tracking_uri(repo, was_applied)
    found = contracts(uri, str(draft.project)) if uri else {}
    broken = [line for version, contract in found.items() if (line := _broken(draft, version, contract))]
    if broken:
        raise DefinitionNeeded("\n".join(broken))
    require_sound(draft, sorted(service.name for service in draft.list_feature_services()))
    require_storable(draft)
    if tables:
        from fti.contract.declared_types import require_fitting

        require_fitting(draft, sorted(draft.list_feature_views(), key=lambda view: str(view.name)))


def _broken(draft: FeatureStore, version: str, contract: FeatureContract) -> str:
    """Why the version could not be served from these definitions, or an empty string."""
    try:
        contract.verify(draft)
    except ContractBroken as error:
        reason = str(error)
    except (LookupError, ValidationError) as error:
        service = contract.interface.feature_service
        reason = f"Feature service {service!r} can no longer be described ({error!r}): put the old definition back."
    else:
        return ""
    way = (
        "Or, if it will not be served again, drop its aliases: `make retire VERSION=...`. Or, if it is of another "
        f"project that is called {draft.project!r}, too, give one of them another name."
    )
    return f"{version} needs what these definitions change. {reason} {way}"


# ---- the contracts to keep ------------------------------------------------------------------------------------------


def tracking_uri(repo: Path, was_applied: Callable[[], bool]) -> str | None:
    """Where MLflow's registry is: MLFLOW_TRACKING_URI, or mlflow.db beside the repository; None if it is not there.

    Raises RegistryUnreadable when the variable names a file that is not there, though definitions were applied before:
    mistyped, it would let every change pass.
    """
    told = os.environ.get("MLFLOW_TRACKING_URI")
    uri = told or f"sqlite:///{repo.resolve().parent / 'mlflow.db'}"
    file = registry_file(uri)
    if file is None or file.exists():
        return uri
    if told and was_applied():
        raise RegistryUnreadable(
            f"MLFLOW_TRACKING_URI is {uri}, but there is no {file.resolve()}, so nobody knows which definitions its "
            "models need. Nothing was changed. Correct it; before the first training, unset it for this command."
        )
    logger.info("No model registry at %s: no model needs a definition yet.", file.resolve())
    return None


def contracts(uri: str, project: str) -> dict[str, FeatureContract]:
    """The contract of each model version that has an alias and reads a feature service, by what the version is called.

    Models of which the registry says that they are another Feast project's are left out.
    Raises RegistryUnreadable, or ContractBroken.
    """
    # By default MLflow tries for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        from mlflow import MlflowClient

        found = {}
        with tracking(uri):
            client = MlflowClient()
            for name, number in _aliased(client, project):
                version = client.get_model_version(name, number)
                if SERVICE_TAG in version.tags:
                    aliases = ", ".join(sorted(version.aliases))
                    found[f"{name} version {number} ({aliases})"] = fetch_version(version)[1]
    except Refusal:
        raise
    except Exception as error:
        raise RegistryUnreadable(
            f"The model registry at {uri} cannot be read ({type(error).__name__}: {error}), so nobody knows which "
            "definitions its models need. Nothing was changed. Repair it, or set MLFLOW_TRACKING_URI to the right one."
        ) from error
    return found


@contextmanager
def tracking(uri: str) -> Iterator[None]:
    """Let MLflow, which finds artifacts by a global setting, use this registry."""
    import mlflow

    if os.environ.get("MLFLOW_TRACKING_URI") == uri:
        yield
        return
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # which takes the variable back that it has set


def _aliased(client: MlflowClient, project: str) -> list[tuple[str, str]]:
    """Name and number of each model version of a project under any alias, once."""
    page = client.search_registered_models()
    models = [*page]
    while page.token:
        page = client.search_registered_models(page_token=page.token)
        models += page
    own = [model for model in models if model.tags.get(PROJECT_TAG, project) == project]
    return [(model.name, number) for model in own for number in sorted({*model.aliases.values()})]
