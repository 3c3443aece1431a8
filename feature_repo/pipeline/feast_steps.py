"""The steps that Feast does: register the definitions, and copy the newest rows to the online store.

Feast is imported when a step runs: that takes seconds, and the other steps do without it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from validation.errors import Refusal
from validation.steps import step


class FeastFailed(Refusal):
    """Feast could not apply the definitions, or not materialize them."""


def apply(repo: Path) -> None:
    """`feast -c REPO apply`, in this process. Raises FeastFailed."""
    from feast.cli.cli import cli

    (repo.parent / "data" / "feast").mkdir(parents=True, exist_ok=True)
    with step("feast apply"), feast_errors("feast apply", repo):
        cli.main(["--chdir", str(repo), "apply"], standalone_mode=False)


def materialize(repo: Path, start: datetime, end: datetime) -> None:
    """Copy the newest row of each key, as of `end`, to the online store. Raises FeastFailed."""
    from feast import FeatureStore

    with step("feast materialize") as report, feast_errors("feast materialize", repo):
        store = FeatureStore(repo_path=str(repo))
        if not store.list_feature_views():
            raise LookupError("no feature view is applied; `python -m feature_repo.pipeline.run apply` first")
        store.materialize(start_date=start, end_date=end)
        report.update(start=start.isoformat(), end=end.isoformat())


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
            made = repo.parent / "data" / "feast"
            mend += f" Are files in {made} damaged? Delete them, apply, and materialize: no data are lost."
        where = mine[-1] if mine else repo
        raise FeastFailed(f"`{command}` failed in {where} ({type(error).__name__}: {error}). {mend}") from error
