"""A second model version that scores a share of the requests after they were answered: logged, never answered."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import datetime

from fti.contract.predictions import SHADOW
from fti.scoring.features import RowRefused, StoreUnavailable
from fti.scoring.schemas import RequestInvalid
from fti.scoring.served_model import ServedModel
from fti.serving import metrics
from fti.serving.model.predictor import NoModel, Predictor
from fti.serving.model.scorer import Overloaded, Scorer
from fti.serving.prediction_log import PredictionLog, log_entry

logger = logging.getLogger("bentoml.serving")


class Shadow:
    """Scores one request at a time: under load it misses some, and delays the others by one row at most."""

    def __init__(self, predictor: Predictor, scorer: Scorer, log: PredictionLog | None, share: float) -> None:
        self._predictor, self._scorer, self._log, self._share = predictor, scorer, log, share
        self._task: asyncio.Task[None] | None = None

    def offer(self, champion: ServedModel, body: bytes, request_id: str, now: datetime) -> None:
        """Take a request that `champion` has answered, if chance wants it."""
        if random.random() >= self._share:  # noqa: S311 - a sample
            return
        if self._task is not None and not self._task.done():
            metrics.SHADOWED.labels("busy").inc()
            return
        self._task = asyncio.create_task(self._score(champion, body, request_id, now))

    async def _score(self, champion: ServedModel, body: bytes, request_id: str, now: datetime) -> None:
        began = time.perf_counter()
        try:
            served = self._predictor.served
            if served.version == champion.version:
                return
            # Read anew: another version may take other fields.
            asked, _ = served.parse(body, now)
            (outcome,) = await self._scorer.score(served, [asked], counted=False)
        except (NoModel, Overloaded, RequestInvalid, StoreUnavailable):
            metrics.SHADOWED.labels("refused").inc()
        except Exception:
            logger.exception("the shadow model failed")
            metrics.SHADOWED.labels("failed").inc()
        else:
            if isinstance(outcome, RowRefused):
                metrics.SHADOWED.labels("refused").inc()
                return
            metrics.SHADOWED.labels("scored").inc()
            if self._log:
                latency_ms = (time.perf_counter() - began) * 1000
                self._log.put([log_entry(served, outcome, request_id, 0, SHADOW, now, latency_ms)])
