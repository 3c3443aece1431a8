"""The service under half of what it can do, for long: whether its memory grows, and its answers stay as quick.

    python -m tests.benchmarks.soak [--minutes 10]

The first fifth of the time fills caches and does not count.
"""

from __future__ import annotations

import argparse
import threading
import time

import numpy as np
import psutil

from tests.benchmarks.inference import next_flights
from tests.benchmarks.load import closed_loop, open_loop, posts
from tests.benchmarks.results import Result, table
from tests.benchmarks.servers import Cores, on_cores, prediction_service

SAMPLE_SECONDS = 10.0


class Memory(threading.Thread):
    """Samples the resident set of a process until it is stopped: minutes since the beginning, and MB."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._done = threading.Event()
        self.samples: list[tuple[float, float]] = []

    def run(self) -> None:
        began = time.monotonic()
        while not self._done.wait(SAMPLE_SECONDS):
            self.samples.append(((time.monotonic() - began) / 60, self._process.memory_info().rss / 1e6))

    def stop(self) -> np.ndarray:
        self._done.set()
        self.join()
        return np.array(self.samples)


def measure(minutes: float = 10.0) -> list[Result]:
    cores = Cores.here()
    with on_cores(cores.load), prediction_service(cores.server) as server:
        target = posts(server.port, "/predict", next_flights(server.port))
        best = closed_loop(target, 16, 5.0).rate
        memory = Memory(server.worker)
        memory.start()
        load = open_loop(target, best / 2, 64, minutes * 60)
        at, used = memory.stop().T
    counted = at >= minutes / 5
    growth, slope = used[counted][-1] - used[counted][0], np.polyfit(at[counted], used[counted], 1)[0]
    name, span = f"soak: {minutes:g} min at {load.rate:.0f} req/s", f"from minute {minutes / 5:g} on"
    return [
        Result(f"{name}, memory grown {span}", float(growth), "MB", f"at first, {used[counted][0]:.0f} MB"),
        Result(f"{name}, memory a minute {span}, least squares", float(slope), "MB/min"),
        Result(f"{name}, p50", load.p50, "ms"),
        Result(f"{name}, p99", load.p99, "ms", f"its p50, {load.p50:.2f} ms", load.p99 / load.p50),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="tests.benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (%(default)s)")
    print(table(measure(parser.parse_args().minutes)))
