"""Where MLflow's artifacts are: in `mlruns` beside the database of the registry, wherever both are by now.

MLflow 3.17 stores the place of each experiment, run, logged model and model version as a whole path, so what it stored
of a project that was moved names a folder that is gone, and of a copied project that of the original. Here each
place is resolved when it is read; what is stored stays as it is. By the entry points in pyproject.toml, MLflow opens
`sqlite:` addresses with these functions, so plain `mlflow` does the same.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from sqlalchemy import URL

FOLDER = "mlruns"  # as MLflow calls it


def open_tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """Open the store of experiments, runs and logged models; the artifacts of new ones lie beside the database.

    MLflow's own default is a folder below wherever the process was started.
    """
    from mlflow.tracking._tracking_service.utils import _SERVER_ARTIFACT_ROOT_ENV_VAR, _get_sqlalchemy_store

    resolve_places()
    escape_percent_signs()
    database = database_of(store_uri)
    if artifact_uri is None and database is not None and _SERVER_ARTIFACT_ROOT_ENV_VAR not in os.environ:
        artifact_uri = str(database.parent / FOLDER)
    return _get_sqlalchemy_store(_decoded(store_uri), artifact_uri)


def open_registry_store(store_uri: str) -> Any:
    """Open the store of registered models."""
    from mlflow.tracking._model_registry.utils import _get_sqlalchemy_store

    resolve_places()
    escape_percent_signs()
    return _get_sqlalchemy_store(_decoded(store_uri))


def escape_percent_signs() -> None:
    """Let MLflow open a database when it is itself installed below a folder with a % in its name.

    MLflow 3.17 hands that folder to Alembic as it is, whose settings take % for the beginning of a reference.
    """
    from mlflow.store.db import utils

    folder = Path(utils._get_package_dir(), "store", "db_migrations")
    if "%" not in str(folder):
        return
    from alembic.config import Config

    def settings(db_url: str, _: str | None = None) -> Config:
        config = Config(folder / "alembic.ini")
        for name, value in (("script_location", str(folder)), ("sqlalchemy.url", db_url)):
            config.set_main_option(name, value.replace("%", "%%"))
        return config

    utils._get_alembic_config = settings


@cache  # an event is listened to once
def resolve_places() -> None:
    """Let what MLflow reads from a database of SQLite have the places where artifacts are now."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun
    from sqlalchemy import event

    columns = {
        SqlExperiment: ["artifact_location"], SqlRun: ["artifact_uri"], SqlLoggedModel: ["artifact_location"],
        SqlModelVersion: ["source", "storage_location"],
    }  # fmt: skip
    for table, names in columns.items():
        for moment in ("load", "refresh"):
            event.listen(table, moment, partial(_resolve, names))


def _resolve(names: list[str], row: Any, *_: Any) -> None:
    from sqlalchemy.orm import object_session
    from sqlalchemy.orm.attributes import set_committed_value

    session = object_session(row)
    database = None if session is None else database_of(session.get_bind().engine.url)
    if database is None:
        return
    for name in names:
        if stored := row.__dict__.get(name):  # one that was not read is not asked for
            set_committed_value(row, name, place(stored, database))  # which no commit writes back


def place(stored: str, database: Path) -> str:
    """Return where artifacts are now that a registry in `database` stored as being at `stored`.

    They are in `mlruns` beside the database if they are there, or if the folder that was stored is gone, or if it is
    that of the registry of which this one is a copy: the artifacts of another project are never taken for one's own.
    Otherwise somebody chose that folder, and they are where they were.
    """
    parts = urlsplit(stored)
    path = unquote(parts.path) if parts.scheme == "file" else stored
    root, found, rest = path.rpartition(f"/{FOLDER}/")
    if parts.scheme not in ("", "file") or not found or Path(root) == database.parent:
        return stored
    own = database.parent / FOLDER
    here = own / rest
    if here.exists() or not Path(root).exists() or _has_copy(Path(root), database):
        return str(here)
    return stored if Path(path).exists() or not own.exists() else str(here)


def _has_copy(folder: Path, database: Path) -> bool:
    """Whether a registry in the folder and this one are copies of one another: both began in the same moment."""
    begun = _begun(database)
    return begun is not None and any(_begun(other) == begun for other in folder.glob("*.db"))


def _begun(database: Path) -> int | None:
    """When the first experiment was made, in milliseconds; None of what is no registry of MLflow's."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT min(creation_time) FROM experiments").fetchone()[0]
    except sqlite3.Error:
        return None


def database_of(uri: str | URL) -> Path | None:
    """The file that an address of SQLite names; None if it names no file."""
    from sqlalchemy import make_url

    url = make_url(uri)
    named = url.database if url.get_backend_name() == "sqlite" else None
    return None if not named or named.startswith((":memory:", "file:")) else Path(named).absolute()


def _decoded(uri: str) -> str:
    """The same address without %20 and the like: MLflow 3.17 makes a folder of the name as it is written."""
    decoded = unquote(uri)
    return decoded if "?" not in decoded and unquote(decoded) == decoded else uri
