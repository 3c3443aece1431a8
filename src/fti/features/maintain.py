"""Upkeep of what the feature pipeline has made, so that a day costs in two years what it costs now.

    fti maintain

Each Delta table gets fewer and larger files. Old files and log entries are deleted, except those of the newest version,
of versions that registered models were trained on, and of what readers and publishing may need. Online rows past their
view's ttl are deleted. It prints a line a table, may be killed at any moment, and may be run again at any time.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deltalake.exceptions import DeltaError
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from upath import UPath

from fti.command import alias, fail
from fti.contract import kept
from fti.contract.applying import RegistryUnreadable, tracking, tracking_uri
from fti.contract.feature_contract import FeatureContract
from fti.errors import Refusal
from fti.features.feast_steps import feast_errors
from fti.features.guard import was_applied
from fti.features.lock import one_writer
from fti.features.publish import REFLECTS, Reflects, alone, id_of, newest_commits
from fti.project import project
from fti.stores.delta import exists, version_of
from fti.stores.landed import moments_of
from fti.stores.repository import open_repository
from fti.stores.tables import data_of, tables_in, tables_of
from fti.stores.upkeep import Upkeep, compact, shorten_log, vacuum

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView
    from mlflow import MlflowClient

KINDS = ("raw", "quarantine", "features", "removed")
logger = logging.getLogger("features")


class MaintenanceSettings(BaseSettings):
    """Read from variables named `FTI_*`; `.env.example` documents each."""

    model_config = SettingsConfigDict(env_prefix="FTI_", env_ignore_empty=True, frozen=True)

    keep_files_days: float = Field(default=7, ge=0)
    keep_log_days: float = Field(default=7, ge=0)
    keep_expired_hours: float = Field(default=24, ge=0)
    keep_models_days: float | None = Field(default=None, ge=0)


@dataclass(frozen=True)
class Needed:
    """Versions of tables that registered model versions were trained on, by where the table is.

    `known` are the tables of applied views. `unknown` are sources that models name and no view has: of which table they
    are, nobody knows.
    """

    versions: Mapping[str, frozenset[int]]
    known: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()

    def of(self, path: UPath) -> frozenset[int] | None:
        """The versions of a table to keep; None: all, for a model may have been trained on it."""
        where = _location(str(path))
        if where in self.known:
            return self.versions.get(where, frozenset())
        of_a_view_that_was = path.parent.name == "features" and bool(self.versions)
        return None if self.unknown or of_a_view_that_was else frozenset()


def needed_by(store: FeatureStore, contracts: Mapping[str, FeatureContract]) -> Needed:
    """Which versions of which tables the training sets of these contracts were made of."""
    views = store.list_feature_views()
    places = {
        view.batch_source.name: place
        for view in views
        if view.batch_source is not None and (place := _place_of(store, view)) is not None
    }
    versions: dict[str, set[int]] = {}
    unknown = set()
    for contract in contracts.values():
        for source, version in contract.training_set.delta_versions.items():
            if source in places:
                versions.setdefault(places[source], set()).add(version)
            else:
                unknown.add(source)
    return Needed(
        {place: frozenset(found) for place, found in versions.items()}, frozenset(places.values()), frozenset(unknown)
    )


def _place_of(store: FeatureStore, view: FeatureView) -> str | None:
    """Where a view's table is; None for a view of another source than files."""
    from feast.infra.offline_stores.file_source import FileSource

    source = view.batch_source
    if not isinstance(source, FileSource):
        return None
    return _location(FileSource.get_uri_for_file_path(repo_path=store.repo_path, uri=source.path))


def _location(path: str) -> str:
    """One way to write where a table is: views name it relative to the definitions."""
    return path.rstrip("/") if "://" in path else os.path.realpath(path)


def registered(repo: Path) -> dict[str, FeatureContract]:
    """The contracts of all registered versions. Raises RegistryUnreadable, ContractBroken."""
    with _registry(repo) as client:
        return kept.contracts(client) if client is not None else {}


def _delete_models(store: FeatureStore, repo: Path, days: float) -> str:
    """Delete what `keep_models_days` says of model versions and runs; returns what was done, as a line."""
    services = [service.name for service in store.list_feature_services()]
    with _registry(repo) as client:
        deleted = (0, 0)
        if client is not None:
            deleted = kept.delete_old(client, project().model_name, services, datetime.now(UTC) - timedelta(days=days))
    versions, runs = deleted
    return f"models: {versions} versions without an alias and {runs} runs of over {days:g} days ago deleted"


@contextmanager
def _registry(repo: Path) -> Iterator[MlflowClient | None]:
    """A client of the model registry; None if there is none yet. Raises RegistryUnreadable."""
    uri = tracking_uri(repo, partial(was_applied, repo))
    if not uri:
        yield None
        return
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        with tracking(uri):
            yield MlflowClient()
    except Refusal:
        raise
    except Exception as error:
        raise RegistryUnreadable(
            f"The model registry at {uri} cannot be read ({type(error).__name__}: {error}), so nobody knows which "
            "versions of the tables its models need. Nothing was deleted. Repair it, or set MLFLOW_TRACKING_URI to "
            "the right one."
        ) from error


def maintain(repo: Path, as_of: datetime | None = None, settings: MaintenanceSettings | None = None) -> list[str]:
    """Keep tables and online store up; returns what was done, a line each.

    Online rows are past their ttl as of a moment, or of what each view was materialized to, or of its newest published
    row, whichever is earliest, and for `keep_expired_hours` more. Raises RegistryUnreadable, ContractBroken,
    OtherWriter, FeastFailed.
    """
    settings = settings or MaintenanceSettings()
    with feast_errors("feast", repo):
        store = open_repository(repo)
        models = [] if settings.keep_models_days is None else [_delete_models(store, repo, settings.keep_models_days)]
        needed = needed_by(store, registered(repo))
    if needed.unknown:
        logger.warning("no view has %s, which a model was trained on: see below", ", ".join(sorted(needed.unknown)))
    tables = tables_of(repo)
    with one_writer(data_of(repo), "maintain"):
        lines = [
            f"{kind}/{name}: {_keep_up(tables, kind, name, needed, settings)}"
            for kind in KINDS
            for name in tables_in(tables / kind)
        ]
    return [*lines, *models, *_forget_expired(store, repo, as_of, timedelta(hours=settings.keep_expired_hours))]


def _keep_up(tables: UPath, kind: str, name: str, needed: Needed, settings: MaintenanceSettings) -> str:
    path, said = tables / kind / name, {}
    if kind == "features" and (reflects := Reflects.of(path)).raw:
        said = reflects.as_metadata()
    unused, keep = timedelta(days=settings.keep_files_days), needed.of(path)
    with alone(path):
        before, files = compact(path, said)
        if keep is None:
            return f"{before:,} files, now {files:,}; nothing deleted: a model was trained on a table that no view has"
        since = _unpublished(tables, path) if kind == "raw" else _newest_reflecting(path)
        removed, size = (0, 0) if since is None else vacuum(path, keep, unused, said)
        log_before, log = shorten_log(
            path, keep, version_of(path) if since is None else since, timedelta(days=settings.keep_log_days)
        )
    return str(Upkeep(before, files, removed, size, log_before, log))


def _newest_reflecting(path: UPath) -> int:
    """The newest commit that says what a table's rows were made of, or the newest: those before it tell no more."""
    reflecting = (int(commit["version"]) for commit in newest_commits(path) if commit.get(REFLECTS))
    return next(reflecting, version_of(path))


def _unpublished(tables: UPath, raw: UPath) -> int | None:
    """The version of a raw table that every feature table made of it reflects: publishing reads what changed since."""
    identity, versions = id_of(raw), [version_of(raw)]
    for name in tables_in(tables / "features"):
        known, _, version = Reflects.of(tables / "features" / name).raw.get(raw.name, "").rpartition("@")
        if known == identity:
            versions.append(int(version))
    return min(versions)


def _forget_expired(store: FeatureStore, repo: Path, as_of: datetime | None, grace: timedelta) -> list[str]:
    online_store = store._get_provider().online_store
    if not hasattr(online_store, "forget_before"):
        return [f"online: {type(online_store).__name__} cannot delete rows past their ttl"]
    views, moments = [], {}
    for view in store.list_feature_views():
        if view.online and view.ttl and (filled := view.most_recent_end_time):
            views.append(view)
            # While nothing new lands, the newest rows stay: they are old, and all that there is to start a service on.
            newest = _newest_row(store, view) or filled
            moments[view.name] = min(as_of or filled, filled, newest) - view.ttl - grace
    with feast_errors("feast", repo):
        gone = online_store.forget_before(store.config, moments, views)
    return [f"online: {gone:,} rows past their ttl deleted"]


def _newest_row(store: FeatureStore, view: FeatureView) -> datetime | None:
    """The event timestamp of the newest row that was published for a view, or None where nobody knows."""
    place = _place_of(store, view)
    found = moments_of(UPath(place)) if place and exists(UPath(place)) else None
    return found.last if found else None


def main(argv: Sequence[str] | None = None) -> int:
    return alias("fti.features.maintain", "fti.features.commands:MAINTAIN", argv)


def report(repo: Path, as_of: datetime | None) -> int:
    """Maintain, and print what was done; returns the exit code."""
    try:
        print(*maintain(repo, as_of), sep="\n")
    except (DeltaError, OSError) as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
