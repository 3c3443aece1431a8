"""A Feast online store in one SQLite file: feature rows in, the newest value of each feature out, by entity key.

One table a feature view, one row an entity key, all features of the key in one blob. What stock SQLite lacks: an older
row never overwrites a newer one, readers and the writer do not wait for each other (WAL), each thread has a connection,
a batch is one transaction, and a request is one statement, so one snapshot, however many views it reads.

Written for Feast 0.67. The file must lie on a local disk, in a folder that readers may write to as well.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from feast import Entity, FeatureView
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Map, Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import PositiveFloat, StrictStr

from fti.stores.reads_at_once import Found, Read, ReadsAtOnce, serialized
from fti.stores.stamps import Stamp, microseconds, stamp_of

# SQLite takes 32,766 variables and 500 SELECTs a statement.
KEYS_A_SELECT, SELECTS_A_STATEMENT = 500, 60

Write = tuple[EntityKey, dict[str, Value], datetime, datetime | None]  # values, event and created timestamp of a key

CREATE = """CREATE TABLE IF NOT EXISTS {table} (
    entity_key BLOB PRIMARY KEY,
    event_us INTEGER NOT NULL,    -- when the newest of the values was so: microseconds since 1970, UTC
    created_us INTEGER NOT NULL,  -- when it was learnt
    features BLOB NOT NULL,       -- a feast.types.Map: value by feature
    older TEXT NOT NULL           -- JSON: [event_us, created_us] by feature, of those that the newest write left out
) WITHOUT ROWID"""
REPLACE = "INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)"
FORGET = "DELETE FROM {table} WHERE event_us > ?"
FORGET_BEFORE = "DELETE FROM {table} WHERE event_us < ?"
SELECT_ROW = "SELECT event_us, created_us, features, older FROM {table} WHERE entity_key = ?"
SELECT_KEYS = "SELECT {number}, entity_key, event_us, features, older FROM {table} WHERE entity_key IN ({keys})"


class WalSqliteOnlineStoreConfig(FeastConfigBaseModel):
    """`path` is relative to the folder of feature_store.yaml. A writer waits `busy_timeout_seconds` for another one."""

    type: Literal["fti.stores.wal_sqlite.WalSqliteOnlineStore"] = "fti.stores.wal_sqlite.WalSqliteOnlineStore"
    path: StrictStr = "data/online.db"
    busy_timeout_seconds: PositiveFloat = 30.0


class ViewNotApplied(LookupError):
    """The online store has no table for a feature view, or is not there at all."""


class WalUnavailable(RuntimeError):
    """The file system cannot hold a SQLite write-ahead log."""


class _Row(NamedTuple):
    """A row of a table, without its key."""

    event_us: int
    created_us: int
    features: bytes
    older: str


class _PerThread(threading.local):
    """A thread's connections by process and file: a forked child must neither use nor close those of its parent."""

    def __init__(self) -> None:
        self.connections: dict[tuple[int, str], sqlite3.Connection] = {}


class WalSqliteOnlineStore(ReadsAtOnce):
    """SQLite with a write-ahead log. Each feature keeps the value with the greatest (event, created) timestamp.

    Of two writes with equal timestamps the later one counts, so a rerun changes nothing. `plan` stays empty: Feast uses
    it with `type: sqlite` only, and calls `update` otherwise. Vector search is left out.
    """

    # Feast asks its own classes only; tables are named by version here as there.
    _versioned_read_supported = True

    def __init__(self) -> None:
        self._of_thread = _PerThread()

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Write], progress: Callable[[int], Any] | None
    ) -> None:
        """Write a batch as one transaction. Naive timestamps are UTC. Raises ViewNotApplied."""
        writes = [
            (serialized(config, entity_key), values, stamp_of(event, created))
            for entity_key, values, event, created in data
            if values
        ]
        select, replace = (statement.format(table=_table(config, table)) for statement in (SELECT_ROW, REPLACE))
        before: dict[bytes, _Row | None] = {}
        after: dict[bytes, _Row] = {}
        with _explained(config), self._connection(config) as con:
            # IMMEDIATE waits for other writers now; a read that turned into a write could only fail.
            con.execute("BEGIN IMMEDIATE")
            for key, values, stamp in writes:
                if key not in before:
                    found = con.execute(select, (key,)).fetchone()
                    before[key] = found and _Row(*found)
                after[key] = _merged(after.get(key) or before[key], values, stamp)
            con.executemany(replace, ((key, *row) for key, row in after.items() if row != before[key]))
        if progress:
            progress(len(data))

    def forget_after(self, config: RepoConfig, tables: Sequence[FeatureView], moment: datetime) -> int:
        """Delete the rows that were so after `moment`; returns how many. To replay the past, newer rows must go."""
        with _explained(config), self._connection(config) as con:
            con.execute("BEGIN IMMEDIATE")
            return sum(
                con.execute(FORGET.format(table=_table(config, view)), (microseconds(moment),)).rowcount
                for view in tables
            )

    def forget_before(self, config: RepoConfig, moments: Mapping[str, datetime], views: Sequence[FeatureView]) -> int:
        """Delete each view's rows that were so before its moment, by the view's name; returns how many."""
        with _explained(config), self._connection(config) as con:
            con.execute("BEGIN IMMEDIATE")
            return sum(
                con.execute(
                    FORGET_BEFORE.format(table=_table(config, view)), (microseconds(moments[view.name]),)
                ).rowcount
                for view in views
            )

    def forget_keys(
        self, config: RepoConfig, view: FeatureView, about: Callable[[EntityKey], bool], delete: bool
    ) -> int:
        """Return how many rows of a view are of keys that `about` says yes to; with `delete`, delete them."""
        table, version = _table(config, view), config.entity_key_serialization_version
        with _explained(config), self._connection(config) as con:
            con.execute("BEGIN IMMEDIATE")
            keys = con.execute(f"SELECT entity_key FROM {table}").fetchall()
            found = [(key,) for (key,) in keys if about(deserialize_entity_key(key, version))]
            if delete and found:
                con.execute("PRAGMA secure_delete=ON")
                con.executemany(f"DELETE FROM {table} WHERE entity_key = ?", found)
        return len(found)

    def update(
        self, config: RepoConfig, tables_to_delete: Sequence[FeatureView], tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity], entities_to_keep: Sequence[Entity], partial: bool,
    ) -> None:  # fmt: skip
        """Create tables for views, drop those of deleted ones; new features need none. Raises WalUnavailable."""
        Path(_path(config)).parent.mkdir(parents=True, exist_ok=True)
        with self._connection(config) as con:
            _switch_to_wal(con, config)
            con.execute("BEGIN IMMEDIATE")
            for view in tables_to_keep:
                con.execute(CREATE.format(table=_table(config, view)))
            for view in tables_to_delete:
                con.execute(f"DROP TABLE IF EXISTS {_table(config, view)}")

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Drop all tables of the project. The file stays: unlinked, it would live on in a process that has it open."""
        if not os.path.exists(_path(config)):
            return
        prefix = f"{config.project}."
        with self._connection(config) as con:
            con.execute("BEGIN IMMEDIATE")
            names = con.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND instr(name, ?) = 1", (prefix,))
            for (name,) in names.fetchall():
                con.execute(f"DROP TABLE {_quote(name)}")
        con.execute("VACUUM")

    def _connection(self, config: RepoConfig) -> sqlite3.Connection:
        """This thread's connection. As a context manager it commits the open transaction, or rolls it back."""
        path = _path(config)
        connections = self._of_thread.connections
        connection = connections.get((os.getpid(), path))
        if connection is None:
            timeout: float = config.online_store.busy_timeout_seconds
            connection = connections[os.getpid(), path] = sqlite3.connect(path, timeout=timeout, isolation_level=None)
        return connection

    def _read(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Found | None]]:
        """The rows of several views, out of one snapshot; each view's in the order of its keys."""
        selects = [
            (number, _table(config, view), keys[start : start + KEYS_A_SELECT])
            for number, (view, keys, _) in enumerate(reads)
            for start in range(0, len(keys), KEYS_A_SELECT)
        ]
        found: list[dict[bytes, Found]] = [{} for _ in reads]
        with _explained(config), self._connection(config) as con:
            con.execute("BEGIN")
            for start in range(0, len(selects), SELECTS_A_STATEMENT):
                some = selects[start : start + SELECTS_A_STATEMENT]
                statement = " UNION ALL ".join(
                    SELECT_KEYS.format(number=number, table=table, keys=",".join("?" * len(asked)))
                    for number, table, asked in some
                )
                variables = [key for _, _, asked in some for key in asked]
                for number, key, event_us, features, older in con.execute(statement, variables).fetchall():
                    found[number][key] = _as_asked(event_us, features, older, reads[number][2])
        return [[rows.get(key) for key in keys] for (_, keys, _), rows in zip(reads, found, strict=True)]


def _merged(row: _Row | None, values: Mapping[str, Value], stamp: Stamp) -> _Row:
    """The row after a write: of each feature the newer value, and of equally new ones the one written now."""
    if row is None:
        return _Row(*stamp, Map(val=values).SerializeToString(deterministic=True), "{}")
    features = Map.FromString(row.features)
    older: dict[str, list[int]] = json.loads(row.older)
    stamps: dict[str, Stamp] = dict.fromkeys(features.val, (row.event_us, row.created_us))
    stamps |= {name: (event_us, created_us) for name, (event_us, created_us) in older.items()}
    for name, value in values.items():
        if stamp >= stamps.get(name, stamp):
            features.val[name].CopyFrom(value)
            stamps[name] = stamp
    newest = max(stamps.values())
    left = {name: of_feature for name, of_feature in stamps.items() if of_feature != newest}
    return _Row(*newest, features.SerializeToString(deterministic=True), json.dumps(left, sort_keys=True))


def _as_asked(event_us: int, features: bytes, older: str, requested: Iterable[str] | None) -> Found:
    values = Map.FromString(features).val
    found = {name: value for name in requested or values if (value := values.get(name)) is not None}
    if older != "{}":
        stamps = json.loads(older)
        event_us = min((stamps[name][0] if name in stamps else event_us for name in found), default=event_us)
    return event_us, found


def _switch_to_wal(con: sqlite3.Connection, config: RepoConfig) -> None:
    """Make WAL the file's mode: for good, so only `update` does it. SQLite's own timeout does not cover the switch."""
    deadline = time.monotonic() + config.online_store.busy_timeout_seconds
    while True:
        try:
            (mode,) = con.execute("PRAGMA journal_mode=WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    if mode != "wal":
        raise WalUnavailable(
            f"{_path(config)} has journal mode {mode!r} and cannot have 'wal', which needs a local disk. "
            "Move online_store.path in feature_store.yaml to one."
        )


@contextmanager
def _explained(config: RepoConfig) -> Iterator[None]:
    """Say what to do about a table, or a folder, that is not there."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if not str(error).startswith(("no such table", "unable to open database file")):
            raise
        raise ViewNotApplied(
            f"{_path(config)}: {error}. Run `feast apply`, then materialize; or mend online_store.path in "
            "feature_store.yaml."
        ) from error


def _path(config: RepoConfig) -> str:
    return os.path.join(config.repo_path or "", config.online_store.path)


def _table(config: RepoConfig, view: FeatureView) -> str:
    """project.view, quoted: no project has a dot in its name, and no table of Feast's own SQLite store is called so."""
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    return _quote(f"{config.project}.{name}")


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
