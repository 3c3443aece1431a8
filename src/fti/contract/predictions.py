"""The table of predictions: a database's URL in; an engine, and what was predicted in an interval, out.

Serving writes it (fti/serving/prediction_log.py), monitoring reads it: here is what both must agree on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError

from fti.errors import Refusal

if TYPE_CHECKING:
    import pandas as pd

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# Rows go to the driver as tuples.
PARAMSTYLES: dict[str, Any] = {"sqlite": "qmark", "postgresql": "format"}
# How long to wait for another's lock, and for a server that does not answer, where the URL does not say.
PATIENCE = {"sqlite": {"timeout": 5}, "postgresql": {"connect_timeout": 5, "tcp_user_timeout": 10_000}}
PAGE_BYTES = 16_384
ERASED_AT_ONCE = 1000
# In which role a version predicts: it answers, or it is only watched, or it scores in bulk.
ROLES = CHAMPION, SHADOW, BATCH = "champion", "shadow", "batch"


class LogUnusable(Refusal):
    """There can be no log of predictions at this URL."""


class LogMissing(LogUnusable):
    """There is no file of that name."""


class Utc(TypeDecorator[datetime]):
    """An aware moment. SQLite has no such type: there, microseconds since 1970, which sort as they should."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else self.impl_instance)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        return None if value is None else as_moment(value, dialect)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return EPOCH + value * MICROSECOND if dialect.name == "sqlite" else value.astimezone(UTC)


METADATA = MetaData()
PREDICTIONS = Table(
    "predictions",
    METADATA,
    # A request to the service, or a run of batch scoring; and the position in it. With the time, for clients may call
    # two requests the same.
    Column("request_id", String, primary_key=True),
    Column("row", Integer, primary_key=True),
    Column("role", String, CheckConstraint(f"role IN {ROLES}"), primary_key=True),
    Column("predicted_at", Utc, primary_key=True),
    Column("as_of", Utc, nullable=False),
    Column("model_name", String, nullable=False),
    Column("model_version", String, nullable=False),
    Column("contract_sha256", String, nullable=False),
    Column("feature_service", String, nullable=False),
    Column("request", String, nullable=False),
    Column("features", String, nullable=False),
    Column("ages", String, nullable=False),
    Column("prediction", Float, nullable=False),  # a probability, or a number in the label's unit
    Column("latency_ms", Float),
    Column("row_key", String),
    # A batch predicts a row once. Online rows have no row_key, and to SQL no null equals another: they never collide
    # here. With as_of in front it is also the index for ranges of as_of.
    UniqueConstraint("as_of", "row_key", "model_name", "model_version", name="predictions_once"),
    # Time in front: retention asks by it alone, monitoring by a version within a window, and new rows go to its end.
    Index("predictions_by_time", "predicted_at", "model_name", "model_version"),
)


# Columns by the name they had before: a table from then is kept, with all its rows.
RENAMED = {"probability": "prediction"}
COLUMNS = [column.name for column in PREDICTIONS.columns]


def as_moment(value: datetime, dialect: Dialect) -> Any:
    """An aware moment as the database stores it."""
    return (value - EPOCH) // MICROSECOND if dialect.name == "sqlite" else value


def open_log(url: str, existing: bool = False) -> Engine:
    """Return an engine for the log of predictions; nothing is opened or made yet. Raises LogUnusable.

    With `existing`, raise LogMissing where there is no such file: SQLite would make an empty one.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend not in PATIENCE or not parsed.database or parsed.database == ":memory:":
            raise ArgumentError("it is neither a file of SQLite nor a database of Postgres")
        patience = {name: value for name, value in PATIENCE[backend].items() if name not in parsed.query}
        # One connection, looked at before each use: to open and close one costs SQLite more than to write some rows.
        engine = create_engine(
            parsed, pool_size=1, pool_pre_ping=True, paramstyle=PARAMSTYLES[backend], connect_args=patience
        )
    except (ArgumentError, ImportError) as error:
        address = url.rpartition("@")[2]  # without a password
        raise LogUnusable(
            f"Predictions cannot be logged to {address!r}: {error}. Set SERVING_PREDICTION_LOG to sqlite:////PATH, "
            "or to postgresql://USER:PASSWORD@HOST/DATABASE after `pip install 'psycopg[binary]'`."
        ) from error
    if backend == "sqlite":
        if existing:
            _require_file(engine.dialect, None, [parsed.database], {})
            event.listen(engine, "do_connect", _require_file)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "checkout", _require_same_file)
    return engine


def _require_file(_dialect: Dialect, _record: Any, arguments: Sequence[Any], _named: Any) -> None:
    if not Path(arguments[0]).is_file():
        raise LogMissing(
            f"There is no log of predictions at {arguments[0]}. The service makes it, and so does batch scoring: "
            "`make batch AS_OF=...`. Or let SERVING_PREDICTION_LOG (--url) name the one that there is."
        )


def _prepare_sqlite(connection: Any, record: Any) -> None:
    """Readers and a writer at once. Power that fails may cost the last rows, and does not damage the file.

    A row has some 2 kB: of a page of the usual 4 kB, half would stay empty.
    """
    connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    record.info["file"] = _file_of(connection)


def _require_same_file(connection: Any, record: Any, _: Any) -> None:
    """A file that was deleted or replaced goes on taking rows that nobody will read: have a new one opened."""
    if record.info["file"] != _file_of(connection):
        raise DisconnectionError("the file is another one now")


def _file_of(connection: Any) -> tuple[int, int] | None:
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def create(engine: Engine, tables: Sequence[Table] | None = None) -> None:
    """Make the tables, all known by now if none are named, and SQLite's folder, where they are not there. A log
    from before gets its new names."""
    if engine.dialect.name == "sqlite":
        Path(str(engine.url.database)).parent.mkdir(parents=True, exist_ok=True)
    try:
        _make(engine, tables)
    except DBAPIError:  # perhaps because another process has made them at the same moment
        _make(engine, tables)


def _make(engine: Engine, tables: Sequence[Table] | None) -> None:
    METADATA.create_all(engine, tables)
    if tables is not None and PREDICTIONS not in tables:
        return
    there = {column["name"] for column in inspect(engine).get_columns(PREDICTIONS.name)}
    for before, now in RENAMED.items():
        if before in there and now not in there:
            with engine.begin() as connection:
                connection.execute(text(f"ALTER TABLE {PREDICTIONS.name} RENAME COLUMN {before} TO {now}"))


def delete_before(engine: Engine, moment: datetime) -> int:
    """Delete what was predicted before a moment, for which the table's owner has the right; returns how many rows."""
    with engine.begin() as connection:
        return connection.execute(delete(PREDICTIONS).where(PREDICTIONS.c.predicted_at < moment)).rowcount


def erase(engine: Engine, fields: Collection[str], value: str, delete_them: bool) -> int:
    """Return how many rows asked about this value in one of these request fields, or have it as their row key.

    With `delete_them`, delete them, for which the table's owner has the right.
    """
    columns, keys = PREDICTIONS.c, list(PREDICTIONS.primary_key)
    written = json.dumps(value, ensure_ascii=False)[1:-1]
    maybe = columns.request.contains(written, autoescape=True) | (columns.row_key == value)
    found = []
    with engine.connect().execution_options(yield_per=ERASED_AT_ONCE) as connection:
        for *key, request, row_key in connection.execute(select(*keys, columns.request, columns.row_key).where(maybe)):
            asked = json.loads(request)
            if row_key == value or any(str(asked.get(field)) == value for field in fields):
                found.append(dict(zip((column.name for column in keys), key, strict=True)))
    if delete_them and found:
        mine = and_(*(column == bindparam(f"its_{column.name}") for column in keys))
        with engine.begin() as connection:
            connection.execute(
                delete(PREDICTIONS).where(mine),
                [{f"its_{name}": part for name, part in key.items()} for key in found],
            )
    if delete_them and engine.dialect.name == "sqlite":  # its files go on holding what was in them
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            held, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        if held:
            raise LogUnusable("The log's write-ahead file could not be emptied: somebody reads it. Run this again.")
    return len(found)


def read(engine: Engine, start: datetime, end: datetime) -> pd.DataFrame:
    """The rows as of `[start, end)`, in order of as_of, row key, request and row; JSON columns as text."""
    import pandas as pd

    columns = PREDICTIONS.c
    asked = (
        select(PREDICTIONS)
        .where(columns.as_of >= start, columns.as_of < end)
        .order_by(columns.as_of, columns.row_key, columns.request_id, columns.row, columns.role)
    )
    with engine.connect() as connection:
        return pd.DataFrame(connection.execute(asked).all(), columns=COLUMNS)
