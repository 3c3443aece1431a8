"""The project's online store, on a disk that is slow when a test wants it so: a file beside it says for how long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from feast import RepoConfig

from fti.stores.wal_sqlite import WalSqliteOnlineStore, WalSqliteOnlineStoreConfig


class SlowWalSqliteOnlineStoreConfig(WalSqliteOnlineStoreConfig):
    type: Literal["tests.slow_store.SlowWalSqliteOnlineStore"] = "tests.slow_store.SlowWalSqliteOnlineStore"


class SlowWalSqliteOnlineStore(WalSqliteOnlineStore):
    """Each read waits first for the seconds in the file `slow` in the folder of feature_store.yaml, if it is there."""

    def _read(self, config: RepoConfig, reads: Any) -> Any:
        slow = Path(str(config.repo_path)) / "slow"
        if slow.exists():
            time.sleep(float(slow.read_text()))
        return super()._read(config, reads)
