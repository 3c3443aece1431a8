"""Keep a Delta table as quick as it was when it was new: many small files become few, what nobody needs goes.

A table, and the versions of it that somebody needs, in; what was done, in files, bytes and log entries, out. Each step
is a transaction of Delta's, or deletes what no reader looks for: it may be killed at any moment, and be run again.

Delta Lake's own cleaning of the log goes by age alone: it would take versions that a registered model was trained on.
So it is switched off (KEEP_LOG). Here a version that is needed gets a checkpoint, which is all it takes to read it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileInfo, FileSelector, FileSystem, PyFileSystem
from upath import UPath

from fti.stores.delta import open_table
from fti.stores.tables import address

KEEP_LOG = {"delta.enableExpiredLogCleanup": "false"}
LOG = "_delta_log"
ENTRY = re.compile(r"(\d{20})\.(json|checkpoint\.parquet)$")
# Commits after the newest checkpoint from which on another one is worth its while.
CHECKPOINT_EVERY = 10


@dataclass(frozen=True)
class Upkeep:
    """What a table has after it was kept up, and what went: data files, their bytes, entries of its log."""

    files_before: int
    files: int
    removed: int
    bytes: int
    log_before: int
    log: int

    @property
    def did_nothing(self) -> bool:
        return not self.removed and self.files == self.files_before and self.log == self.log_before

    def __str__(self) -> str:
        files = f"{self.files_before:,} files, now {self.files:,}"
        gone = f"{self.removed:,} old files of {self.bytes:,} bytes deleted"
        return f"{files}; {gone}; log of {self.log_before:,} entries, now {self.log:,}"


def compact(path: UPath, said: Mapping[str, str]) -> tuple[int, int]:
    """Write the small files of each partition as one; returns how many files there were, and are.

    `said` is what the newest commit says of the table's rows: theirs are the same, so the new one says it too.
    """
    table = open_table(path)
    if any(table.metadata().configuration.get(name) != value for name, value in KEEP_LOG.items()):
        table.alter.set_table_properties(KEEP_LOG, commit_properties=_commit(said))
        table = open_table(path)
    before = len(table.file_uris())
    if before > len(_partitions(table)):
        table.optimize.compact(commit_properties=_commit(said))
    return before, len(open_table(path).file_uris())


def vacuum(path: UPath, keep: Collection[int], unused_for: timedelta, said: Mapping[str, str]) -> tuple[int, int]:
    """Delete files that no version in `keep` has, nor the newest, nor any that was the newest `unused_for` ago.

    Returns how many files, and bytes.
    """
    table = open_table(path)
    readable = [version for version in sorted(keep) if version < table.version() and _is_readable(path, version)]

    def unused(dry_run: bool) -> list[str]:
        # All files that are there, not only those the log knows: a writer that was killed leaves some.
        return table.vacuum(
            retention_hours=int(unused_for / timedelta(hours=1)), dry_run=dry_run, enforce_retention_duration=False,
            full=True, keep_versions=readable, commit_properties=_commit(said),
        )  # fmt: skip

    # Delta names those that are gone as well, for as long as its log does.
    files = [one for one in _files_of(path).get_file_info(unused(dry_run=True)) if one.is_file]
    if files:
        unused(dry_run=False)
    return len(files), sum(one.size for one in files)


def shorten_log(
    path: UPath, keep: Collection[int], since: int, unused_for: timedelta, every: int = CHECKPOINT_EVERY
) -> tuple[int, int]:
    """Delete entries of the log that are before the version `since` and as old as `unused_for`; returns how many there
    were, and are.

    Versions in `keep` stay readable, by a checkpoint each, and so do all from the newest checkpoint on; another one is
    made `every` so many commits.
    """
    entries = _log_of(path)
    table = open_table(path)
    checkpoints = {version for version, kind in entries if kind != "json"}
    if table.version() - max(checkpoints, default=0) >= every:
        table.create_checkpoint()
        checkpoints.add(table.version())
    first = min(since, max(checkpoints, default=0))
    needed = {version for version in keep if version < first and _is_readable(path, version)}
    for version in sorted(needed - checkpoints):
        open_table(path, version).create_checkpoint()
    old = datetime.now(UTC) - unused_for
    files, gone = _files_of(path), 0
    for (version, kind), entry in sorted(entries.items()):
        # In order of age: what is left of a log is whole from its first entry on, whenever this ends.
        if version < first and entry.mtime <= old and not (version in needed and kind != "json"):
            files.delete_file(entry.path)
            gone += 1
    return len(entries), len(_log_of(path)) if gone else len(entries)


def _commit(said: Mapping[str, str]) -> CommitProperties:
    # Without tries: of a writer on another machine nothing is known, and the next run does what this one left.
    return CommitProperties(custom_metadata=dict(said), max_commit_retries=0)


def _partitions(table: DeltaTable) -> set[tuple[object, ...]]:
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = [actions.column(f"partition.{name}").to_pylist() for name in table.metadata().partition_columns]
    return set(zip(*columns, strict=True)) if columns else {()}


def _is_readable(path: UPath, version: int) -> bool:
    try:
        DeltaTable(address(path), version=version)
    except DeltaError:
        return False
    return True


def _files_of(path: UPath) -> FileSystem:
    return PyFileSystem(DeltaStorageHandler(address(path)))


def _log_of(path: UPath) -> dict[tuple[int, str], FileInfo]:
    """The entries of a table's log by version and kind, `json` or `checkpoint.parquet`."""
    found = _files_of(path).get_file_info(FileSelector(LOG))
    named = [(ENTRY.match(one.base_name), one) for one in found]
    return {(int(name[1]), name[2]): one for name, one in named if name}
