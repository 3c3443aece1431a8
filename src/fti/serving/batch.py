"""Batch scoring: an interval and a model version in; a logged prediction of every row of the spine due in it out.

    fti batch --as-of 2013-10-02T00:00Z --days 7 --alias champion

Each row is predicted as of its own prediction time, from what was known then; with `--known-by`, for a time that is yet
to come, as of that moment at the latest. What is logged already is left alone, so that a run may be repeated, and one
that was killed goes on where it ended: each day is one transaction.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
from sqlalchemy import Engine, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from fti.command import alias, fail
from fti.contract.feature_contract import FeatureContract
from fti.contract.predictions import BATCH, PREDICTIONS, LogUnusable, as_moment, create, open_log
from fti.contract.registered import fetch_version
from fti.contract.request_limits import unanswerable
from fti.contract.settings import OFF
from fti.contract.spine import PREDICTION_TIME, row_key_of, row_keys_of, rows_due, with_features
from fti.errors import Refusal, one_line
from fti.serving.prediction_log import as_json, write
from fti.serving.settings import ServingSettings
from fti.steps import step
from fti.stores.repository import open_repository

if TYPE_CHECKING:
    from feast import FeatureStore

    from fti.scoring.compiled import Compiled, Native

DAY = timedelta(days=1)
# Joined at once: a join costs about a second before its first row, and holds what it joins in memory.
JOINED_DAYS = 31
LACKING = "a view without which the model does not answer has no row"


class NothingDue(Refusal):
    """There is no row to predict in the interval."""


class NoVersion(Refusal):
    """There is no such model version."""


@dataclass
class Totals:
    """Rows due, skipped by reason, logged before this run, and logged by it."""

    due: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    there: int = 0
    written: int = 0

    def __str__(self) -> str:
        skipped = "".join(f"\n  {count:,} skipped: {reason}" for reason, count in self.skipped.items())
        return f"{self.due:,} rows due: {self.written:,} predicted and logged, {self.there:,} there already{skipped}"


@dataclass(frozen=True)
class BatchScorer:
    """A checked model version, and where its features come from and its predictions go to."""

    name: str
    version: str
    contract: FeatureContract
    model: Compiled | Native
    store: FeatureStore
    engine: Engine

    def run(
        self, start: datetime, end: datetime, request_id: str, now: datetime, known_by: datetime | None = None
    ) -> Totals:
        """Predict what is due in `[start, end)`, from what is known then or, if that is earlier, by `known_by`.

        Logs it as predicted at `now`. Raises NothingDue.
        """
        from tqdm import tqdm

        totals, row_key = Totals(), row_key_of(self.store, self.contract.interface)
        with step(f"rows due in {_name(start, end)}") as report:
            rows = rows_due(self.store, self.contract.interface, start, end, known_by)
            totals.due = len(rows)
            if rows.empty:
                raise NothingDue(
                    f"No row of {self.contract.interface.spine_view!r} is to be predicted in {_name(start, end)}. "
                    "Choose another --as-of, or run `make features` for that time."
                )
            rows, totals.skipped = answerable(self.contract, rows)
            if known_by is not None:
                moments = rows[PREDICTION_TIME]
                rows = rows.assign(**{PREDICTION_TIME: moments.where(moments <= known_by, pd.Timestamp(known_by))})
            rows, totals.there = self._without_logged(rows, row_key, start, end)
            report.update(rows_in=totals.due, skipped=sum(totals.skipped.values()), rows_out=len(rows))
        rows = rows.sort_values([PREDICTION_TIME, row_key], ignore_index=True)
        with tqdm(total=len(rows), unit="row", disable=None) as progress:
            for first, last in _intervals(start, end, JOINED_DAYS * DAY):
                asked = rows[rows[PREDICTION_TIME].between(first, last, inclusive="left")]
                if asked.empty:
                    continue
                with step(f"predict {_name(first, last)}") as report:
                    before = totals.written
                    scored = self._scored(asked, row_key)
                    if len(scored) < len(asked):
                        totals.skipped[LACKING] = totals.skipped.get(LACKING, 0) + len(asked) - len(scored)
                    stored = self._stored(scored, row_key, request_id, now, totals.there + totals.written)
                    for day in _days(scored[PREDICTION_TIME], first, last):
                        added = write(self.engine, stored[day])
                        totals.written += added
                        totals.there += len(stored[day]) - added  # another run was faster
                        progress.update(len(stored[day]))
                    report.update(rows_in=len(asked), rows_out=totals.written - before)
        return totals

    def _without_logged(
        self, rows: pd.DataFrame, row_key: str, start: datetime, end: datetime
    ) -> tuple[pd.DataFrame, int]:
        """The rows that this version has not predicted yet, and how many it has."""
        columns = PREDICTIONS.c
        logged = select(columns.as_of, columns.row_key).where(
            columns.as_of >= start, columns.as_of < end, columns.role == BATCH,
            columns.model_name == self.name, columns.model_version == self.version,
        )  # fmt: skip
        with self.engine.connect() as connection:
            found = {(as_of, key) for as_of, key in connection.execute(logged)}
        there = pd.Series(
            [pair in found for pair in zip(rows[PREDICTION_TIME], row_keys_of(rows, row_key), strict=True)],
            rows.index,
            dtype=bool,
        )
        return rows[~there], int(there.sum())

    def _scored(self, rows: pd.DataFrame, row_key: str) -> pd.DataFrame:
        """The rows with their features, in order of prediction time, and `__prediction`."""
        interface = self.contract.interface
        joined = with_features(self.store, interface, rows, row_key)
        return joined.assign(__prediction=self.model.predict_frame(interface.model_inputs(joined)))

    def _stored(
        self, scored: pd.DataFrame, row_key: str, request_id: str, now: datetime, first: int
    ) -> list[tuple[Any, ...]]:
        """Rows for the log, numbered from `first`. Feast's offline join does not say how old what it joined was: there
        are no ages."""
        interface, dialect = self.contract.interface, self.engine.dialect
        request = _objects(scored[[one.name for one in interface.request_fields]])
        features = _objects(interface.model_inputs(scored))
        about = (self.name, self.version, self.contract.sha256, interface.feature_service)
        predicted_at = as_moment(now, dialect)
        moments = pd.DatetimeIndex(scored[PREDICTION_TIME]).to_pydatetime()
        return [
            (request_id, row, BATCH, predicted_at, as_moment(as_of, dialect), *about,
             as_json(asked), as_json(values), "{}", prediction, None, key)
            for row, (as_of, asked, values, prediction, key) in enumerate(zip(
                moments, request, features, scored["__prediction"].tolist(), row_keys_of(scored, row_key).tolist(),
                strict=True,
            ), first)
        ]  # fmt: skip


def scorer_of(settings: ServingSettings, engine: Engine, alias: str, number: str | None) -> BatchScorer:
    """Load and check a version, by its number or else by an alias. Raises NoVersion, ContractBroken."""
    # Not above: they take ten seconds that a wrong command line should not wait for.

    from fti.scoring.loading import checked_model, find_version

    name = settings.model_name
    version = find_version(name, alias, number)
    if version is None:
        wanted = f"version {number}" if number else f"version with the alias {alias!r}"
        raise NoVersion(f"{name!r} has no {wanted}. `mlflow ui` lists what there is; `make pipeline` trains.")
    with step(f"load {name} version {version.version}") as report:
        folder, contract = fetch_version(version)
        store = open_repository(settings.feast_repo)
        model = checked_model(version, folder, contract, store)
        report.update(inputs=len(contract.interface.inputs))
    return BatchScorer(name, str(version.version), contract, model, store, engine)


def answerable(contract: FeatureContract, rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows that the online service would not refuse, and how many it would for each reason, the first one's."""
    reasons = pd.Series(None, rows.index, dtype=object)
    for key in contract.interface.join_keys:
        values, known = rows[key.request_field], contract.known_values.get(key.name)
        if known is not None:
            unknown = values.notna() & ~key.of_column(values).isin(known).astype(bool) & reasons.isna()
            reasons[unknown] = f"the model knows no {key.noun} " + values[unknown].astype(str)
    reasons = reasons.where(reasons.notna(), unanswerable(contract.interface, rows))
    return rows[reasons.isna()], {str(reason): int(count) for reason, count in reasons.value_counts().items()}


def _days(moments: pd.Series, start: datetime, end: datetime) -> Iterator[slice]:
    """Where the rows of each day are, of moments in order; days without any are left out."""
    for first, last in _intervals(start, end, DAY):
        day = slice(*(int(moments.searchsorted(pd.Timestamp(bound))) for bound in (first, last)))
        if day.start < day.stop:
            yield day


def _objects(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Each row as a mapping of plain Python values, None for missing."""
    columns = [
        column.astype(object).where(column.notna(), None).tolist() if column.dtype != "float64" else column.tolist()
        for _, column in frame.items()
    ]
    names = list(frame.columns)
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _intervals(start: datetime, end: datetime, length: timedelta) -> Iterator[tuple[datetime, datetime]]:
    while start < end:
        yield start, min(start + length, end)
        start += length


def _name(start: datetime, end: datetime) -> str:
    return f"{start:%Y-%m-%dT%H:%MZ}/{end:%Y-%m-%dT%H:%MZ}"


def main(argv: list[str] | None = None) -> int:
    return alias("fti.serving.batch", "fti.serving.commands:BATCH", argv)


def score(
    settings: ServingSettings, start: datetime, days: int, known_by: datetime | None, alias: str, number: str | None,
    url: str | None,
) -> int:  # fmt: skip
    """Score what is due, and print how much that was; returns the exit code."""
    from mlflow.exceptions import MlflowException

    log = url or settings.prediction_log
    try:
        if log == OFF:
            raise LogUnusable("SERVING_PREDICTION_LOG is off; batch scoring writes there. Give --url, or unset it.")
        engine = open_log(log)
        scorer = scorer_of(settings, engine, alias, number)
        create(engine)
        totals = scorer.run(start, start + days * DAY, uuid.uuid4().hex, datetime.now(UTC), known_by)
    except SQLAlchemyError as error:
        raise LogUnusable(
            f"The log of predictions at {make_url(log).render_as_string(hide_password=True)} cannot be written: "
            f"{one_line(error)}. Make it writable, or name another with SERVING_PREDICTION_LOG or --url, and run the "
            "same command again: what is logged already is left out."
        ) from error
    except (MlflowException, OSError) as error:
        return fail(error)
    print(f"{scorer.name} version {scorer.version}, {_name(start, start + days * DAY)}: {totals}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
