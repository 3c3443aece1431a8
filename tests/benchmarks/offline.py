"""How long a training set takes: every labelled flight of the year with all features of a service, on-demand included.

    python -m tests.benchmarks.offline [--repo REPO] [--repeat N]

Our offline store is compared with Feast's own duckdb store and with ASOF joins written by hand, over the same rows as
Parquet, and with itself over ten times the rows: copies of the year, each 400 days after the last. Seconds are those of
one retrieval from entity dataframe to training dataframe; memory is the peak of a process that does nothing else, the
imports and the entity dataframe included. Every retrieval of the year has to give the same features.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from fti.contract.feature_service import read_interface
from tests.benchmarks.journey import PeakMemory
from tests.benchmarks.results import Result, table

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    from feast import FeatureStore

    from fti.contract.interface import FeatureInterface

ROOT = Path(__file__).resolve().parents[2]
REPO = ROOT / "feature_repo"
SERVICE = "arrival_delay_v2"
START, END = datetime(2012, 12, 1, tzinfo=UTC), datetime(2014, 1, 3, tzinfo=UTC)
COPIES, COPY_DAYS = 10, 400  # longer than START to END: copies do not overlap
STORES = {
    "asof": {"type": "fti.stores.asof_duckdb.AsofDuckDBOfflineStore"},
    "spark": {"type": "fti.stores.asof_spark.AsofSparkOfflineStore"},
    "stock": {"type": "duckdb"},
}


@dataclass(frozen=True)
class Run:
    """One retrieval in a process of its own. `digest` is the same for the same features in any order of rows."""

    seconds: float
    peak_gb: float
    rows: int
    digest: int


def measure(repo: Path = REPO, repeat: int = 3) -> list[Result]:
    """Measure all: some five minutes, 12 GB of memory (the stock store's) and 1 GB of disk.

    `repo`: a Feast repository, applied, with the tables of the whole year in `data/` beside it.
    Raises ValueError when answers differ, CalledProcessError when a retrieval fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _command("prepare", str(folder), "--repo", str(repo))
        year, copies = folder / "year", folder / "copies"
        # In turns: what else the machine does then slows both alike.
        turns = [(_run("asof", year, repo), _run("sql", year, repo)) for _ in range(repeat)]
        ours, by_hand = zip(*turns, strict=True)
        stock = _run("stock", year, repo)
        tenfold = _run("asof", copies, repo)
    if len(answers := {run.digest for run in (*ours, *by_hand, stock)}) > 1:
        raise ValueError(f"The stores give {len(answers)} different training sets of the same rows.")
    seconds, sql_seconds = median(run.seconds for run in ours), median(run.seconds for run in by_hand)
    peak = max(run.peak_gb for run in ours)
    rows = ours[0].rows
    faster, slower, growth = stock.seconds / seconds, seconds / sql_seconds, tenfold.seconds / seconds
    set_of = f"offline: training set, {rows:,} rows"
    return [
        Result(set_of, seconds, "s", f"stock store, {stock.seconds:.1f} s", faster, ">= 10 times faster", faster >= 10),
        Result(set_of, seconds, "s", f"SQL by hand, {sql_seconds:.1f} s", slower, "<= 2 times its time", slower <= 2),
        Result(f"{set_of}, memory", peak, "GB", target="< 2 GB", met=peak < 2),
        Result(f"{set_of}, memory of the stock store", stock.peak_gb, "GB"),
        Result(f"{set_of}, memory of SQL by hand", max(run.peak_gb for run in by_hand), "GB"),
        Result(
            f"offline: training set, {tenfold.rows:,} rows", tenfold.seconds, "s", f"{rows:,} rows, {seconds:.1f} s",
            growth, "<= 12 times the time", growth <= 12,
        ),
        Result(f"offline: training set, {tenfold.rows:,} rows, memory", tenfold.peak_gb, "GB"),
    ]  # fmt: skip


def _run(kind: str, folder: Path, repo: Path) -> Run:
    output, peak_gb = _command("retrieve", str(folder), "--kind", kind, "--repo", str(repo))
    return Run(**json.loads(output.splitlines()[-1]), peak_gb=peak_gb)


def _command(*arguments: str) -> tuple[str, float]:
    """Run a command of this module in a new process: its output, and its peak of memory in GB."""
    command = [sys.executable, "-m", "tests.benchmarks.offline", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    memory = PeakMemory(process.pid)
    memory.start()
    output, _ = process.communicate()
    peak_gb = memory.stop()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return output, peak_gb


def prepare(repo: Path, folder: Path, copies_wanted: int = COPIES) -> None:
    """Write `year`, entity rows and Parquet files, and `copies`, entity rows and Delta tables of so many years."""
    from deltalake import write_deltalake
    from feast import FeatureStore

    from fti.stores.delta import connect, create_view, literal
    from fti.training.dataset import labelled_rows

    store = FeatureStore(repo_path=str(repo))
    interface = read_interface(store, SERVICE)
    year, copies = folder / "year", folder / "copies"
    for made in (year, copies):
        made.mkdir()
    con = connect()
    for view in interface.stored_views:
        create_view(con, view.name, _delta_tables(repo) / view.name)
        con.execute(f"COPY {view.name} TO {literal(str(year / view.name) + '.parquet')}")
        for number in range(copies_wanted):
            write_deltalake(copies / view.name, con.sql(_copy(con, view.name, number)).to_arrow_table(), mode="append")
    labelled = labelled_rows(store, interface, START, END)
    rows = labelled.frame.drop(columns=_features(interface)).sort_values(labelled.row_key)
    rows.to_parquet(year / "entities.parquet", index=False)
    con.register("entities", rows)
    every_copy = " UNION ALL ".join(_copy(con, "entities", number) for number in range(copies_wanted))
    con.execute(f"COPY ({every_copy}) TO {literal(str(copies / 'entities.parquet'))}")


def _copy(con: duckdb.DuckDBPyConnection, name: str, number: int) -> str:
    """SQL for the rows of a table, all their moments as many times 400 days later; a key may be a moment, in hours."""
    days = number * COPY_DAYS
    later = {"TIMESTAMP WITH TIME ZONE": f"to_days({days})", "departure_hour": str(24 * days)}
    columns = [
        f"{column} + {later[what]} AS {column}" if (what := kind if kind in later else column) in later else column
        for column, kind, *_ in con.execute(f"DESCRIBE {name}").fetchall()
    ]
    return f"SELECT {', '.join(columns)} FROM {name}"


def retrieve(kind: str, repo: Path, folder: Path) -> dict[str, float]:
    """Get the features of `entities.parquet` once: seconds, rows, and a digest of all features."""
    import pandas as pd
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo))
    interface = read_interface(store, SERVICE)
    entities = pd.read_parquet(folder / "entities.parquet")
    by_hand = kind == "sql"
    get = _by_hand(store, interface, folder) if by_hand else _by_feast(store_over(folder, store, interface, kind))
    began = time.perf_counter()
    frame = get(entities)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "rows": len(frame), "digest": _digest(frame, _features(interface))}


def store_over(
    folder: Path, registered: FeatureStore, interface: FeatureInterface, kind: str, **settings: Any
) -> FeatureStore:
    """Feast with the definitions of `registered`, but the tables of `folder` and the offline store `kind`."""
    from feast import FeatureStore, FileSource, RepoConfig
    from feast.data_format import DeltaFormat, ParquetFormat

    made = Path(tempfile.mkdtemp(dir=folder))
    config = RepoConfig(
        project=registered.project,
        provider="local",
        registry=str(made / "registry.db"),
        offline_store=STORES[kind] | settings,
        online_store={"type": "sqlite", "path": str(made / "online.db")},
        repo_path=made,
        entity_key_serialization_version=3,
    )
    delta_tables = folder if folder.name == "copies" else _delta_tables(Path(registered.repo_path))
    views = [registered.get_feature_view(view.name) for view in interface.stored_views]
    for view in views:
        source = view.batch_source
        assert source is not None, f"{view.name} has no table"
        view.batch_source = FileSource(
            name=source.name,
            path=str(folder / f"{view.name}.parquet" if kind == "stock" else delta_tables / view.name),
            file_format=ParquetFormat() if kind == "stock" else DeltaFormat(),
            timestamp_field=source.timestamp_field,
            created_timestamp_column=source.created_timestamp_column,
        )
    from fti.stores.guarded import approved

    store = FeatureStore(config=config)
    on_demand = [registered.get_on_demand_feature_view(view.name) for view in interface.on_demand_views]
    with approved():  # the registry that they are of has let them pass; these views alone have no spine
        store.apply([*registered.list_entities(), *views, *on_demand, registered.get_feature_service(SERVICE)])
    return store


def _by_feast(store: FeatureStore) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda entities: store.get_historical_features(entities, store.get_feature_service(SERVICE)).to_df()


def _by_hand(store: FeatureStore, interface: FeatureInterface, folder: Path) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """What one would write without a feature store, knowing that no table has two rows of a key and event timestamp."""
    import pyarrow as pa

    from fti.stores.delta import connect

    columns, joins = ["e.*"], []
    for view in interface.stored_views:
        fresh = f"e.event_timestamp <= {view.name}.event_timestamp + to_seconds({view.ttl_seconds})"
        columns += [
            f"CASE WHEN {fresh} THEN {name} END AS {name}" if view.ttl_seconds else name for name in view.features
        ]
        on = [f"e.{key} = {view.name}.{key}" for key in view.join_keys]
        on.append(f"e.event_timestamp >= {view.name}.event_timestamp")
        joins.append(f"ASOF LEFT JOIN '{folder / view.name}.parquet' {view.name} ON {' AND '.join(on)}")
    query = f"SELECT {', '.join(columns)} FROM entities e {' '.join(joins)}"
    on_demand = [(view, store.get_on_demand_feature_view(view.name)) for view in interface.on_demand_views]

    def get(entities: pd.DataFrame) -> pd.DataFrame:
        con = connect()
        con.register("entities", entities)
        joined = con.sql(query).to_arrow_table()
        for view, registered in on_demand:
            assert registered.feature_transformation is not None, f"{view.name} has no code"
            inputs = {
                name: joined[name].to_pandas(timestamp_as_object=True).tolist()
                if pa.types.is_timestamp(joined[name].type)
                else joined[name].to_pylist()
                for name in view.inputs
            }
            outputs = registered.feature_transformation.udf(inputs)
            for name in view.features:
                joined = joined.append_column(name, pa.array(outputs[name]))
        return joined.to_pandas()

    return get


def _delta_tables(repo: Path) -> Path:
    return repo.parent / "data" / "features"


def _features(interface: FeatureInterface) -> list[str]:
    """Every stored and on-demand feature of the service, all of them numbers."""
    stored = [name for view in interface.stored_views for name in view.features]
    return stored + [name for view in interface.on_demand_views for name in view.features]


def _digest(frame: pd.DataFrame, features: list[str]) -> int:
    """A sum over all cells that depends on which row a value is in, but not on the order of rows."""
    import numpy as np
    import pandas as pd

    rows = pd.util.hash_array(frame["flight_id"].to_numpy(object))
    total = 0
    for feature in features:
        values = frame[feature].to_numpy("float64", na_value=np.nan)
        total += int((rows * pd.util.hash_array(np.where(np.isnan(values), -1e9, values))).sum())
    return total


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.offline", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("step", nargs="?", choices=["prepare", "retrieve"], help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=["asof", "stock", "sql"], help=argparse.SUPPRESS)
    parser.add_argument("--repo", type=Path, default=REPO, help="Feast repository; tables lie in data/ beside it")
    parser.add_argument("--repeat", type=int, default=3, help="the median of so many counts, of the quick ones")
    options = parser.parse_args()
    repo = options.repo.resolve()
    if options.step == "prepare":
        prepare(repo, options.folder)
    elif options.step == "retrieve":
        sys.stdout.write(json.dumps(retrieve(options.kind, repo, options.folder)) + "\n")
    else:
        sys.stdout.write(table(measure(repo, options.repeat)) + "\n")


if __name__ == "__main__":
    main()
