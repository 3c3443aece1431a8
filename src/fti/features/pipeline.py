"""The feature pipeline's steps over one Feast repository: judge, ingest, publish and release."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
from upath import UPath

from fti.errors import few
from fti.features.compute import Computed, bounds, compute, newest_event, open_raw
from fti.features.guard import check_rows
from fti.features.publish import Written, id_of, landed, merge_events, replace_interval
from fti.features.quarantine import ReleaseRefused, held_name, hold, known, release
from fti.features.source import EventSource, learnt
from fti.features.windows import FeatureTable, Interval
from fti.project import project
from fti.steps import progress, step
from fti.stores.data_format import note
from fti.stores.delta import connect
from fti.stores.frames import as_frame
from fti.stores.tables import data_of, tables_of
from fti.validation.gate import BatchRefused, Gate, Outcome
from fti.validation.profile import LOOKBACK, profile
from fti.validation.rules import Feed, feature_suite, floats_of, landed_suite


@dataclass
class FeaturePipeline:
    """The steps, over one Feast repository and its tables."""

    repo: Path
    source: EventSource
    gate: Gate = field(default_factory=Gate)
    con: duckdb.DuckDBPyConnection = field(default_factory=connect)

    @property
    def data(self) -> Path:
        return data_of(self.repo)

    @property
    def tables(self) -> UPath:
        return tables_of(self.repo)

    def check_raw(self, interval: Interval) -> dict[str, Outcome]:
        """Judge the source's events of the interval, each by itself and all beside the weeks before; writes nothing.

        Raises SourceError, and BatchRefused once everything was judged.
        """
        outcomes, dated = {}, 0
        for table in progress(project().source.RAW_KEYS, "table"):
            with step(f"validate {table}") as report:
                events = self.source.between(table, interval.start, interval.end)
                suite = project().raw.RAW_SUITES[table]
                if interval.start >= project().source.COMPLETE_UNTIL[table]:
                    suite = replace(suite, min_rows=0)
                told_of = partial(
                    known, self.con, self.tables / "quarantine" / table, project().source.RAW_SCHEMAS[table]
                )
                outcomes[table] = self.gate.check(events, suite, told_of)
                dated += int(events.event_timestamp.notna().sum())  # the others are of every interval alike
                report.update(rows=len(events), held=len(outcomes[table].held))
        _require(outcomes.values(), interval)  # only of a sound batch it makes sense to ask what is typical
        _require(
            [self._check_profile(feed, outcomes, interval) for feed in project().profiles.PROFILES.values()], interval
        )
        if not dated:
            raise BatchRefused(
                f"Batch {_name(interval)}: the source has no event in it. Nothing was written. Choose another "
                f"interval; that of the data set is {project().source.START}/{project().source.END}."
            )
        return outcomes

    def _check_profile(self, feed: Feed, outcomes: dict[str, Outcome], interval: Interval) -> Outcome:
        """Judge how many events there are and what is typical of them, beside what landed in the weeks before."""
        with step(f"validate {feed.suite.name}") as report:
            groups = [by for by in (feed.newest_by, feed.spread_by) if by]
            columns = ["event_timestamp", *feed.values, *groups]
            since, raw = interval.start - LOOKBACK, self.tables / "raw"
            before = [landed(self.con, raw / table, since, interval.start) for table in feed.tables]
            frame = profile(
                pd.concat([outcomes[table].accepted.reindex(columns=columns) for table in feed.tables]),
                pd.concat([events.reindex(columns=columns) for events in before]),
                interval.start,
                interval.end,
                values=feed.values,
                newest_by=feed.newest_by,
                spread_by=feed.spread_by,
                complete_until=min(project().source.COMPLETE_UNTIL[table] for table in feed.tables),
            )
            report.update(days=len(frame))
            return self.gate.check(frame, feed.suite)

    def ingest(self, interval: Interval, received_at: datetime | None = None) -> None:
        """Land the interval's events, all tables or none: the gate judges every batch before the first is written.

        What is new or restated is recorded as learnt at `received_at` where that is later than the event itself.
        """
        outcomes = self.check_raw(interval)
        note(self.data)
        start, end = bounds(interval)
        holds = f"event_timestamp >= {start} AND event_timestamp < {end} OR event_timestamp IS NULL"
        for table, outcome in progress(outcomes.items(), "table"):
            with step(f"ingest {table}") as report:
                accepted = outcome.accepted
                if received_at:
                    accepted = accepted.assign(created_timestamp=learnt(accepted.created_timestamp, received_at))
                events = _arrow(accepted, project().source.RAW_SCHEMAS[table])
                raw = self.tables / "raw" / table
                written = merge_events(
                    raw, events, project().source.RAW_KEYS[table], month_of=project().source.KEY_MOMENTS.get(table)
                )
                hold(
                    self.con,
                    self.tables / "quarantine" / table,
                    outcome.held,
                    project().source.RAW_SCHEMAS[table],
                    holds,
                    _name(interval),
                    released_to=id_of(raw),
                )
                report.update(_counts(written), held=len(outcome.held))

    def publish(self, interval: Interval) -> None:
        """Compute, check and write feature rows: those of the interval, and published ones that late events touch.

        First all are checked, then all are written.
        """
        raw = open_raw(self.con, self.tables)
        computed: dict[str, Computed] = {}
        verdicts: dict[str, Future[Outcome]] = {}
        with ThreadPoolExecutor(1) as other_core:  # one thread judges while this one computes the next table
            for name, table in progress(project().transforms.FEATURE_TABLES.items(), "table"):
                with step(f"transform {name}") as report:
                    found = computed[name] = compute(self.con, self.tables, name, table, interval, raw)
                    verdicts[name] = other_core.submit(self._check, name, table, found.rows)
                    report.update(rows=found.rows.num_rows, recomputed=found.recomputed)
        held: dict[str, pd.DataFrame] = {}
        for name, verdict in verdicts.items():
            outcome = verdict.result().require(_name(interval))
            held[name] = outcome.held
            if len(outcome.held):
                schema = computed[name].rows.schema
                computed[name] = replace(computed[name], rows=_arrow(outcome.accepted, schema))
        if not any(len(found.rows) for found in computed.values()):
            raise BatchRefused(
                f"Batch {_name(interval)}: no raw events in it or in the windows before it, so no feature row to "
                "publish. What was published before stays. Choose another interval, or land its events first: "
                "`fti ingest` with the same --start and --end."
            )
        self._require_landed(interval)
        with step("compare declared types"):
            check_rows(self.repo, {str(self._table(name)): found.rows for name, found in computed.items()})
        for name in progress(project().transforms.FEATURE_TABLES, "table"):
            with step(f"publish {name}") as report:
                found = computed.pop(name)
                found.register(self.con)
                # Held first: once the table says what it reflects, no later run computes these rows again.
                hold(
                    self.con,
                    self.tables / "quarantine" / held_name(name),
                    held[name],
                    found.rows.schema,
                    found.holds,
                    _name(interval),
                )
                written = replace_interval(
                    self.con,
                    self._table(name),
                    found.rows,
                    found.holds,
                    found.reflects,
                    found.restatements,
                )
                report.update(_counts(written))

    def _table(self, name: str) -> UPath:
        return self.tables / "features" / name

    def _require_landed(self, interval: Interval) -> None:
        """Refuse to say of time that never landed that nothing happened in it: its rows would look fresh."""
        newest = newest_event(self.con)
        if newest is None:
            return
        hours = (min(interval.end, max(project().source.COMPLETE_UNTIL.values())) - newest).total_seconds() / 3600
        frame = pd.DataFrame({"newest": [f"{newest:%Y-%m-%dT%H:%MZ}"], "hours_after_newest": [hours]})
        self.gate.check(frame, landed_suite()).require(
            _name(interval),
            "No raw event is as new as that many hours before --end, so nothing was published. Land the events first: "
            "`fti ingest` with the same --start and --end; or let --end be where "
            "landing ended; or, if there were none, `--accept landed.events_to_the_end`.",
        )

    def _check(self, name: str, table: FeatureTable, rows: pa.Table) -> Outcome:
        with step(f"validate {name}") as report:
            columns = [column for column in rows.column_names if column not in table.keys]
            suite = feature_suite(name, table.keys, columns, project().features.BOUNDS, floats_of(rows.schema))
            outcome = self.gate.check(as_frame(rows), suite)
            report.update(rows=rows.num_rows, held=len(outcome.held))
            return outcome

    def release(self, table: str, file: Path, received_at: datetime) -> None:
        """Let corrected rows in, by the gate; see `held_rows` for the form of the file. Raises ReleaseRefused."""
        if table not in project().raw.RAW_SUITES:
            raise ReleaseRefused(
                f"{table!r} is no raw table; those are {list(project().raw.RAW_SUITES)}. Feature rows are computed: "
                "correct the events they are made of, or the transform, and publish again."
            )
        with step(f"release {table}") as report:
            suite = project().raw.RAW_SUITES[table].of_a_few()
            written, refused = release(self.con, self.tables, table, file, self.gate, suite, received_at)
            report.update(_counts(written), still_held=len(refused))
        if refused:
            raise ReleaseRefused(
                f"{written.rows} row(s) of {file} released, {len(refused)} still held: {few(refused, '; ')}. "
                "Correct them and run the same command with a file of those."
            )

    def write_docs(self) -> Path:
        return self.gate.write_docs(self.data / "docs")


def _arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pandas(frame, schema=schema, preserve_index=False)


def _counts(written: Written) -> dict[str, int]:
    return {"rows": written.rows, "changed": written.changed, "version": written.version}


def _require(outcomes: Iterable[Outcome], interval: Interval) -> None:
    for outcome in outcomes:
        outcome.require(_name(interval))


def _name(interval: Interval) -> str:
    return f"{interval.start:%Y-%m-%dT%H:%MZ}/{interval.end:%Y-%m-%dT%H:%MZ}"
