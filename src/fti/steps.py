"""A log line when a step starts, and one when it is done: what it reports, how long it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

logger = logging.getLogger("step")
Item = TypeVar("Item")


@contextmanager
def step(name: str) -> Iterator[dict[str, Any]]:
    """Time a step; what its body puts into the dictionary is logged with its name and its seconds."""
    report: dict[str, Any] = {}
    logger.info("%s ...", name)
    began = time.perf_counter()
    yield report
    details = " ".join(f"{key}={value}" for key, value in report.items())
    logger.info("%-38s %s %.2fs", name, details, time.perf_counter() - began)


def progress(items: Collection[Item], unit: str) -> Iterator[Item]:
    """Pass items on, with a bar on stderr where that is a terminal."""
    from tqdm import tqdm  # not above: few commands need it, and whoever has Feast has it

    yield from tqdm(items, unit=unit, disable=None, leave=False)
