"""What the log of predictions tells of the service: its database in; traffic, how old views are, and requests out.

The log is that of all workers. Each question takes bounded time, by an index, or is given up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import numpy as np
from sqlalchemy import Engine, event, func, inspect, make_url, select

from fti.contract.predictions import CHAMPION, PREDICTIONS, open_log
from fti.contract.results import RESULTS
from fti.scoring.schemas import AS_OF, RequestInvalid
from fti.scoring.served_model import ServedModel, iso

HOUR = timedelta(hours=1)
HOURS = 24
LATENCIES, RECENT = 1000, 200  # rows
SCANNED = 10  # rows that are looked at for each request that is wanted, at most
# What a monitor of views calls the age of the newest row, and of the newest moment that was put online.
NEWEST, ONLINE = "offline_age_hours", "materialization_lag_hours"


def open_reader(url: str, seconds: float) -> Engine:
    """An engine for the log of predictions whose connections work no longer than so many seconds each time."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = open_log(_with(parsed, timeout=str(seconds)))
        event.listen(engine, "checkout", lambda connection, *_: _interrupt_after(connection, seconds))
        return engine
    options = f"{parsed.query.get('options', '')} -c statement_timeout={int(seconds * 1000)}"
    return open_log(_with(parsed, connect_timeout="2", options=options))


def _with(url: Any, **query: str) -> str:
    return url.update_query_dict(query).render_as_string(hide_password=False)


def _interrupt_after(connection: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)


def traffic(engine: Engine, name: str, now: datetime) -> dict[str, Any]:
    """How many requests the service answered in the last 24 hours, the rows of each, and how long they took.

    `latency_ms` are percentiles of the newest requests, a thousand rows at most; None without any.
    """
    columns = PREDICTIONS.c
    answered = (columns.model_name == name) & (columns.role == CHAMPION)
    began = now.replace(minute=0, second=0, microsecond=0) - (HOURS - 1) * HOUR
    by_hour, requests = [], 0
    with engine.connect() as connection:
        for hour in (began + number * HOUR for number in range(HOURS)):
            within = (columns.predicted_at >= hour) & (columns.predicted_at < hour + HOUR)
            counts = select(func.count(), func.count(columns.request_id.distinct())).where(within, answered)
            rows, of_requests = connection.execute(counts).one()
            by_hour.append({"at": hour, "rows": rows})
            requests += of_requests
        newest = (
            select(columns.request_id, columns.latency_ms)
            .where(columns.predicted_at >= began, answered, columns.latency_ms.is_not(None))
            .order_by(columns.predicted_at.desc())
            .limit(LATENCIES)
        )
        latencies = {one.request_id: one.latency_ms for one in connection.execute(newest)}
    quantiles = np.quantile([*latencies.values()], (0.5, 0.95, 0.99)).tolist() if latencies else []
    return {
        "hours": HOURS,
        "requests": requests,
        "by_hour": by_hour,
        "latency_ms": dict(zip(("p50", "p95", "p99"), quantiles, strict=True)) if quantiles else None,
    }


def views(engine: Engine, served: ServedModel, now: datetime) -> list[dict[str, Any]]:
    """Of each view that the model reads, the newest row that is known to be online, and its age.

    Nobody asks the online store, which has no index by time. A row is known from the answers: it is the newest that
    one of the last RECENT requests was answered with. Or from the newest run of the monitors: the newest row
    offline, or the moment up to which rows were put online, whichever is earlier. The age is seen from the moment
    that requests ask about: from now, less as much as the recent ones lay in the past, which is nothing but in a
    replay. What is `empty` has no row by the monitors' word; of what is `unknown` nobody has said anything.
    """
    columns, results = PREDICTIONS.c, RESULTS.c
    recent = (
        select(columns.predicted_at, columns.as_of, columns.ages)
        .where(columns.model_name == served.name, columns.role == CHAMPION)
        .order_by(columns.predicted_at.desc())
        .limit(RECENT)
    )
    latest = select(func.max(results.as_of)).where(results.monitor == "freshness").scalar_subquery()
    monitored = select(results.as_of, results.subject, results.metric, results.value).where(
        results.as_of == latest, results.monitor == "freshness", results.metric.in_([NEWEST, ONLINE])
    )
    was_monitored = inspect(engine).has_table(RESULTS.name)
    with engine.connect() as connection:
        answers = connection.execute(recent).all()
        found = connection.execute(monitored).all() if was_monitored else []
    lags = [one.predicted_at - one.as_of for one in answers]
    seen_from = now - median(lags) if lags else max([one.as_of for one in found], default=now)
    rows: dict[str, list[datetime]] = {}
    for one in answers:
        for view, age in json.loads(one.ages).items():
            rows.setdefault(view, []).append(one.as_of - timedelta(seconds=age))
    said = {(one.subject, one.metric): one for one in found}
    sources = {view["name"]: view["source"] for view in served.views if "source" in view}  # which monitors know it by
    said |= {
        (name, metric): said[source, metric]
        for name, source in sources.items()
        for metric in (NEWEST, ONLINE)
        if (source, metric) in said
    }
    return [
        _view(view["name"], view["ttl_seconds"], rows.get(view["name"], []), said, seen_from) for view in served.views
    ]


def _view(
    name: str, ttl_seconds: int, answered: Collection[datetime], said: Mapping[Any, Any], seen_from: datetime
) -> dict[str, Any]:
    """What is known of a view: event timestamps of rows that were `answered` with, and what the monitors `said`."""
    monitored = [said[name, metric] for metric in (NEWEST, ONLINE) if (name, metric) in said]
    moments = [one.as_of - one.value * HOUR for one in monitored if one.value is not None]
    online = [min(moments)] if moments and len(moments) == len(monitored) else []
    newest = max([*answered, *online], default=None)
    age, state = None, "empty" if monitored else "unknown"
    if newest is not None:
        age = max(0.0, (seen_from - newest).total_seconds())
        state = "stale" if ttl_seconds and age > ttl_seconds else "fresh"
    found = {"name": name, "ttl_seconds": ttl_seconds, "newest": newest, "age_seconds": age, "state": state}
    return found | {"as_of": seen_from}


def requests(engine: Engine, served: ServedModel, now: datetime, limit: int) -> list[dict[str, Any]]:
    """Requests of the log that the served version takes, each once, those that were predicted last first.

    Batches predict what is due in the hours to come, so those are among them.
    """
    columns = PREDICTIONS.c
    asked = (
        select(columns.as_of, columns.request, columns.role)
        .where(columns.model_name == served.name)
        .order_by(columns.predicted_at.desc(), columns.as_of.desc())
        .limit(limit * SCANNED)
    )
    with engine.connect() as connection:
        rows = connection.execute(asked).all()
    found: dict[str, dict[str, Any]] = {}
    for one in rows:
        request = {name: value for name, value in json.loads(one.request).items() if value is not None}
        key = json.dumps(request, sort_keys=True)
        if key not in found and _takes(served, request | {AS_OF: iso(one.as_of)}, now):
            found[key] = {AS_OF: one.as_of, "request": request, "role": one.role}
        if len(found) == limit:
            break
    return [*found.values()]


def _takes(served: ServedModel, request: dict[str, Any], now: datetime) -> bool:
    try:
        served.parse_row(request, now)
    except RequestInvalid:
        return False
    return True
