"""Measure the project on this machine: a table is printed, and the numbers are written as JSON.

    python -m tests.benchmarks [PART ...] [--json FILE]

The parts are journey, features, offline, online, models, inference, loop, soak, upkeep, years, production and spark.

Each number names what it is compared with, measured in the same run, and its target. Nothing here is a test: a machine
that is busy misses targets. Without names, all parts but the last five are measured; the numbers of the others stay in
the file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import psutil

from tests.benchmarks.results import table

PARTS = ("journey", "features", "offline", "online", "models", "inference", "loop")
BY_NAME_ONLY = ("soak", "upkeep", "years", "production", "spark")  # what takes long, or needs other servers
READ_FEATURES = {"offline", "online", "models", "production", "spark"}
NEED_MODELS = {"inference", "loop", "soak", "production"}
ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "data" / "feast" / "registry.db"
MODELS = ROOT / "mlflow.db"
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
    every = (*PARTS, *BY_NAME_ONLY)
    parser.add_argument("parts", nargs="*", choices=[[], *every], metavar="part", help=f"some of {', '.join(every)}")
    parser.add_argument("--json", type=Path, default=LATEST, help="where to write the numbers (%(default)s)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # Feast's, of its experimental features
    about = machine()
    print(about)
    parts = options.parts or PARTS
    if READ_FEATURES & set(parts) and not REGISTRY.exists():
        subprocess.run([sys.executable, "-m", "fti.features.run", "all"], cwd=ROOT, check=True)
    if NEED_MODELS & set(parts) and not (MODELS.exists() or "MLFLOW_TRACKING_URI" in os.environ):
        subprocess.run(["make", "pipeline"], cwd=ROOT, check=True)
    options.json.parent.mkdir(exist_ok=True)
    found = json.loads(options.json.read_text()) if options.json.exists() else []
    for part in parts:
        results = importlib.import_module(f"tests.benchmarks.{part}").measure()
        print(f"\n{table(results)}", flush=True)
        found = [known for known in found if not known["name"].startswith(f"{part}:")]
        found += [asdict(result) | {"machine": about} for result in results]
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
