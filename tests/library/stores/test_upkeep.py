"""Upkeep of Delta tables: a table of many small commits becomes as short as a new one, and says what it said."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from upath import UPath

from fti.stores.delta import TableCorrupt, connect, create_view, snapshot
from fti.stores.upkeep import KEEP_LOG, LOG, Upkeep, compact, shorten_log, vacuum

COMMITS, MONTHS, KILLS = 300, 3, 6
KEPT = (3, 150)
NONE, WEEK = timedelta(0), timedelta(days=7)
SAYS = {"reflects": "something"}


def rows_of(path: UPath, version: int | None = None) -> pa.Table:
    return DeltaTable(str(path), version=version).to_pyarrow_table().sort_by("id")


def on_disk(path: UPath) -> tuple[int, int]:
    """How many data files there are, and entries of the log."""
    files = [file for file in Path(str(path)).rglob("*") if file.is_file()]
    in_log = [file for file in files if file.parent.name == LOG and file.name[0].isdigit()]
    return len([file for file in files if file.suffix == ".parquet" and file.parent.name != LOG]), len(in_log)


def keep_up(path: UPath, unused: timedelta, since: int = 10**9) -> Upkeep:
    before, files = compact(path, SAYS)
    removed, size = vacuum(path, KEPT, unused, SAYS)
    return Upkeep(before, files, removed, size, *shorten_log(path, KEPT, since, unused))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> UPath:
    """A table of 300 commits of a row each, in three months, of which the last replaces a row."""
    path = UPath(tmp_path_factory.mktemp("tables") / "raw")
    for number in range(COMMITS - 1):
        row = pa.table({"id": [number], "value": [0], "event_month": [f"2013-0{1 + number % MONTHS}"]})
        how = {"configuration": {"delta.enableChangeDataFeed": "true"}} if number == 0 else {}
        write_deltalake(str(path), row, mode="append", partition_by=["event_month"], **how)  # type: ignore[call-overload]
    row = pa.table({"id": [7], "value": [1], "event_month": [f"2013-0{1 + 7 % MONTHS}"]})
    merge = DeltaTable(str(path)).merge(row, "s.id = t.id", source_alias="s", target_alias="t")
    merge.when_matched_update_all().execute()
    return path


@pytest.fixture
def table(written: UPath, tmp_path: Path) -> UPath:
    return UPath(shutil.copytree(str(written), tmp_path / "raw"))


def test_a_table_of_many_commits_becomes_as_short_as_a_new_one(table: UPath) -> None:
    """A file a month, and those of the two versions that are kept, which say what they said; so does the newest."""
    newest, kept = rows_of(table), {version: rows_of(table, version) for version in KEPT}
    assert on_disk(table)[0] >= COMMITS
    done = keep_up(table, NONE)
    assert (done.files_before, done.files) == (COMMITS - 1, MONTHS)
    assert on_disk(table)[0] <= MONTHS + max(KEPT) + 1
    assert done.log == on_disk(table)[1] <= 12
    assert rows_of(table).equals(newest)
    assert {version: rows_of(table, version) for version in KEPT} == kept
    con = connect()
    create_view(con, "kept", table, KEPT[0])
    assert len(con.sql("SELECT * FROM kept").fetchall()) == KEPT[0] + 1
    with pytest.raises(TableCorrupt):
        snapshot(table, 200)


def test_upkeep_that_is_killed_anywhere_loses_nothing_and_is_ended_by_the_next(table: UPath) -> None:
    """Killed six times, each time a sixth later: every version that is kept reads as before, and so does the newest."""
    newest, kept = rows_of(table), {version: rows_of(table, version) for version in KEPT}
    seconds = _seconds_of(UPath(shutil.copytree(str(table), f"{table}-whole")))
    killed = []
    for number in range(KILLS):
        one = UPath(shutil.copytree(str(table), f"{table}-{number}"))
        killed.append(_killed_after(one, seconds * number / KILLS))
        assert rows_of(one).equals(newest)
        assert {version: rows_of(one, version) for version in KEPT} == kept
        done = keep_up(one, NONE)
        assert done.files == MONTHS
        assert on_disk(one)[0] <= MONTHS + max(KEPT) + 1
        assert rows_of(one).equals(newest)
        assert {version: rows_of(one, version) for version in KEPT} == kept
        shutil.rmtree(str(one))
    assert sum(killed) >= KILLS // 2


def _seconds_of(table: UPath) -> float:
    began = time.perf_counter()
    keep_up(table, NONE)
    return time.perf_counter() - began


def _killed_after(path: UPath, seconds: float) -> bool:
    """Keep a table up in a process that is killed so long after it begins; returns whether it was still at it."""
    spawn = multiprocessing.get_context("spawn")
    begun = spawn.Event()
    process = spawn.Process(target=_keep_up_beginning, args=(str(path), begun))
    process.start()
    assert begun.wait(60)
    time.sleep(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _keep_up_beginning(path: str, begun: Any) -> None:
    begun.set()
    keep_up(UPath(path), NONE)


def test_upkeep_again_does_nothing(table: UPath) -> None:
    """No commit, no file, no entry: a table that nobody wrote to stays as it is."""
    keep_up(table, NONE)
    before, version = on_disk(table), DeltaTable(str(table)).version()
    assert keep_up(table, NONE).did_nothing
    assert (on_disk(table), DeltaTable(str(table)).version()) == (before, version)


def test_what_was_replaced_lately_stays(table: UPath) -> None:
    """For a week: whoever reads an older version goes on reading it."""
    before = rows_of(table, 200)
    done = keep_up(table, WEEK)
    assert done.removed == 0
    assert done.log >= done.log_before
    assert rows_of(table, 200).equals(before)


def test_changes_can_be_read_across_upkeep(table: UPath) -> None:
    """From a version on that something reflects: compaction changes no row, and the log stays from there on."""
    reflected = COMMITS - 20

    def changes() -> list[tuple[int, int, str]]:
        feed = pa.table(DeltaTable(str(table)).load_cdf(starting_version=reflected + 1))
        return sorted((row["id"], row["value"], row["_change_type"]) for row in feed.to_pylist())

    before = changes()
    assert [kind for *_, kind in before].count("insert") == 18
    assert (7, 1, "update_postimage") in before
    compact(table, SAYS)
    shorten_log(table, (), reflected, NONE)
    assert changes() == before


def test_the_newest_commit_says_what_the_one_before_said(table: UPath) -> None:
    """Nobody has to look for it in a long history."""
    keep_up(table, NONE)
    assert DeltaTable(str(table)).history(1)[0]["reflects"] == SAYS["reflects"]


def test_delta_does_not_clean_the_log_by_itself(table: UPath) -> None:
    """By age alone it would: a checkpoint of a table that keeps its log for no time leaves all entries."""
    compact(table, SAYS)
    opened = DeltaTable(str(table))
    assert opened.metadata().configuration.items() >= KEEP_LOG.items()
    opened.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    entries = on_disk(table)[1]
    for number in range(105):
        row = pa.table({"id": [1000 + number], "value": [0], "event_month": ["2013-01"]})
        write_deltalake(str(table), row, mode="append")
    assert on_disk(table)[1] > entries + 105
    assert DeltaTable(str(table), version=5).version() == 5
