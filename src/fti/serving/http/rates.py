"""How often a client may ask: a bucket of tokens for each, which fills again with time."""

from __future__ import annotations

import math
import time


class TooOften(RuntimeError):
    """A client has asked more often than it may. `seconds` says when it may ask again."""

    def __init__(self, per_minute: int, seconds: int) -> None:
        super().__init__(f"This key may ask {per_minute} times a minute; ask again in {seconds} s.")
        self.seconds = seconds


class Rates:
    """`per_minute` requests at once or spread over a minute, of each client; without a number, any."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._left: dict[str, tuple[float, float]] = {}  # by client, its tokens and when that was

    def count(self, client: str) -> None:
        """Take a client's token. Raises TooOften."""
        if self._per_minute is None:
            return
        now, per_second = time.monotonic(), self._per_minute / 60
        left, then = self._left.get(client, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - then) * per_second)
        if left < 1:
            raise TooOften(self._per_minute, max(1, math.ceil((1 - left) / per_second)))
        self._left[client] = (left - 1, now)
