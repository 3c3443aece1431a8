"""What applying the definitions would change, and which models forbid it: a Feast repository in, text or refusal out.

A model version under an alias is served, or may be served again at once, and reads a feature service by its contract.
Whoever changes what that service means learns it here, before the registry is touched, and not from the server's log.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from fti.contract.definitions import require_sound
from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import ContractBroken
from fti.contract.registered import SERVICE_TAG, fetch_version
from fti.errors import Refusal
from fti.features.draft import drafted, live
from fti.features.feast_steps import feast_errors

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.diff.registry_diff import RegistryDiff
    from mlflow import MlflowClient

COLOURS = {"added": "\033[32m", "changed": "\033[33m", "removed": "\033[31m"}
# When it was applied, and by whom it is kept, are not what it means; pickled code differs where its text does not.
NOISE = {"meta", "project", "body"}
logger = logging.getLogger("features")


class DefinitionNeeded(Refusal):
    """A model version under an alias needs a definition that would be changed or removed."""


class RegistryUnreadable(Refusal):
    """The model registry that is configured does not answer, so nobody knows which definitions are needed."""


def plan(repo: Path) -> str:
    """What `apply` would change, one line an object; coloured when standard output is a terminal. Changes nothing.

    Raises FeastFailed.
    """
    with drafted(repo) as (_, contents), tempfile.TemporaryDirectory() as folder:
        from feast.diff.registry_diff import diff_between

        applied = live(repo, Path(folder))
        lines = _lines(diff_between(applied.registry, applied.project, contents))
    return "\n".join(lines) or "No changes: the registry says what the definitions say."


def check(repo: Path, tables: bool = True) -> None:
    """Check the definitions as if they were applied: what models under an alias need of them, and that training and
    serving can do what every feature service says. Without `tables`, which are about to be written, leave those out.

    Raises DefinitionNeeded, DefinitionUnsound, FieldMistyped, RegistryUnreadable, FeastFailed, and ContractBroken for a
    contract that cannot be read.
    """
    uri = tracking_uri(repo)
    found = contracts(uri) if uri else {}
    with drafted(repo) as (draft, _):
        broken = [line for version, contract in found.items() if (line := _broken(draft, version, contract))]
        if broken:
            raise DefinitionNeeded("\n".join(broken))
        require_sound(draft, sorted(service.name for service in draft.list_feature_services()))
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
    return (
        f"{version} needs what these definitions change. {reason} Or, if it will not be served again, drop its alias."
    )


# ---- the contracts to keep ------------------------------------------------------------------------------------------


def tracking_uri(repo: Path) -> str | None:
    """Where MLflow's registry is: MLFLOW_TRACKING_URI, or mlflow.db beside the repository; None if it is not there.

    Raises RegistryUnreadable when the variable names a file that is not there, though definitions were applied before:
    mistyped, it would let every change pass.
    """
    told = os.environ.get("MLFLOW_TRACKING_URI")
    uri = told or f"sqlite:///{repo.resolve().parent / 'mlflow.db'}"
    file = _file_of(uri)
    if file is None or file.exists():
        return uri
    if told and _was_applied(repo):
        raise RegistryUnreadable(
            f"MLFLOW_TRACKING_URI is {uri}, but there is no {file.resolve()}, so nobody knows which definitions its "
            "models need. Nothing was applied. Correct it; before the first training, unset it for this command."
        )
    logger.info("No model registry at %s: no model needs a definition yet.", file.resolve())
    return None


def _file_of(uri: str) -> Path | None:
    """The file or folder that a tracking URI names; None for a server, and for what only MLflow understands."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if uri.startswith(("file:", "/", ".")):
        return Path(unquote(urlsplit(uri).path))
    try:
        database = make_url(uri).database if uri.startswith("sqlite") else None
    except ArgumentError:
        return None
    return Path(database) if database and not database.startswith((":memory:", "file:")) else None


def _was_applied(repo: Path) -> bool:
    with feast_errors("feast apply", repo), tempfile.TemporaryDirectory() as folder:
        return bool(live(repo, Path(folder)).list_feature_services())


def contracts(uri: str) -> dict[str, FeatureContract]:
    """The contract of each model version that has an alias and reads a feature service, by what the version is called.

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
            for name, number in _aliased(client):
                version = client.get_model_version(name, number)
                if SERVICE_TAG in version.tags:
                    aliases = ", ".join(sorted(version.aliases))
                    found[f"{name} version {number} ({aliases})"] = fetch_version(version)[1]
    except Refusal:
        raise
    except Exception as error:
        raise RegistryUnreadable(
            f"The model registry at {uri} cannot be read ({type(error).__name__}: {error}), so nobody knows which "
            "definitions its models need. Nothing was applied. Mend it, or let MLFLOW_TRACKING_URI name the right one."
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


def _aliased(client: MlflowClient) -> list[tuple[str, str]]:
    """Name and number of each model version under any alias, once."""
    page = client.search_registered_models()
    models = [*page]
    while page.token:
        page = client.search_registered_models(page_token=page.token)
        models += page
    return [(model.name, number) for model in models for number in sorted({*model.aliases.values()})]


# ---- the difference, for people -------------------------------------------------------------------------------------


def _lines(diff: RegistryDiff) -> list[str]:
    """One line for each object that is added, changed or removed."""
    from feast.feature_view import DUMMY_ENTITY_NAME

    lines = []
    for found in sorted(diff.feast_object_diffs, key=lambda found: (found.feast_object_type.value, found.name)):
        old, new = found.current_feast_object, found.new_feast_object
        changes = list(_changes("", _meaning(old), _meaning(new))) if old and new else []
        kind = "added" if old is None else "removed" if new is None else "changed"
        if found.name == DUMMY_ENTITY_NAME or (kind == "changed" and not changes):
            continue
        word = f"{COLOURS[kind]}{kind:8}\033[0m" if sys.stdout.isatty() else f"{kind:8}"
        details = f": {'; '.join(changes)}" if changes else ""
        lines.append(f"{word} {found.feast_object_type.value} {found.name}{details}")
    return lines


def _meaning(found: Any) -> dict[str, Any]:
    """What a Feast object says, as plain data. Of what a feature service reads, the names: views say the rest."""
    from feast import FeatureService
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

    proto = found.to_proto()
    said = MessageToDict(getattr(proto, "spec", proto), preserving_proto_field_name=True)
    if isinstance(found, FeatureService):
        views = found.feature_view_projections
        said["features"] = [f"{view.name_to_use()}.{feature.name}" for view in views for feature in view.features]
        said["reads"] = {
            view.name_to_use(): {"view": view.name, "join_keys": dict(view.join_key_map)}
            for view in views
            if view.name_alias or view.join_key_map
        }
    return said


def _changes(path: str, old: Any, new: Any) -> Iterator[str]:
    """Where two plain values differ: `path: old -> new`, and `path: +added -removed` for lists of names."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new} - NOISE):
            yield from _changes(f"{path}.{key}" if path else key, old.get(key), new.get(key))
    elif isinstance(old or new, list):
        olds, news = _by_name(old or []), _by_name(new or [])
        moved = [f"+{name}" for name in news if name not in olds] + [f"-{name}" for name in olds if name not in news]
        if moved or list(olds) != list(news):
            yield f"{path}: {' '.join(moved) or 'another order'}"
        for name in news:
            if name in olds:
                yield from _changes(f"{path}.{name}", olds[name], news[name])
    elif old != new:
        before, after = (textwrap.shorten(str(value), 60) for value in (old, new))
        yield f"{path}: {before} -> {after}" if before != after else f"{path}: changed"


def _by_name(values: list[Any]) -> dict[str, Any]:
    return {str(value["name"] if isinstance(value, dict) and "name" in value else value): value for value in values}
