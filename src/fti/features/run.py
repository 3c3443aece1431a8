"""The feature pipeline's command line: ingest, validate, publish, apply, materialize, or all of them in one process.

    fti features --start 2012-12-01 --end 2014-01-03 --as-of 2013-10-01

Times are UTC; an interval holds its start and not its end. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fti.command import alias, fail
from fti.errors import Refusal
from fti.project import project
from fti.stores.tables import tables_of
from fti.times import utc

if TYPE_CHECKING:
    from fti.features.pipeline import FeaturePipeline


class RepoMissing(Refusal):
    """There is no Feast repository where one is expected."""


@dataclass(frozen=True)
class Options:
    """What one command is told; None where it is not."""

    command: str
    start: datetime | None = None
    end: datetime | None = None
    as_of: datetime | None = None
    rewind: bool = False
    received_at: datetime | None = None
    repo: Path | None = None
    raw: Path | None = None
    accept: tuple[str, ...] = ()
    force: bool = False
    name: str | None = None
    table: str | None = None
    export: Path | None = None
    rows: Path | None = None


def main(argv: list[str] | None = None) -> int:
    return alias("fti.features.run", "fti.features.commands:STEPS", argv)


def execute(options: Options) -> int:
    """Carry out one command; returns the exit code."""
    repo = (options.repo or project().repo).resolve()
    _require_repo(repo)
    tables_of(repo)  # first of all: a folder that no table can be in is refused before anything is read
    source = project().source
    interval = options.start or utc(source.START), options.end or utc(source.END)
    _require_moments(repo, options, interval)
    if options.command == "needs":
        from fti.features.readers import needs

        print(needs(repo, str(options.name)))
        return 0
    # Not above: they take seconds that a wrong command line should not wait for.
    import duckdb
    from deltalake.exceptions import DeltaError

    from fti.features.pipeline import FeaturePipeline
    from fti.stores.delta import REBUILD
    from fti.validation.gate import Gate

    pipeline = FeaturePipeline(repo, source.RawEvents(source.RawFiles(options.raw)), Gate(list(options.accept)))
    try:
        run(pipeline, options, interval)
    except (OSError, DeltaError, duckdb.IOException, duckdb.InvalidInputException) as error:
        return fail(
            f"A table under {pipeline.tables} cannot be read or written ({type(error).__name__}: {error}). Each table "
            "holds either what it held before or all of its new rows. Check the disk's space and permissions and run "
            f"the same command again; if a file is damaged, {REBUILD}."
        )
    return 0


def _require_moments(repo: Path, options: Options, interval: tuple[datetime, datetime]) -> None:
    """Refuse moments of which nothing has landed, and of which the source has nothing to land. Raises NotLanded."""
    from fti.features.source import reach
    from fti.stores.landed import Landed, require_landed, require_past

    command, (first, last), source = options.command, reach(), project().source
    start = None if interval[0] == utc(source.START) else interval[0]  # what the project says is not mistyped
    end = None if interval[1] == utc(source.END) else interval[1]
    if command in ("all", "ingest", "validate", "publish"):
        require_landed(repo, {"--start": start, "--end": end}, options.force, Landed(first, last))
    if command in ("all", "materialize"):
        landing = Landed(*interval) if command == "all" else None
        require_landed(repo, {"--start": start}, options.force, landing or Landed(first, first))
        require_landed(repo, {"--as-of": options.as_of}, options.force, landing)
    if command in ("all", "ingest", "release"):
        require_past({"--received-at": options.received_at})
        require_landed(repo, {"--received-at": options.received_at}, options.force, Landed(first, datetime.now(UTC)))


def _require_repo(repo: Path) -> None:
    configured = os.environ.get("FEAST_FS_YAML_FILE_PATH")  # which Feast goes by, wherever the definitions are
    if not (Path(configured) if configured else repo / "feature_store.yaml").is_file():
        raise RepoMissing(
            f"There is no {configured}, which FEAST_FS_YAML_FILE_PATH names."
            if configured
            else f"No feature_store.yaml in {repo}, so it is no Feast repository. "
            "Let --repo name the folder that has one, such as feature_repo."
        )


def run(pipeline: FeaturePipeline, options: Options, bounds: tuple[datetime, datetime]) -> None:
    from fti.features import guard
    from fti.features.feast_steps import apply, materialize
    from fti.features.lock import one_writer
    from fti.features.printed import findings_table
    from fti.features.windows import Interval

    interval = Interval(*bounds)
    if options.command == "all":
        guard.check(pipeline.repo, tables=False)  # before any is written
    try:
        if options.command == "validate":
            pipeline.check_raw(interval)
        if options.command in ("quarantine", "release"):
            run_quarantine(pipeline, options)
        if options.command in ("all", "ingest", "publish"):
            with one_writer(pipeline.data, options.command):
                if options.command != "publish":
                    pipeline.ingest(interval, options.received_at)
                if options.command != "ingest":
                    pipeline.publish(interval)
    finally:
        if pipeline.gate.findings:
            print(findings_table(pipeline.gate.findings))
            print(f"Data Docs: {pipeline.write_docs()}")
    if options.command == "plan":
        print(guard.plan(pipeline.repo))
    if options.command in ("all", "plan", "apply"):
        guard.check(pipeline.repo)
    if options.command in ("all", "apply"):
        apply(pipeline.repo)
    if options.command in ("all", "materialize"):
        as_of = options.as_of or utc(project().source.TODAY)
        materialize(pipeline.repo, interval.start, as_of, options.rewind)


def run_quarantine(pipeline: FeaturePipeline, options: Options) -> None:
    from fti.features.lock import one_writer
    from fti.features.printed import held_table
    from fti.features.quarantine import held_rows

    if options.command == "quarantine":
        print(held_table(held_rows(pipeline.con, pipeline.tables, options.table), options.export))
        return
    with one_writer(pipeline.data, options.command):
        pipeline.release(str(options.table), Path(options.rows or ""), options.received_at or datetime.now(UTC))
    print("They are events like others now: the next `publish`, of any interval, computes what they touch.")


if __name__ == "__main__":
    sys.exit(main())
