"""Measure the project on this machine: a table is printed, and the numbers are written as JSON.

    python -m tests.benchmarks [journey] [features] [offline] [online] [--json FILE]

Each number names what it is compared with, measured in the same run, and its target. Nothing here is a test: a machine
that is busy misses targets. Without names, all parts are measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import warnings
from dataclasses import asdict
from pathlib import Path

import psutil

from tests.benchmarks.results import Result, table

PARTS = ("journey", "features", "offline", "online")
LATEST = Path(__file__).parent / "results" / "latest.json"


def machine() -> str:
    """The machine, as far as it matters to a number."""
    memory = f"{psutil.virtual_memory().total / 1e9:.0f} GB"
    return f"{_processor()}, {os.cpu_count()} cores, {memory}, Python {platform.python_version()}, {platform.system()}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="part", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, default=LATEST, help="where to write the numbers (%(default)s)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # Feast's, of its experimental features
    about = machine()
    print(about)
    options.json.parent.mkdir(exist_ok=True)
    found: list[Result] = []
    for part in options.parts or PARTS:
        results = importlib.import_module(f"tests.benchmarks.{part}").measure()
        print(f"\n{table(results)}", flush=True)
        found += results
        options.json.write_text(json.dumps([asdict(result) | {"machine": about} for result in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
