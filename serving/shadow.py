"""A second model version that scores a share of the requests after they were answered: logged, never answered."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import datetime

from serving import metrics
from serving.features import RowRefused, StoreUnavailable
from serving.model import ServedModel
from serving.predictor import NoModel, Predictor
from serving.schemas import RequestInvalid
from serving.scorer import Overloaded, Scorer

logger = logging.getLogger("bentoml.serving")


class Shadow:
    """Scores one request at a time: under load it misses some, and delays the others by one row at most."""

    def __init__(self, predictor: Predictor, scorer: Scorer, share: float) -> None:
        self._predictor, self._scorer, self._share = predictor, scorer, share
        self._task: asyncio.Task[None] | None = None

    def offer(self, champion: ServedModel, body: bytes, now: datetime) -> None:
        """Take a request that `champion` has answered, if chance wants it."""
        if random.random() >= self._share:  # noqa: S311 - a sample
            return
        if self._task is not None and not self._task.done():
            metrics.SHADOWED.labels("busy").inc()
            return
        self._task = asyncio.create_task(self._score(champion, body, now))

    async def _score(self, champion: ServedModel, body: bytes, now: datetime) -> None:
        try:
            served = self._predictor.served
            if served.version == champion.version:
                return
            # Read anew: another version may take other fields.
            asked, _ = served.parse(body, now)
            (outcome,) = await self._scorer.score(served, [asked])
        except (NoModel, Overloaded, RequestInvalid, StoreUnavailable):
            metrics.SHADOWED.labels("refused").inc()
        except Exception:
            logger.exception("the shadow model failed")
            metrics.SHADOWED.labels("failed").inc()
        else:
            metrics.SHADOWED.labels("refused" if isinstance(outcome, RowRefused) else "scored").inc()
