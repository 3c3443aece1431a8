"""The log of predictions: what was asked, what it was made of and what was answered in; rows of one SQL table out.

A request only appends to a queue in memory; one thread writes it away, in SQLite's file or in Postgres. A database that
is locked, full or gone costs no request anything: rows wait, and what does not fit is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic_core import to_json
from sqlalchemy import Dialect, Engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError

from fti.contract.predictions import COLUMNS, PREDICTIONS, as_moment, create, delete_before, open_log
from fti.serving import metrics

if TYPE_CHECKING:
    from fti.scoring.served_model import Prediction, ServedModel

# Under BentoML's own logger, whose handler and level are the only ones that show what is not a warning.
logger = logging.getLogger("bentoml.serving")
FLUSH_SECONDS = 0.5
RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 5.0
RETENTION_SECONDS = 3600.0
INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
# Errors that come again however often the row is tried; ValueError is one of its values.
BAD_ROW = (IntegrityError, DataError, ValueError)


@dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """A row of the log. `request` are the request's fields; `features` value by input; `ages` of the rows, by view."""

    request_id: str
    row: int
    role: str
    predicted_at: datetime
    as_of: datetime
    model_name: str
    model_version: str
    contract_sha256: str
    feature_service: str
    request: Mapping[str, Any]
    features: Mapping[str, Any]
    ages: Mapping[str, timedelta]
    prediction: float
    latency_ms: float | None
    row_key: str | None = None


def log_entry(
    model: ServedModel, prediction: Prediction, request_id: str, row: int, role: str, at: datetime, latency_ms: float
) -> LoggedPrediction:
    """A prediction as the log keeps it: made `at`, in UTC, as that row of that request."""
    interface = model.contract.interface
    return LoggedPrediction(
        request_id=request_id,
        row=row,
        role=role,
        predicted_at=at,
        as_of=prediction.as_of,
        model_name=model.name,
        model_version=model.version,
        contract_sha256=model.contract_sha256,
        feature_service=interface.feature_service,
        request=prediction.fields,
        features={one.name: prediction.row.values[one.name] for one in interface.inputs},
        ages=prediction.row.ages,
        prediction=prediction.value,
        latency_ms=latency_ms,
    )


def stored(row: LoggedPrediction, dialect: Dialect) -> tuple[Any, ...]:
    """The row's values as `write` takes them. Raises ValueError for what is no JSON."""
    values = {name: getattr(row, name) for name in COLUMNS}
    values |= {name: as_json(values[name]) for name in ("request", "features", "ages")}
    values |= {name: as_moment(values[name], dialect) for name in ("predicted_at", "as_of")}
    return tuple(values.values())


def as_json(values: Mapping[str, Any]) -> str:
    """Strict JSON: NaN and infinity are null, moments ISO 8601, spans seconds."""
    return to_json(values, inf_nan_mode="null", timedelta_mode="float").decode()


def write(engine: Engine, rows: Sequence[tuple[Any, ...]]) -> int:
    """Add rows of stored values, all or none, but leave those alone that are there; returns how many were added.

    By the driver itself: SQLAlchemy's look at each value would cost half as much again.
    """
    with engine.begin() as connection:
        return connection.exec_driver_sql(_adding(engine.dialect), list(rows)).rowcount


@cache
def _adding(dialect: Dialect) -> str:
    return str(INSERTS[dialect.name](PREDICTIONS).on_conflict_do_nothing().compile(dialect=dialect))


class PredictionLog:
    """Takes predictions without ever waiting, and writes them in a thread of its own, until `close`.

    The counters: `written` and `dropped` rows, `failures` of attempts to write, rows `queued` by now. A process has one
    log; several processes may write to one database.
    """

    def __init__(
        self, url: str, queue_size: int = 10_000, batch_rows: int = 500, retention_days: int | None = None
    ) -> None:
        """`retention_days` None keeps rows forever. Raises LogUnusable."""
        self.written = self.dropped = self.failures = 0
        self._engine = open_log(url)
        self._queue_size, self._batch_rows, self._retention_days = queue_size, batch_rows, retention_days
        self._queue: deque[LoggedPrediction] = deque()
        self._lock = threading.Lock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._created = False
        self._delete_at, self._delete_fails = time.monotonic(), False
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        return len(self._queue)

    def put(self, rows: Sequence[LoggedPrediction]) -> None:
        """Queue rows; those that do not fit, or come after `close`, are dropped and counted."""
        with self._lock:
            room = 0 if self._closing.is_set() else self._queue_size - len(self._queue)
            self._queue.extend(rows[:room])
            if len(rows) > room:
                self._count("dropped", len(rows) - room)
            metrics.LOG_QUEUE.set(len(self._queue))
            enough = len(self._queue) >= self._batch_rows
        if enough:
            self._wake.set()

    def close(self, timeout: float = 5.0) -> None:
        """Write what is queued, for `timeout` seconds at most, and end; what is left is dropped, counted and logged."""
        self._deadline = time.monotonic() + timeout
        with self._lock:
            self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        if left := self.queued:
            self._count("dropped", left)
            logger.error("%d predictions were not logged: %s took none within %s s", left, self._where, timeout)

    @property
    def _where(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    def _count(self, outcome: Literal["written", "dropped"], rows: int) -> None:
        setattr(self, outcome, getattr(self, outcome) + rows)
        metrics.LOG_ROWS.labels(outcome).inc(rows)

    def _run(self) -> None:
        pause, failing = RETRY_SECONDS, False
        while time.monotonic() < self._deadline:
            try:
                self._flush()
            except Exception as error:  # noqa: BLE001 - whatever it is, the rows stay queued and are tried again
                self.failures += 1
                metrics.LOG_FAILURES.inc()
                self._created = False
                if not failing:
                    reason = str(error).partition("\n")[0]
                    logger.error(
                        "predictions cannot be logged to %s: %s. They wait in memory, %d at most, and are tried again.",
                        self._where, reason, self._queue_size,
                    )  # fmt: skip
                failing = True
                # Only a close ends this wait early: rows that come meanwhile make the database no better.
                self._closing.wait(pause)
                pause = min(2 * pause, MAX_RETRY_SECONDS)
                if self._closing.is_set():
                    time.sleep(RETRY_SECONDS)
                continue
            if failing:
                logger.warning("predictions are logged again; %d were dropped since the start", self.dropped)
            pause, failing = RETRY_SECONDS, False
            if self._closing.is_set() and not self._queue:
                return
            self._delete_old()
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()

    def _flush(self) -> None:
        """Write all that is queued, a transaction a batch. A batch stays queued until it is written."""
        if not self._created:
            create(self._engine, [PREDICTIONS])
            self._created = True
        while batch := self._next():
            bad = self._write(batch)
            with self._lock:
                for _ in batch:
                    self._queue.popleft()
                self._count("written", len(batch) - bad)
                self._count("dropped", bad)
                metrics.LOG_QUEUE.set(len(self._queue))

    def _next(self) -> list[LoggedPrediction]:
        with self._lock:  # a deque cannot be read while it grows
            return list(islice(self._queue, self._batch_rows))

    def _write(self, batch: Sequence[LoggedPrediction]) -> int:
        """Write a batch; row by row, if one cannot be stored. Returns how many the database will not have."""
        try:
            write(self._engine, [stored(row, self._engine.dialect) for row in batch])
        except BAD_ROW as error:
            if len(batch) > 1:
                return sum(self._write([row]) for row in batch)
            logger.error("a prediction cannot be logged: %s", str(error).partition("\n")[0])
            return 1
        return 0

    def _delete_old(self) -> None:
        """Delete what is too old, now and then. What keeps it from that keeps no row from being written."""
        if self._retention_days is None or time.monotonic() < self._delete_at or self._closing.is_set():
            return
        try:
            delete_before(self._engine, datetime.now(UTC) - timedelta(days=self._retention_days))
            self._delete_fails = False
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again in an hour
            if not self._delete_fails:
                logger.warning(
                    "predictions older than %d days stay in %s: %s. Who owns the table may delete them: the loop does, "
                    "where SERVING_LOG_RETENTION_DAYS is set for it.",
                    self._retention_days, self._where, str(error).partition("\n")[0],
                )  # fmt: skip
            self._delete_fails = True
        self._delete_at = time.monotonic() + RETENTION_SECONDS
