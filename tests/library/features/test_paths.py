"""Folders with unusual names above the tables: the pipeline answers as in a plain one, or is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from fti.features import run
from fti.features.definitions import copy_definitions
from fti.features.pipeline import FeaturePipeline
from fti.stores.delta import connect, create_parquet_view, create_view
from tests.small_repo import JULY, ROOT, arguments, assert_same, build, frames, succeed

AS_OF = "2013-07-02T12:00"
FLIGHT = {
    "origin": "JFK", "dest": "BOS", "carrier": "B6", "flight_number": 7, "tailnum": "N1AB",
    "scheduled_departure": pd.Timestamp(AS_OF, tz="UTC"),
    "scheduled_arrival": pd.Timestamp("2013-07-02T14:00", tz="UTC"),
    "departure_hour": pd.Timestamp(AS_OF, tz="UTC").value // 3_600_000_000_000,
    "event_timestamp": pd.Timestamp(AS_OF, tz="UTC"),
}  # fmt: skip


def answers(folder: Path) -> list[dict[str, Any]]:
    """The features of one flight, as of then: from the tables, and from the online store."""
    from feast import FeatureStore

    succeed(folder, "apply")
    succeed(folder, "materialize", "--start", JULY[1], "--as-of", AS_OF)
    store = FeatureStore(repo_path=str(folder / "feature_repo"))
    service = store.get_feature_service("arrival_delay_v2")
    (offline,) = store.get_historical_features(pd.DataFrame([FLIGHT]), service).to_df().to_dict("records")
    asked = {key: value for key, value in FLIGHT.items() if key != "event_timestamp"}
    online = {name: values[0] for name, values in store.get_online_features(service, [asked]).to_dict().items()}
    return [offline, online]


@pytest.fixture(scope="module", autouse=True)
def _no_docs() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeaturePipeline, "write_docs", lambda pipeline: pipeline.data / "docs")
        yield


@pytest.fixture(scope="module")
def plain(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = build(tmp_path_factory.mktemp("plain"))
    return frames(folder), answers(folder)


@pytest.mark.parametrize("name", ["origin=LGA", "dest=1 two ü 50%", "why? #1 * {2}", "it's \"so\" & 'so'; <a>"])
def test_the_pipeline_gives_the_same_answers_in_any_folder(plain, tmp_path, name):
    """Tables, point-in-time reads and online reads, whatever the folder's name would mean to a database."""
    (tmp_path / name).mkdir()
    folder = build(tmp_path / name)
    tables, wanted = plain
    assert_same(frames(folder), tables)
    found = answers(folder)
    for ours, theirs in zip(found, wanted, strict=True):
        assert {name: str(value) for name, value in ours.items()} == {name: str(v) for name, v in theirs.items()}


@pytest.mark.parametrize("name", ["a[1]", "a%20b", "a|b", "a^b", "a\\b", "a\nb"])
@pytest.mark.parametrize("command", ["ingest", "publish", "quarantine"])
def test_a_folder_that_no_table_can_be_in_is_refused_in_one_line(tmp_path, capsys, name, command):
    """Delta Lake's library would panic, or write to another folder."""
    copy_definitions(tmp_path / name / "feature_repo")
    assert run.main(arguments(tmp_path / name, command, *(() if command == "quarantine" else JULY))) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error:"))
    assert "No table can be in the folder" in line
    assert "set FTI_TABLES" in line
    assert not list((tmp_path / name).rglob("_delta_log"))


def rows(con: duckdb.DuckDBPyConnection, columns: str) -> list[tuple[Any, ...]]:
    return sorted(con.execute(f"SELECT {columns} FROM v").fetchall(), key=str)


PARTS = ["a b", "x=y/z", "50%", "[1]", None]


def test_partitions_of_a_delta_table_are_what_its_log_says(tmp_path):
    """Text with any letters, numbers and nulls, below a folder that is called like a partition."""
    path = tmp_path / "text=no" / "number=7" / "t"
    table = pa.table({"k": range(5), "text": PARTS, "number": [1, 2, 3, None, 5]})
    write_deltalake(str(path), table, partition_by=["text", "number"])
    con = connect()
    assert create_view(con, "v", path)[0] == ["k", "text", "number"]
    assert rows(con, "k, text, number") == sorted(zip(range(5), PARTS, [1, 2, 3, None, 5], strict=True), key=str)
    assert con.sql("SELECT typeof(number) FROM v LIMIT 1").fetchall() == [("BIGINT",)]


def test_a_column_that_no_file_has_yet_is_null(tmp_path):
    """It was added to the table, and no row was written since."""
    path = tmp_path / "t"
    write_deltalake(str(path), pa.table({"k": [1]}))
    more = pa.schema({"k": pa.int64(), "more": pa.float64()})
    write_deltalake(str(path), more.empty_table(), mode="append", schema_mode="merge")
    con = connect()
    create_view(con, "v", path)
    assert rows(con, "k, more, typeof(more)") == [(1, None, "DOUBLE")]


def test_partitions_of_parquet_files_are_the_folders_below_theirs(tmp_path):
    """Not those above, and with the types that DuckDB tells them: a day, a number, a text."""
    path = tmp_path / "k=9" / "day=no" / "t"
    for number, (day, size) in enumerate([("2013-01-01", 10), ("2013-01-02", 20)]):
        file = path / f"day={day}" / f"size={size}" / f"name=a%20{number}" / "part.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.table({"k": [number]}), file)
    con = connect()
    create_parquet_view(con, "v", path)
    assert rows(con, "k, day::VARCHAR, typeof(day), size, typeof(size), name") == [
        (0, "2013-01-01", "DATE", 10, "BIGINT", "a 0"), (1, "2013-01-02", "DATE", 20, "BIGINT", "a 1"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a?b", "a*b", "a[x]b"])
def test_a_parquet_file_is_itself_and_no_pattern(tmp_path, name):
    """Another file that the name would match as a pattern is not read."""
    for file in (name, "axb"):
        pq.write_table(pa.table({"k": [file]}), tmp_path / file)
    con = connect()
    create_parquet_view(con, "v", tmp_path / name)
    assert rows(con, "k") == [(name,)]


def test_a_name_that_the_locale_cannot_read_is_refused_in_one_line(tmp_path):
    """Without UTF-8 mode the C locale knows ASCII: no table's library takes what Python makes of other names."""
    repo = tmp_path / "clöck" / "feature_repo"
    repo.mkdir(parents=True)
    (repo / "feature_store.yaml").write_text("project: x\n")
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "FTI_PROJECT": str(ROOT)}
    command = [sys.executable, "-m", "fti.features.run", "validate", "--repo", str(repo)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Unset PYTHONUTF8" in done.stderr
    assert done.stderr.count("\n") == 1


def test_make_reads_names_as_utf_8_whatever_the_locale(tmp_path):
    """So that every command of it does, and what that starts."""
    told = ["make", "-s", "-f", str(ROOT / "Makefile"), "--eval", "show: ; @echo $$PYTHONUTF8", "show"]
    done = subprocess.run(told, cwd=tmp_path, env=os.environ | {"PYTHONUTF8": "0"}, capture_output=True, text=True)
    assert done.stdout == "1\n"
