"""The steps that Feast does: register the definitions, and copy the newest rows to the online store.

Feast is imported when a step runs: that takes seconds, and the other steps do without it.
"""

from __future__ import annotations

import linecache
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.errors import Refusal
from fti.features import removals
from fti.features.lock import one_writer
from fti.logs import quiet_output
from fti.steps import step
from fti.stores.repository import open_repository, require_current
from fti.stores.tables import data_of

if TYPE_CHECKING:
    from feast import FeatureStore

logger = logging.getLogger("features")


class FeastFailed(Refusal):
    """Feast could not apply the definitions, or not materialize them."""


class CannotRewind(Refusal):
    """The online store has no way back to an earlier moment."""


def apply(repo: Path) -> None:
    """`feast -c REPO apply`, in this process, of definitions that the guard has let pass. Raises FeastFailed.

    Feast's look at the sources is skipped: it would only warn, and ask the network where an s3:// address is.
    """
    from feast.cli.cli import cli

    from fti.stores.guarded import approved

    require_current(repo)
    with (
        approved(),
        one_writer(data_of(repo) / "feast", "apply"),
        step("feast apply"),
        feast_errors("feast apply", repo),
        imports_of(repo),
        quiet_output(),
    ):
        cli.main(["--chdir", str(repo), "apply", "--skip-source-validation"], standalone_mode=False)


def materialize(repo: Path, start: datetime, end: datetime, rewind: bool = False) -> None:
    """Copy the newest row of each key, as of `end`, to the online store.

    A newer row that is online already stays; with `rewind` it goes, and the store is as it was at `end`. A row that a
    correction removed from its feature table is replaced by the key's newest row.
    Raises FeastFailed, CannotRewind, CannotReplace, and FieldMistyped when a value would be another one online.
    """
    from fti.contract.declared_types import require_fitting

    with (
        one_writer(data_of(repo) / "feast", "materialize"),
        step("feast materialize") as report,
        feast_errors("feast materialize", repo),
    ):
        store = open_repository(repo)
        views = store.list_feature_views()
        if not views:
            raise LookupError("no feature view is applied; `fti apply` first")
        require_fitting(store, [view for view in views if view.online])
        if rewind:
            report.update(forgotten=_forget_after(store, end))
        elif ahead := [view.name for view in views if view.most_recent_end_time and view.most_recent_end_time > end]:
            logger.warning("%d view(s) were materialized as of a later moment; newer rows stay (--rewind)", len(ahead))
        with quiet_output():
            store.materialize(start_date=start, end_date=end)
        if replaced := removals.replace_online(store, [view for view in views if view.online], end):
            report.update(replaced=replaced)
        report.update(start=start.isoformat(), end=end.isoformat())


def _forget_after(store: FeatureStore, moment: datetime) -> int:
    online_store = store._get_provider().online_store
    if not hasattr(online_store, "forget_after"):
        raise CannotRewind(
            f"The online store {type(online_store).__name__} cannot go back to {moment.isoformat()}. Empty it, or let "
            "online_store in feature_store.yaml name fti.stores.wal_sqlite.WalSqliteOnlineStore."
        )
    online = [view for view in store.list_feature_views() if view.online]
    return online_store.forget_after(store.config, online, moment)


@contextmanager
def imports_of(repo: Path) -> Iterator[None]:
    """Import the definitions afresh, and leave no trace: whoever applies them next imports them again."""
    from feast.repo_operations import get_repo_files

    names = {".".join(file.relative_to(repo.resolve()).with_suffix("").parts) for file in get_repo_files(repo)}

    def forget() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in names if name in sys.modules}

    before = forget()
    linecache.checkcache()  # from which Feast takes the text of on-demand code, whatever its file says by now
    sys.path.insert(0, str(repo))
    try:
        with chdir(repo):
            yield
    finally:
        sys.path.remove(str(repo))
        forget()
        sys.modules.update(before)


@contextmanager
def feast_errors(command: str, repo: Path) -> Iterator[None]:
    """Turn whatever Feast, or a definition that it imports, raises into FeastFailed, naming the definition's line."""
    try:
        yield
    except Refusal:
        raise
    except (Exception, SystemExit) as error:
        places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):  # its file never ran, so it is in no frame
            places.append((str(error.filename), error.lineno))
        mine = [f"{file}, line {line}" for file, line in places if Path(file).resolve().parent == repo]
        mend = "Mend that and run the same command again."
        if not mine:
            made = data_of(repo) / "feast"
            mend += f" Are files in {made} damaged? Delete them, apply, and materialize: no data are lost."
        where = mine[-1] if mine else repo
        raise FeastFailed(f"`{command}` failed in {where} ({type(error).__name__}: {error}). {mend}") from error
