"""Scoring what waits together: who gets what, what a bad row or a lost store does to others, when there is too much."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from fti.scoring.features import AsOfTooEarly, FeatureRow, FeaturesMissing, StoreUnavailable
from fti.scoring.served_model import Prediction
from fti.serving import metrics
from fti.serving.model.scorer import CHUNK, Overloaded, Scorer

pytestmark = pytest.mark.anyio
NOON = datetime(2013, 10, 1, 12, tzinfo=UTC)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Doubler:
    """A model that doubles numbers, one thread at a time, when it may; it keeps what it was asked at once."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.asked: list[list[Any]] = []
        self.threads: set[int] = set()

    def predict(self, rows: list[Any]) -> list[Any]:
        self.may.wait(10)
        self.asked.append(list(rows))
        self.threads.add(threading.get_ident())
        if "store" in rows:
            raise StoreUnavailable("gone")
        return [row * 2 if isinstance(row, int) else 1 / 0 for row in rows]


@pytest.fixture
async def scorer():
    made = Scorer(limit=8)
    yield made
    made.close()


async def while_busy(scorer: Scorer, model: Any, jobs: list[tuple[Any, list[Any]]]) -> list[Any]:
    """What each job gets that comes while a first one is being scored."""
    blocker = Doubler()
    blocker.may.clear()
    first = asyncio.create_task(scorer.score(blocker, [0]))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(scorer.score(model or one, rows)) for one, rows in jobs]
    await asyncio.sleep(0.05)
    blocker.may.set()
    assert await first == [0]
    return await asyncio.gather(*others, return_exceptions=True)


async def test_what_waits_is_scored_together_and_each_gets_its_own(scorer):
    """In one call, in order, in one thread that is not the event loop's."""
    model = Doubler()
    got = await while_busy(scorer, model, [(None, [1]), (None, [2, 3]), (None, []), (None, [4])])
    assert got == [[2], [4, 6], [], [8]]
    assert model.asked == [[1, 2, 3, 4]]
    assert model.threads.isdisjoint({threading.get_ident()})


async def test_alone_a_request_waits_for_nobody(scorer):
    """One row, one call."""
    model = Doubler()
    assert await scorer.score(model, [7]) == [14]
    assert model.asked == [[7]]


async def test_two_models_are_never_asked_at_once(scorer):
    """What the champion's and the next champion's requests wait for is kept apart, in the order they came."""
    old, new = Doubler(), Doubler()
    got = await while_busy(scorer, None, [(old, [1]), (old, [2]), (new, [3]), (old, [4])])
    assert got == [[2], [4], [6], [8]]
    assert (old.asked, new.asked) == ([[1, 2], [4]], [[3]])


async def test_many_rows_let_others_in_between(scorer):
    """A batch goes in chunks; a single request that came after it is answered before its end."""
    model, finished = Doubler(), []

    async def ask(name: str, rows: list[int]) -> None:
        assert await scorer.score(model, rows) == [row * 2 for row in rows]
        finished.append(name)

    await asyncio.gather(ask("many", list(range(5 * CHUNK))), ask("one", [1]))
    assert finished == ["one", "many"]
    assert max(len(rows) for rows in model.asked) <= CHUNK


async def test_a_row_that_breaks_the_model_fails_its_own_request_only(scorer):
    """The others are scored again without it."""
    got = await while_busy(scorer, Doubler(), [(None, [1]), (None, ["bad"]), (None, [3])])
    assert got[0::2] == [[2], [6]]
    assert isinstance(got[1], ZeroDivisionError)


async def test_a_lost_store_fails_all_without_asking_again(scorer):
    """Each of them would only wait for it once more."""
    model = Doubler()
    got = await while_busy(scorer, model, [(None, [1]), (None, ["store"])])
    assert [type(one) for one in got] == [StoreUnavailable, StoreUnavailable]
    assert len(model.asked) == 1
    assert await scorer.score(model, [2]) == [4]


async def test_more_than_the_limit_is_told_to_come_back(scorer):
    """Those inside are answered; afterwards there is room again."""
    model = Doubler()
    got = await while_busy(scorer, model, [(None, [number]) for number in range(9)])
    assert got[:7] == [[2 * number] for number in range(7)]
    assert [type(one) for one in got[7:]] == [Overloaded, Overloaded]
    assert await scorer.score(model, [2]) == [4]


async def test_rows_refused_for_a_lost_view_are_counted_with_what_they_miss(scorer):
    """As read, not as predicted; rows that were refused for their as_of tell nothing of a view."""

    class Strict:
        def predict(self, rows: list[str]) -> list[Any]:
            lost, there = FeatureRow(missing=["weather"]), FeatureRow(stale=["place"])
            made = {
                "lost": FeaturesMissing("weather: no row", "weather", lost),
                "there": Prediction({}, there, 0.5),
                "early": AsOfTooEarly(NOON, "weather", NOON),
            }
            return [made[row] for row in rows]

    def counted() -> list[float]:
        weather, place = metrics.MISSING.labels("weather"), metrics.STALE.labels("place")
        return [one._value.get() for one in (metrics.ROWS, metrics.READ, weather, place)]

    before, asked = counted(), ["lost", "there", "early", "lost", "lost"]
    await scorer.score(Strict(), asked)
    await scorer.score(Strict(), asked, counted=False)
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 4, 3, 1]


async def test_who_gave_up_is_not_scored(scorer):
    """A request whose client or time is gone costs nothing more."""
    blocker, model = Doubler(), Doubler()
    blocker.may.clear()
    first = asyncio.create_task(scorer.score(blocker, [0]))
    await asyncio.sleep(0.05)
    gone, stays = (asyncio.create_task(scorer.score(model, [row])) for row in (1, 2))
    await asyncio.sleep(0.05)
    gone.cancel()
    await asyncio.sleep(0)
    blocker.may.set()
    assert (await first, await stays) == ([0], [4])
    assert model.asked == [[2]]
