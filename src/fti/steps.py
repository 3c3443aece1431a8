"""One log line a step: what it was, what it reports, how long it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("step")


@contextmanager
def step(name: str) -> Iterator[dict[str, Any]]:
    """Time a step; what its body puts into the dictionary is logged with its name and its seconds."""
    report: dict[str, Any] = {}
    began = time.perf_counter()
    yield report
    details = " ".join(f"{key}={value}" for key, value in report.items())
    logger.info("%-38s %s %.2fs", name, details, time.perf_counter() - began)
