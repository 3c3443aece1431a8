"""The point-in-time join on Spark and on DuckDB: every labelled flight, once, ten times and as often as one likes.

    python -m tests.benchmarks.spark [--repo REPO] [--years 1 10]

More rows are copies of the year, each 400 days after the last, as in `offline`. Either store reads entity rows from a
Parquet file and writes them with the stored features of a service to another; on-demand features are the same code for
both and not measured. Seconds are those of that alone, without Spark's start; core-seconds are what all its processes
took of the processor, which on a busy machine says more. Spark has two threads. Both have to write the same rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import requests

from fti.contract.feature_service import read_interface
from tests.benchmarks import offline
from tests.benchmarks.journey import PeakMemory
from tests.benchmarks.results import Result, table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CONF = {
    "spark.master": "local[2]",
    "spark.driver.memory": "6g",
    "spark.sql.shuffle.partitions": "16",
    "spark.ui.enabled": "true",  # it says how much was shuffled
}


@dataclass(frozen=True)
class Run:
    """One join in a process of its own. `digest` is the same for the same rows in any order."""

    seconds: float
    core_seconds: float
    peak_gb: float
    rows: int
    digest: str
    shuffled_gb: float = 0
    spilled_gb: float = 0


def measure(repo: Path = offline.REPO, years: Sequence[int] = (1, 10)) -> list[Result]:
    """Measure all: one year takes nine minutes on two busy cores; ten were not tried there.

    `repo`: a Feast repository, applied, with the tables of the whole year in `data/` beside it.
    Raises ValueError when answers differ, CalledProcessError when a join fails.
    """
    found: list[Result] = []
    first = None
    for count in years:
        with tempfile.TemporaryDirectory() as name:
            _command("prepare", name, "--repo", str(repo), "--years", str(count))
            spark, duckdb = _run("spark", Path(name), repo), _run("asof", Path(name), repo)
        if spark.digest != duckdb.digest:
            raise ValueError(f"Spark and DuckDB give different rows of {count} year(s).")
        first = first or spark
        found += _results(spark, duckdb, first)
    return found


def _results(spark: Run, duckdb: Run, first: Run) -> list[Result]:
    name = f"spark: point-in-time join, {spark.rows:,} rows"

    def beside_duckdb(what: str, ours: float, theirs: float, unit: str) -> Result:
        return Result(name + what, ours, unit, f"DuckDB, {theirs:.1f} {unit}", ours / theirs)

    results = [
        beside_duckdb("", spark.seconds, duckdb.seconds, "s"),
        beside_duckdb(", of the processor", spark.core_seconds, duckdb.core_seconds, "core-s"),
        beside_duckdb(", memory", spark.peak_gb, duckdb.peak_gb, "GB"),
        Result(f"{name}, shuffled a row", spark.shuffled_gb / spark.rows * 1e9, "bytes"),
        Result(f"{name}, spilled to disk", spark.spilled_gb, "GB"),
    ]
    if spark is not first:
        times, growth = spark.rows / first.rows, spark.core_seconds / first.core_seconds
        results.append(
            Result(
                f"{name}, beside {first.rows:,}", spark.core_seconds, "core-s", f"{first.core_seconds:.1f} core-s",
                growth, f"<= {1.2 * times:.0f} times", growth <= 1.2 * times,
            )
        )  # fmt: skip
    return results


def _run(kind: str, folder: Path, repo: Path) -> Run:
    output, peak_gb = _command("join", str(folder), "--kind", kind, "--repo", str(repo))
    return Run(**json.loads(output.splitlines()[-1]), peak_gb=peak_gb)


def _command(*arguments: str) -> tuple[str, float]:
    """Run a command of this module in a new process: its output, and the peak of memory, children included, in GB."""
    command = [sys.executable, "-m", "tests.benchmarks.spark", *arguments]
    process = subprocess.Popen(command, cwd=offline.ROOT, stdout=subprocess.PIPE, text=True)
    memory = PeakMemory(process.pid)
    memory.start()
    output, _ = process.communicate()
    peak_gb = memory.stop()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return output, peak_gb


def join(kind: str, repo: Path, folder: Path) -> dict[str, float | str]:
    """From `entities.parquet` to `joined.parquet`, once: what a Run holds but for its memory."""
    import pandas as pd
    import pyarrow.parquet as pq
    from feast import FeatureStore

    from fti.stores.delta import connect

    registered = FeatureStore(repo_path=str(repo))
    interface = read_interface(registered, offline.SERVICE)
    features = [f"{view.name}:{name}" for view in interface.stored_views for name in view.features]
    entities, joined = folder / "copies" / "entities.parquet", folder / "joined.parquet"
    if kind == "spark":
        from fti.stores.spark_session import open_session

        store = offline.store_over(folder / "copies", registered, interface, kind, spark_conf=CONF)
        spark = open_session(CONF)
        began, busy = time.perf_counter(), _core_seconds()
        job = store.get_historical_features(spark.read.parquet(str(entities)), features)
        job.to_spark_df().write.parquet(str(joined))
    else:
        store = offline.store_over(folder / "copies", registered, interface, kind)
        began, busy = time.perf_counter(), _core_seconds()
        job = store.get_historical_features(pd.read_parquet(entities), features)
        pq.write_table(job.to_arrow(), joined)
    measured = {"seconds": time.perf_counter() - began, "core_seconds": _core_seconds() - busy}
    moved = _moved(spark) if kind == "spark" else {}
    written = f"read_parquet('{joined}{'/*.parquet' if joined.is_dir() else ''}')"
    ((count, digest),) = connect().execute(f"SELECT count(*), bit_xor(hash(t))::VARCHAR FROM {written} t").fetchall()
    shutil.rmtree(joined) if joined.is_dir() else joined.unlink()
    return measured | moved | {"rows": count, "digest": digest}


def _core_seconds() -> float:
    """What this process and its children have taken of the processor so far."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [me, *me.children(recursive=True)])


def _moved(spark: SparkSession) -> dict[str, float]:
    """What Spark has written for its shuffles so far, and what did not fit into memory and went through the disk."""
    context = spark.sparkContext
    stages = requests.get(f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages", timeout=60).json()
    return {
        "shuffled_gb": sum(stage["shuffleWriteBytes"] for stage in stages) / 1e9,
        "spilled_gb": sum(stage["diskBytesSpilled"] for stage in stages) / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.spark", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("step", nargs="?", choices=["prepare", "join"], help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=["asof", "spark"], help=argparse.SUPPRESS)
    parser.add_argument(
        "--repo", type=Path, default=offline.REPO, help="Feast repository; tables lie in data/ beside it"
    )
    parser.add_argument("--years", type=int, nargs="+", default=[1, 10], help="how many copies of the year")
    options = parser.parse_args()
    repo = options.repo.resolve()
    if options.step == "prepare":
        offline.prepare(repo, options.folder, options.years[0])
    elif options.step == "join":
        sys.stdout.write(json.dumps(join(options.kind, repo, options.folder)) + "\n")
    else:
        sys.stdout.write(table(measure(repo, options.years)) + "\n")


if __name__ == "__main__":
    main()
