"""A stretch of the past, lived through day by day in a folder of its own, with the real service beside it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import requests
from mlflow import MlflowClient
from requests.adapters import HTTPAdapter
from sqlalchemy import Column, Float, Integer, Table, func, select
from typeguard import suppress_type_checks

from fti.contract.events import CYCLE_STEPS, events
from fti.contract.interface import FeatureInterface
from fti.contract.predictions import METADATA, PREDICTIONS, Utc
from fti.contract.registered import REASONS_TAG, fetch_version
from fti.contract.spine import KNOWN_AT, PREDICTION_TIME, row_key_of, rows_due, source_of, view_rows
from fti.errors import Refusal
from fti.features.definitions import copy_definitions
from fti.features.feast_steps import apply, materialize
from fti.features.pipeline import FeaturePipeline
from fti.features.source import EventSource
from fti.features.windows import Interval
from fti.loop.day import DAY, INSTANT, STEPS, Cycle, open_cycle
from fti.loop.faulty import Fault, FaultySource
from fti.loop.records import as_text, costs, plots, weeks
from fti.loop.retrain import mlflow_run
from fti.project import project
from fti.serving.settings import ServingSettings
from fti.serving.start import wait_until_ready
from fti.stores.repository import open_repository
from fti.times import utc
from fti.training.promote import CHALLENGER, CHAMPION, version_at

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

ASKING = 8  # connections to the service
PATIENCE = 60.0  # seconds for the service to follow the champion, and for the log to be written

# One row a time that the online store was filled: what that took, and how the requests until the next were answered.
REPLAYED = Table(
    "replayed",
    METADATA,
    Column("moment", Utc, primary_key=True),
    Column("rows_online", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("answered", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
)


class ReplayStopped(Refusal):
    """The replay cannot go on."""


@dataclass(frozen=True)
class Folder:
    """Where a replay lives: definitions, tables, registry, runs and log of its own."""

    root: Path

    @property
    def repo(self) -> Path:
        return self.root / "feature_repo"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def settings(self) -> ServingSettings:
        log = f"sqlite:///{self.root / 'data' / 'predictions.db'}"
        return ServingSettings(feast_repo=self.repo, prediction_log=log)

    def prepare(self, source: EventSource, first: datetime) -> None:
        """Features up to the first moment, and a model trained as of it, unless that is there already.

        Raises ReplayStopped where a replay from another moment lives, and where the gate refuses the model.
        """
        began, wanted = self.root / "replayed-from", first.isoformat()
        if not began.exists():
            began.write_text(wanted)
        if (found := began.read_text()) != wanted:
            raise ReplayStopped(
                f"{self.root} holds a replay from {found[:10]}. Go on with that, with FROM={found[:10]}; or remove the "
                "folder; or name another: fti replay --folder FOLDER."
            )
        if version_at(MlflowClient(), self.settings.model_name, CHAMPION) is not None:
            return
        if not self.repo.is_dir():
            copy_definitions(self.repo)
        pipeline = FeaturePipeline(self.repo, source)
        pipeline.ingest(Interval(utc(project().source.START), first))
        pipeline.publish(Interval(utc(project().source.START), first))
        apply(self.repo)
        materialize(self.repo, utc(project().source.START), first)
        mlflow_run("main", self.repo, as_of=first.isoformat())
        if version_at(MlflowClient(), self.settings.model_name, CHAMPION) is None:
            refused = version_at(MlflowClient(), self.settings.model_name, CHALLENGER)
            reasons = "unknown" if refused is None else refused.tags.get(REASONS_TAG, "unknown")
            raise ReplayStopped(f"There is no model to begin with: the gate refused it. Its reasons: {reasons}.")


@contextmanager
def service(folder: Folder) -> Iterator[str]:
    """The real service, in a process of its own, over the folder; its address. Raises CannotStart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Keys, a pinned version or a shadow are of the service that people use.
    env = {name: value for name, value in os.environ.items() if not name.startswith("SERVING_")} | {
        "SERVING_MODEL_NAME": folder.settings.model_name,
        "SERVING_FEAST_REPO": str(folder.repo),
        "SERVING_PREDICTION_LOG": folder.settings.prediction_log,
        "SERVING_PORT": str(port),
        "SERVING_POLL_SECONDS": "1",
        "MLFLOW_TRACKING_URI": folder.tracking_uri,
    }
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "serving.service:PredictionService"]
    with (folder.root / "service.log").open("ab") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], cwd=project().root, env=env, stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}"
            if wait_until_ready(address, server) is None:
                raise ReplayStopped(f"The service ended before it was ready; {folder.root / 'service.log'} says why.")
            yield address
        finally:
            server.terminate()
            server.wait()


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # whatever proxy the environment names, the service is on this machine
    session.mount("http://", HTTPAdapter(pool_maxsize=ASKING))
    return session


@dataclass
class Replay:
    """A cycle, the service beside it, and what is asked of that."""

    cycle: Cycle
    address: str
    refresh: timedelta
    faults: list[Fault]
    session: requests.Session = field(default_factory=_session)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(ASKING))

    def day(self, day: datetime) -> None:
        """The cycle as of the start of a day, and then the day itself."""

        self.cycle.run(day)
        self._await_champion()
        # The day's events, which the next cycle would land: its first step is done then.
        self.cycle.step("land", day + DAY)
        store, interface = open_repository(self.cycle.pipeline.repo), self._interface()
        row_key = row_key_of(store, interface)
        due = rows_due(store, interface, day, day + DAY).sort_values([PREDICTION_TIME, row_key])
        rows = [(view, _rows(store, view, day, day + DAY)) for view in store.list_feature_views() if view.online]
        moments = [*pd.date_range(day, day + DAY, freq=self.refresh, inclusive="left"), pd.Timestamp(day + DAY)]
        with self.cycle.engine.connect() as connection:
            there = set(connection.scalars(select(REPLAYED.c.moment)))
        for start, end in pairwise(moments):
            if start in there:
                continue
            began = time.perf_counter()
            written = _fill(store, rows, start, start - self.refresh)
            for fault in self.faults:
                fault.spoil_online(store, start.to_pydatetime())
            seconds = time.perf_counter() - began
            asked = due[(due[PREDICTION_TIME] >= start) & (due[PREDICTION_TIME] < end)]
            self._ask(interface, row_key, asked, start, {"rows_online": written, "seconds": seconds})
        self._await_log(day, day + DAY)

    def _ask(
        self, interface: FeatureInterface, row_key: str, rows: pd.DataFrame, moment: pd.Timestamp, did: dict[str, Any]
    ) -> None:
        """Ask the service for rows, and record how it answered together with what was done before."""
        ids = [f"replay-{key}" for key in rows[row_key]]
        columns = PREDICTIONS.c
        with self.cycle.engine.connect() as connection:
            # A replay that was killed had asked for some of them.
            there = set(connection.scalars(select(columns.request_id).where(columns.request_id.in_(ids))))
        asked = [
            (name, _body(interface, row)) for name, row in zip(ids, rows.to_dict("records"), strict=True)
            if name not in there
        ]  # fmt: skip
        answers = list(self.pool.map(self._post, asked))
        counts = {
            "answered": sum(code == 200 for code in answers),
            "refused": sum(400 <= code < 500 for code in answers),
            "failed": sum(code >= 500 or code == 0 for code in answers),
        }
        with self.cycle.engine.begin() as connection:
            connection.execute(REPLAYED.insert().values(did | counts | {"moment": moment.to_pydatetime()}))

    def _post(self, asked: tuple[str, bytes]) -> int:
        """The status of the answer; 0 for none."""
        name, body = asked
        headers = {"Content-Type": "application/json", "X-Request-ID": name}
        try:
            return int(
                self.session.post(f"{self.address}/predict", body, headers=headers, timeout=PATIENCE).status_code
            )
        except requests.RequestException:
            return 0

    def _interface(self) -> FeatureInterface:
        champion = version_at(MlflowClient(), self.cycle.name, CHAMPION)
        if champion is None:
            raise ReplayStopped(f"{self.cycle.name!r} has no champion any more.")
        return fetch_version(champion)[1].interface

    def _await_champion(self) -> None:
        champion = version_at(MlflowClient(), self.cycle.name, CHAMPION)
        wanted = None if champion is None else str(champion.version)
        until = time.monotonic() + PATIENCE
        while (serves := self._served()) != wanted:
            if time.monotonic() > until:
                raise ReplayStopped(f"The champion is version {wanted}, but the service still answers with {serves}.")
            time.sleep(0.2)

    def _served(self) -> str:
        return str(self.session.get(f"{self.address}/model", timeout=PATIENCE).json()["version"])

    def _await_log(self, start: datetime, end: datetime) -> None:
        """Until the log has every answer: the service writes it behind the answers."""
        columns, moment = PREDICTIONS.c, REPLAYED.c.moment
        counted = select(func.count()).where(
            columns.as_of >= start, columns.as_of < end, columns.request_id.startswith("replay-")
        )
        answered = select(func.sum(REPLAYED.c.answered)).where(moment >= start, moment < end)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with self.cycle.engine.connect() as connection:
                if (connection.scalar(counted) or 0) >= (connection.scalar(answered) or 0):
                    return
            time.sleep(0.2)
        raise ReplayStopped(f"The log lacks answers of {start:%Y-%m-%d}: see `fti_log` in {self.address}/metrics.")


def _rows(store: FeatureStore, view: FeatureView, start: datetime, end: datetime) -> pd.DataFrame:
    """A view's rows of `[start, end)` in order of time, as Feast takes them for its online store."""
    source, rows = source_of(store, view.name), view_rows(store, view.name, end - INSTANT, since=start)
    rows = rows.sort_values(KNOWN_AT, ignore_index=True)
    created = {source.created_timestamp_column: rows[KNOWN_AT]} if source.created_timestamp_column else {}
    return rows.assign(**created).rename(columns={KNOWN_AT: source.timestamp_field})


@suppress_type_checks  # Feast 0.67 has typeguard check each of its own calls
def _fill(
    store: FeatureStore, rows: list[tuple[FeatureView, pd.DataFrame]], until: pd.Timestamp, after: pd.Timestamp
) -> int:
    """Put online what was stamped in `(after, until]`; returns how many rows. What was before, the cycle has.

    As `write_to_online_store` does, which reads all definitions anew for each view and call.
    """
    written, provider = 0, store._get_provider()
    for view, frame in rows:
        assert view.batch_source is not None
        moments = frame[view.batch_source.timestamp_field]
        new = frame[(moments > after) & (moments <= until)]
        if len(new):
            provider.ingest_df(view, new)
            written += len(new)
    return written


def _body(interface: FeatureInterface, row: Mapping[Any, Any]) -> bytes:
    """The request for a row of the spine, as of when its prediction is due."""
    fields = {one.name: row[one.name] for one in interface.request_fields if not pd.isna(row[one.name])}
    asked = {name: value.isoformat() if isinstance(value, pd.Timestamp) else value for name, value in fields.items()}
    return json.dumps(asked | {"as_of": row[PREDICTION_TIME].isoformat()}, default=str).encode()


def run(
    folder: Folder, source: FaultySource, faults: list[Fault], first: datetime, last: datetime, refresh: timedelta
) -> str:
    """Prepare, and live through the days of `[first, last)`; returns what they came to, in words."""
    from tqdm import tqdm

    source.now = first
    folder.prepare(source, first)
    cycle = open_cycle(folder.settings, source, refresh=refresh)
    days = pd.date_range(first, last, freq="D", inclusive="left")
    with service(folder) as address, tqdm(days, unit="day", disable=None) as progress:
        replay = Replay(cycle, address, refresh, faults)
        for day in progress:
            source.now = day.to_pydatetime()
            progress.set_description(f"{day:%Y-%m-%d}")
            replay.day(day.to_pydatetime())
    cycle.run(last)
    seconds = costs(cycle.engine, first, last).median().round(1)
    report = folder.root / "data" / "monitoring" / "report.html"
    for name, picture in plots(cycle.engine, first, last).items():
        (report.parent / name).write_text(picture)
    return f"""{as_text(weeks(cycle.engine, first, last), events(cycle.engine, first, last))}

Seconds a cycle (median): {", ".join(f"{step} {seconds[step]}" for step in STEPS)}
{_lag(cycle)}

The report is {report}, the plots are beside it.
The runs: `mlflow ui --backend-store-uri {folder.tracking_uri}`."""


def _lag(cycle: Cycle) -> str:
    """How the requests were answered, and how long an event takes to be a feature that is served."""
    with cycle.engine.connect() as connection:
        rows = pd.DataFrame(connection.execute(select(REPLAYED)).mappings().all())
        landings = (CYCLE_STEPS.c.step == "land") & (CYCLE_STEPS.c.status == "done")
        landed = connection.scalars(select(CYCLE_STEPS.c.seconds).where(landings)).all()
    land, fill = (float(pd.Series(seconds).median()) for seconds in (landed, rows.seconds))
    return (
        f"{rows.answered.sum():,} requests answered, {rows.refused.sum():,} refused, {rows.failed.sum():,} failed.\n"
        f"From a day's events to its feature rows {land:.1f} s (median), from there to the online store "
        f"{fill:.2f} s for {rows.rows_online.median():,.0f} rows."
    )
