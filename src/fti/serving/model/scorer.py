"""One thread that scores: requests from the event loop in, outcomes out; what waits together is scored together.

A read of features and a prediction cost little more for twenty rows than for one, so under load each request gets
cheaper; alone it never waits for company. One thread, because a Feast store and a model belong to one at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

from fti.scoring.features import FeaturesMissing, StoreUnavailable
from fti.scoring.served_model import Outcome, Prediction, ServedModel
from fti.serving import metrics

Result = TypeVar("Result")
# Rows that are scored at once: a large batch lets others in after each so many, some 20 ms.
CHUNK = 100


class Overloaded(RuntimeError):
    """More requests wait than the service is to answer in time."""


@dataclass
class Job:
    """Rows of one request, all of one model version, and who waits for them."""

    model: ServedModel
    rows: Sequence[dict[str, Any]]
    done: asyncio.Future[list[Outcome]]
    came: float
    counted: bool


class Scorer:
    """Scores for coroutines of one event loop. At most `limit` requests are in it, waiting or being scored."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._waiting: deque[Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._draining: asyncio.Task[None] | None = None

    async def score(self, model: ServedModel, rows: Sequence[dict[str, Any]], counted: bool = True) -> list[Outcome]:
        """The outcome of each row; `counted` in the metrics of predictions. Raises Overloaded, StoreUnavailable."""
        if self._inside >= self._limit:
            raise Overloaded(f"{self._inside} requests are being answered; ask again in a second.")
        self._inside += 1
        try:
            outcomes: list[Outcome] = []
            for start in range(0, len(rows), CHUNK):
                outcomes += await self._queue(model, rows[start : start + CHUNK], counted)
            return outcomes
        finally:
            self._inside -= 1

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Do something else that needs the store to itself, in the same thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _queue(self, model: ServedModel, rows: Sequence[dict[str, Any]], counted: bool) -> list[Outcome]:
        job = Job(model, rows, asyncio.get_running_loop().create_future(), time.perf_counter(), counted)
        self._waiting.append(job)
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())
        return await job.done

    async def _drain(self) -> None:
        while jobs := await self._next():
            metrics.TOGETHER.observe(len(jobs))
            metrics.child(metrics.STAGE, "wait").observe(time.perf_counter() - jobs[0].came)
            results = await self.run(_score_all, jobs)
            for job, result in zip(jobs, results, strict=True):
                if job.done.done():
                    continue  # who asked has given up
                if isinstance(result, Exception):
                    job.done.set_exception(result)
                else:
                    job.done.set_result(result)

    async def _next(self) -> list[Job]:
        """The jobs to score together: those in front that are of one model, and no more rows than a chunk."""
        # What has arrived by now is read first: it may come along.
        await asyncio.sleep(0)
        jobs: list[Job] = []
        rows = 0
        while self._waiting:
            job = self._waiting[0]
            if job.done.done():
                self._waiting.popleft()
                continue
            if jobs and (job.model is not jobs[0].model or rows + len(job.rows) > CHUNK):
                break
            jobs.append(self._waiting.popleft())
            rows += len(job.rows)
        return jobs


def _score_all(jobs: Sequence[Job]) -> list[list[Outcome] | Exception]:
    """What each job gets. When scoring fails they are scored one by one, so that a row of one fails no other."""
    try:
        outcomes = jobs[0].model.predict([row for job in jobs for row in job.rows])
    except Exception as error:  # noqa: BLE001 - handed to who asked
        if len(jobs) == 1 or isinstance(error, StoreUnavailable):
            return [error] * len(jobs)
        return [_score_all([job])[0] for job in jobs]
    following = iter(outcomes)
    results = [list(islice(following, len(job.rows))) for job in jobs]
    counted = [*chain.from_iterable(result for job, result in zip(jobs, results, strict=True) if job.counted)]
    metrics.count_rows(
        [one.row for one in counted if isinstance(one, Prediction)],
        [one.row for one in counted if isinstance(one, FeaturesMissing)],
    )
    return [*results]
