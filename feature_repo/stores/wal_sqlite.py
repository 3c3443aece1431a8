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
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from feast import Entity, FeatureView, utils
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Map, Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import PositiveFloat, StrictStr

from feature_repo.stores.stamps import EPOCH, MICROSECOND, Stamp, microseconds, stamp_of

# SQLite takes 32,766 variables and 500 SELECTs a statement.
KEYS_A_SELECT, SELECTS_A_STATEMENT = 500, 60

Write = tuple[EntityKey, dict[str, Value], datetime, datetime | None]  # values, event and created timestamp of a key
Found = tuple[int, dict[str, Value]]  # event timestamp, microseconds since 1970 in UTC, and values of a key
Read = tuple[FeatureView, list[bytes], list[str] | None]  # view, serialized keys, requested features
KeyValues = tuple[tuple[str, Any], ...]  # of each join key the kind of its value, as in Value, and the value

CREATE = """CREATE TABLE IF NOT EXISTS {table} (
    entity_key BLOB PRIMARY KEY,
    event_us INTEGER NOT NULL,    -- when the newest of the values was so: microseconds since 1970, UTC
    created_us INTEGER NOT NULL,  -- when it was learnt
    features BLOB NOT NULL,       -- a feast.types.Map: value by feature
    older TEXT NOT NULL           -- JSON: [event_us, created_us] by feature, of those that the newest write left out
) WITHOUT ROWID"""
REPLACE = "INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)"
FORGET = "DELETE FROM {table} WHERE event_us > ?"
SELECT_ROW = "SELECT event_us, created_us, features, older FROM {table} WHERE entity_key = ?"
SELECT_KEYS = "SELECT {number}, entity_key, event_us, features, older FROM {table} WHERE entity_key IN ({keys})"


class WalSqliteOnlineStoreConfig(FeastConfigBaseModel):
    """`path` is relative to the folder of feature_store.yaml. A writer waits `busy_timeout_seconds` for another one."""

    type: Literal["feature_repo.stores.wal_sqlite.WalSqliteOnlineStore"] = (
        "feature_repo.stores.wal_sqlite.WalSqliteOnlineStore"
    )
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


class WalSqliteOnlineStore(OnlineStore):
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
            (_key(config, entity_key), values, stamp_of(event, created))
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

    def online_read(
        self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:  # fmt: skip
        """Timestamp and values of each key, (None, None) for one never written. Raises ViewNotApplied.

        The timestamp is that of the oldest value returned: values written together have one, partial writes may not.
        """
        keys = [_key(config, entity_key) for entity_key in entity_keys]
        (rows,) = self._read(config, [(table, keys, requested_features)])
        return [(EPOCH + row[0] * MICROSECOND, row[1]) if row else (None, None) for row in rows]

    def _read_features_per_fv(
        self, config: RepoConfig, grouped_refs: list[tuple[FeatureView, list[str]]], join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, str], online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool, include_feature_view_version_metadata: bool,
    ) -> None:  # fmt: skip
        """Feast's hook for reading all views of a request at once, as its Redis and Postgres stores use it.

        It fills the response itself: with Feast's functions for that, a read of stored features takes twice as long.
        """
        plain = {name: [_plain(value) for value in values] for name, values in join_key_values.items()}
        version = config.entity_key_serialization_version
        reads: list[Read] = []
        places = []  # by view, of each row of the request the place of its key among the keys to read
        for view, features in grouped_refs:
            # It picks columns, whatever is in them.
            columns = utils._get_table_entity_values(view, entity_name_to_join_key_map, plain)  # type: ignore[arg-type]
            if not any(columns.values()):  # Feast says what is missing
                utils._get_unique_entities(view, join_key_values, entity_name_to_join_key_map)
            names, unique = tuple(columns), dict[KeyValues, int]()
            places.append([unique.setdefault(key, len(unique)) for key in zip(*columns.values(), strict=True)])
            reads.append((view, [_key_of(names, key, version) for key in unique], features))
        for (view, features), place, rows in zip(grouped_refs, places, self._read(config, reads), strict=True):
            if include_feature_view_version_metadata:
                utils._populate_response_from_feature_data([], [], [], online_features_response, False, view, 0, True)
            _respond(online_features_response, view, features, rows, place, full_feature_names)

    def forget_after(self, config: RepoConfig, tables: Sequence[FeatureView], moment: datetime) -> int:
        """Delete the rows that were so after `moment`; returns how many. To replay the past, newer rows must go."""
        with _explained(config), self._connection(config) as con:
            con.execute("BEGIN IMMEDIATE")
            return sum(
                con.execute(FORGET.format(table=_table(config, view)), (microseconds(moment),)).rowcount
                for view in tables
            )

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


def _respond(
    response: GetOnlineFeaturesResponse, view: FeatureView, features: list[str], rows: list[Found | None],
    places: list[int], full_feature_names: bool,
) -> None:  # fmt: skip
    """Add a vector for each of a view's features; `places` says which of `rows` is that of each row of the request."""
    from feast.metrics import track_feature_statuses  # at a read, as in Feast: it sets Prometheus up for the process

    prefix = f"{view.projection.name_to_use()}__" if full_feature_names else ""
    response.metadata.feature_names.val.extend([prefix + feature for feature in features])
    # Protobuf copies a message at once and a list message by message, so what all features share is made once.
    shared = GetOnlineFeaturesResponse.FeatureVector(statuses=[FieldStatus.PRESENT] * len(places))
    for place in places:
        row = rows[place]
        seconds, microseconds = divmod(row[0] if row else 0, 10**6)
        shared.event_timestamps.add(seconds=seconds, nanos=microseconds * 1000)
    absent = 0
    for feature in features:
        values = [row[1].get(feature) if row else None for row in rows]
        vector = response.results.add()
        vector.CopyFrom(shared)
        vector.values.extend([values[place] or Value() for place in places])
        if None in values:
            missing = [values[place] is None for place in places]
            vector.statuses[:] = [FieldStatus.NOT_FOUND if no else FieldStatus.PRESENT for no in missing]
            absent += sum(missing)
    track_feature_statuses(view.name, len(features) * len(places) - absent, absent)


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


def _key(config: RepoConfig, entity_key: EntityKey) -> bytes:
    return serialize_entity_key(entity_key, entity_key_serialization_version=config.entity_key_serialization_version)


@lru_cache(maxsize=2**16)
def _key_of(names: tuple[str, ...], values: KeyValues, version: int) -> bytes:
    """Remembered, for requests have few origins, airlines or aircraft, and Feast takes long to serialize one."""
    entity_key = EntityKey(join_keys=names, entity_values=[Value(**{kind: value}) for kind, value in values])
    return serialize_entity_key(entity_key, entity_key_serialization_version=version)


def _plain(value: Value) -> tuple[str | None, Any]:
    kind = value.WhichOneof("val")
    return kind, kind and getattr(value, kind)
