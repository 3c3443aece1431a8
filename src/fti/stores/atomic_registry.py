"""A Feast registry in one file, safe to kill, to share and to read at any time.

Feast 0.67 writes its registry file in place, so a kill in mid-write destroys it; two writers overwrite each other's
changes without a word; a view is refused to readers while it is materialized, and for good when that job was killed and
the next one failed; and each materialization adds an interval to the file. Here a write replaces the file as a whole;
a writer whose changes are based on an older file is refused, with all of them; a view that was materialized once stays
available; and intervals that meet become one.

An SQL registry on SQLite would be safe to kill as well, but its path depends on the working folder, and it would do the
same about the other three. With it, in production, `serve_features_while_materializing` stands in for the third.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from feast.feature_view import FeatureViewState
from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig

from fti.errors import Refusal
from fti.times import union

BUSY = {FeatureViewState.MATERIALIZING.to_proto(), FeatureViewState.GENERATED.to_proto()}


class RegistryChanged(Refusal):
    """Another process wrote to the registry after this one had read it."""


class AtomicFileRegistryStore(FileRegistryStore):
    """Named as `registry_store_type` in feature_store.yaml; the path is relative to that file's folder."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        super().__init__(registry_config, repo_path)
        self._handed_out: Registry | None = None  # Feast changes it in place until it writes it
        self._read = Registry()  # the same as it was in the file
        # Asked before the file is replaced; whoever opens the registry may set it, and it may refuse (guarded.py).
        self.before_change: Callable[[Registry, Registry], None] | None = None

    def get_registry_proto(self) -> Registry:
        """What the file says. Raises RegistryChanged when that would drop changes that were not written yet.

        Feast reads a file that is new, in mid-apply too, and would then write the rest of its changes only.
        """
        found = super().get_registry_proto()
        if self._handed_out and self._handed_out != self._read and found.version_id != self._read.version_id:
            self._refuse()
        self._remember(found)
        return found

    def _write_registry(self, registry_proto: Registry) -> None:
        """Replace the file, durably. Raises RegistryChanged when it is not the one that was read."""
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            before = super().get_registry_proto() if self._filepath.exists() else None
            if before and before.version_id != self._read.version_id:
                self._refuse()
            for view in (*registry_proto.feature_views, *registry_proto.stream_feature_views):
                _tidy(view.meta)
            if before and _said(before) == _said(registry_proto):
                self._remember(registry_proto)
                return  # readers look at the file's time, and would read it again
            if self.before_change:
                self._ask(before or Registry(), registry_proto)
            registry_proto.version_id = str(uuid.uuid4())
            registry_proto.last_updated.FromDatetime(datetime.now(UTC))
            written = self._filepath.with_name(f"{self._filepath.name}.{os.getpid()}.new")
            try:
                with written.open("wb") as file:
                    file.write(registry_proto.SerializeToString())
                    file.flush()
                    os.fsync(file.fileno())
                written.replace(self._filepath)
            finally:
                written.unlink(missing_ok=True)
            self._remember(registry_proto)

    def _ask(self, before: Registry, after: Registry) -> None:
        """Raises Refusal; the changes are void then."""
        assert self.before_change
        try:
            self.before_change(before, after)
        except Refusal:
            self._handed_out = None
            raise

    def _remember(self, registry_proto: Registry) -> None:
        self._handed_out = registry_proto
        self._read = Registry()
        self._read.CopyFrom(registry_proto)

    def _refuse(self) -> NoReturn:
        self._handed_out = None  # its changes are void, and the next one to ask starts over
        raise RegistryChanged(
            f"Another process changed the Feast registry {self._filepath} after this one had read it. What it wrote is "
            "kept; run this command again."
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, for the moment of a write; the kernel frees the lock of a process that was killed."""
        with self._filepath.with_name(f"{self._filepath.name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _said(registry_proto: Registry) -> bytes:
    """What a registry says, whichever write it comes from and in whichever order its views are."""
    said = Registry()
    said.CopyFrom(registry_proto)
    said.ClearField("version_id")
    said.ClearField("last_updated")
    for views in (said.feature_views, said.stream_feature_views):
        views.sort(key=lambda view: view.spec.name)
    return said.SerializeToString(deterministic=True)


def _tidy(meta: Any) -> None:
    """Merge the intervals of a FeatureViewMeta that meet; with any, the view has values online and stays available."""
    if not meta.materialization_intervals:
        return
    if meta.state in BUSY:
        meta.state = FeatureViewState.AVAILABLE_ONLINE.to_proto()
    intervals = union(
        (interval.start_time.ToDatetime(UTC), interval.end_time.ToDatetime(UTC))
        for interval in meta.materialization_intervals
    )
    del meta.materialization_intervals[:]
    for start, end in intervals:
        interval = meta.materialization_intervals.add()
        interval.start_time.FromDatetime(start)
        interval.end_time.FromDatetime(end)
