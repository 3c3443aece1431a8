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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from feast import Entity, FeatureView
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Map, Value
from feast.repo_config import RepoConfig
from pydantic import PositiveFloat, StrictStr

from fti.errors import Refusal
from fti.stores.exact_writes import has_key
from fti.stores.guarded import GuardingConfig
from fti.stores.reads_at_once import Found, Read, ReadsAtOnce, Write, serialized
from fti.stores.stamps import Stamp, microseconds, stamp_of

# SQLite takes 32,766 variables and 500 SELECTs a statement.
KEYS_A_SELECT, SELECTS_A_STATEMENT = 500, 60

CREATE = """CREATE TABLE IF NOT EXISTS {table} (
    entity_key BLOB PRIMARY KEY,
    event_us INTEGER NOT NULL,    -- when the newest of the values was so: microseconds since 1970, UTC
    created_us INTEGER NOT NULL,  -- when it was learnt
    features BLOB NOT NULL,       -- a feast.types.Map: value by feature
    older TEXT NOT NULL           -- JSON: [event_us, created_us] by feature, of those that the newest write left out
) WITHOUT ROWID"""
REPLACE = "INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)"
DELETE = "DELETE FROM {table} WHERE entity_key = ?"
FORGET = "DELETE FROM {table} WHERE event_us > ?"
FORGET_BEFORE = "DELETE FROM {table} WHERE event_us < ?"
SELECT_ROW = "SELECT event_us, created_us, features, older FROM {table} WHERE entity_key = ?"
SELECT_KEYS = "SELECT {number}, entity_key, event_us, features, older FROM {table} WHERE entity_key IN ({keys})"


class WalSqliteOnlineStoreConfig(GuardingConfig):
    """`path` is relative to the folder of feature_store.yaml. A writer waits `busy_timeout_seconds` for another one."""

    type: Literal["fti.stores.wal_sqlite.WalSqliteOnlineStore"] = "fti.stores.wal_sqlite.WalSqliteOnlineStore"
    path: StrictStr = "data/online.db"
    busy_timeout_seconds: PositiveFloat = 30.0


class ViewNotApplied(LookupError):
    """The online store has no table for a feature view, or is not there at all."""


class StillThere(Refusal):
    """A file still holds rows that were deleted."""


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
        super().__init__()
        self._of_thread = _PerThread()

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Write], progress: Callable[[int], Any] | None
    ) -> None:
        """Write a batch as one transaction, but for rows with a null key. Naive timestamps are UTC.

        Raises ViewNotApplied.
        """
        self._write(config, table, {}, data)
        if progress:
            progress(len(data))

    def replace_removed(
        self, config: RepoConfig, table: FeatureView, removed: Sequence[tuple[EntityKey, datetime]], data: list[Write]
    ) -> int:
        """Forget values with these keys and event timestamps, write `data`, all as one transaction.

        Returns how many keys had such a value. Naive timestamps are UTC. Raises ViewNotApplied.
        """
        moments: dict[bytes, set[int]] = {}
        for entity_key, moment in removed:
            if has_key(entity_key):
                moments.setdefault(serialized(config, entity_key), set()).add(microseconds(moment))
        return self._write(config, table, moments, data)

    def _write(
        self, config: RepoConfig, table: FeatureView, removed: Mapping[bytes, set[int]], data: Sequence[Write]
    ) -> int:
        writes = [
            (serialized(config, entity_key), values, stamp_of(event, created))
            for entity_key, values, event, created in data
            if values and has_key(entity_key)
        ]
        select, replace, delete = (
            statement.format(table=_table(config, table)) for statement in (SELECT_ROW, REPLACE, DELETE)
        )
        before: dict[bytes, _Row | None] = {}
        with _explained(config), self._connection(config) as con:
            # IMMEDIATE waits for other writers now; a read that turned into a write could only fail.
            con.execute("BEGIN IMMEDIATE")
            for key in dict.fromkeys([*removed, *(key for key, _, _ in writes)]):
                found = con.execute(select, (key,)).fetchone()
                before[key] = found and _Row(*found)
            after = {key: row and _without(row, removed.get(key, set())) for key, row in before.items()}
            replaced = sum(row != before[key] for key, row in after.items())
            for key, values, stamp in writes:
                after[key] = _merged(after[key], values, stamp)
            con.executemany(replace, ((key, *row) for key, row in after.items() if row and row != before[key]))
            con.executemany(delete, ((key,) for key, row in after.items() if before[key] and not row))
        return replaced

    def forget_after(self, config: RepoConfig, tables: Sequence[FeatureView], moment: datetime) -> int:
        """Delete the rows that were so after `moment`; returns how many. To replay the past, newer rows must go."""
        with _explained(config), self._connection(config) as con:
            con.execute("BEGIN IMMEDIATE")
            return sum(
                con.execute(FORGET.format(table=_table(config, view)), (microseconds(moment),)).rowcount
                for view in tables
            )

    def forget_before(self, config: RepoConfig, moments: Mapping[str, datetime], views: Sequence[FeatureView]) -> int:
        """Delete each view's rows of before its moment, by the view's name; returns how many. Naive moments are UTC."""
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
        """Return how many rows of a view have a key for which `about` is true; with `delete`, delete them."""
        table, version = _table(config, view), config.entity_key_serialization_version
        with _explained(config), self._connection(config) as con:
            con.execute("BEGIN IMMEDIATE")
            keys = con.execute(f"SELECT entity_key FROM {table}").fetchall()
            found = [(key,) for (key,) in keys if about(deserialize_entity_key(key, version))]
            if delete and found:
                con.executemany(f"DELETE FROM {table} WHERE entity_key = ?", found)
        if delete:  # its files go on holding what was in them
            con.execute("VACUUM")
            held, *_ = con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if held:
                raise StillThere(f"{_path(config)}-wal could not be emptied: somebody reads the store. Run this again.")
        return len(found)

    def update(
        self, config: RepoConfig, tables_to_delete: Sequence[FeatureView], tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity], entities_to_keep: Sequence[Entity], partial: bool,
    ) -> None:  # fmt: skip
        """Create tables for views, drop those of deleted ones; new features need none. Raises WalUnavailable."""
        Path(_path(config)).parent.mkdir(parents=True, exist_ok=True)
        with self._connection(config, "rwc") as con:
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

    def _connection(self, config: RepoConfig, mode: str = "rw") -> sqlite3.Connection:
        """This thread's connection. As a context manager it commits the open transaction, or rolls it back.

        Only `update` makes a file (`rwc`): an empty one that a reader made would be taken for a store without rows.
        """
        path = _path(config)
        connections = self._of_thread.connections
        connection = connections.get((os.getpid(), path))
        if connection is None:
            timeout: float = config.online_store.busy_timeout_seconds
            address = f"{Path(path).absolute().as_uri()}?mode={mode}"
            connection = sqlite3.connect(address, timeout=timeout, isolation_level=None, uri=True)
            connections[os.getpid(), path] = connection
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
    stamps = _stamps(row, features)
    for name, value in values.items():
        if stamp >= stamps.get(name, stamp):
            features.val[name].CopyFrom(value)
            stamps[name] = stamp
    return _row(features, stamps)


def _without(row: _Row, moments: Collection[int]) -> _Row | None:
    """The row without values of these event timestamps, microseconds since 1970; None when no value is left."""
    features = Map.FromString(row.features)
    stamps = _stamps(row, features)
    kept = {name: stamp for name, stamp in stamps.items() if stamp[0] not in moments}
    if len(kept) == len(stamps):
        return row
    for name in stamps.keys() - kept.keys():
        del features.val[name]
    return _row(features, kept) if kept else None


def _stamps(row: _Row, features: Map) -> dict[str, Stamp]:
    """The stamp of each feature of a row."""
    stamps: dict[str, Stamp] = dict.fromkeys(features.val, (row.event_us, row.created_us))
    older: dict[str, list[int]] = json.loads(row.older)
    return stamps | {name: (event_us, created_us) for name, (event_us, created_us) in older.items()}


def _row(features: Map, stamps: Mapping[str, Stamp]) -> _Row:
    newest = max(stamps.values())
    older = {name: stamp for name, stamp in stamps.items() if stamp != newest}
    return _Row(*newest, features.SerializeToString(deterministic=True), json.dumps(older, sort_keys=True))


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
