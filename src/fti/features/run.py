"""The feature pipeline's command line: ingest, validate, publish, apply, materialize, or all of them in one process.

    python -m fti.features.run all --start 2012-12-01 --end 2014-01-03 --as-of 2013-10-01

Times are UTC; an interval holds its start and not its end. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fti.errors import Refusal
from fti.project import project
from fti.stores.tables import tables_of
from fti.times import moment, utc

if TYPE_CHECKING:
    from fti.features.pipeline import FeaturePipeline

COMMANDS = ["all", "ingest", "validate", "publish", "plan", "apply", "materialize", "quarantine", "release", "needs"]
logger = logging.getLogger("features")


class RepoMissing(Refusal):
    """There is no Feast repository where one is expected."""


def main(argv: list[str] | None = None) -> int:
    source = project().source
    parser = argparse.ArgumentParser(prog="fti.features.run", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "--start", type=moment, default=utc(source.START), help=f"start of the interval, UTC ({source.START})"
    )
    parser.add_argument(
        "--end", type=moment, default=utc(source.END), help=f"end of the interval, UTC, not in it ({source.END})"
    )
    parser.add_argument(
        "--as-of", type=moment, help=f"all, materialize: what is online is as of this, UTC ({source.TODAY})"
    )
    parser.add_argument("--rewind", action="store_true", help="materialize: let newer rows go, to replay --as-of")
    parser.add_argument(
        "--received-at", type=moment, help="ingest: new and restated events are recorded as learnt then, UTC, if later"
    )
    parser.add_argument(
        "--repo", type=Path, default=project().repo, help="Feast repository; tables lie in data/ beside it"
    )
    parser.add_argument("--raw", type=Path, default=None, help=f"folder of raw CSV files ({source.RawFiles.package})")
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="SUITE.RULE",
        help="only report what breaks this batch rule now",
    )
    parser.add_argument("--force", action="store_true", help="take moments of which nothing has landed")
    parser.add_argument("--name", help="needs: the feature view or feature service of which to say what reads it")
    parser.add_argument("--table", help="quarantine, release: the table whose rows they are")
    parser.add_argument("--export", type=Path, help="quarantine: write the held rows of --table to this CSV file")
    parser.add_argument("--rows", type=Path, help="release: the CSV file of corrected rows")
    options = parser.parse_args(argv)
    if options.command == "release" and not (options.table and options.rows):
        parser.error("release needs --table and --rows")
    if options.command == "needs" and not options.name:
        parser.error("needs wants --name")
    if options.export and not options.table:
        parser.error("--export needs --table: one file has one table's columns")
    if options.start >= options.end:
        parser.error(f"--start {options.start.isoformat()} is not before --end {options.end.isoformat()}")
    as_of = options.as_of or utc(source.TODAY)
    if options.command in ("all", "materialize") and options.start >= as_of:
        parser.error(f"--start {options.start.isoformat()} is not before --as-of {as_of.isoformat()}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    # py.warnings: Feast 0.67 calls every on-demand view experimental, at every start.
    for noisy in ("great_expectations", "feast", "py4j", "ibis", "matplotlib", "py.warnings"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    repo = options.repo.resolve()
    try:
        _require_repo(repo)
        tables_of(repo)  # first of all: a folder that no table can be in is refused before anything is read
        _require_moments(repo, options)
        if options.command == "needs":
            from fti.features.readers import needs

            print(needs(repo, options.name))
            return 0
    except Refusal as error:
        return _fail(str(error))
    # Not above: they take seconds that a wrong command line should not wait for.
    import duckdb
    from deltalake.exceptions import DeltaError

    from fti.features.pipeline import FeaturePipeline
    from fti.stores.delta import REBUILD
    from fti.validation.gate import Gate

    pipeline = FeaturePipeline(repo, source.RawEvents(source.RawFiles(options.raw)), Gate(options.accept))
    try:
        run(pipeline, options, as_of)
    except Refusal as error:
        return _fail(str(error))
    except (OSError, DeltaError, duckdb.IOException, duckdb.InvalidInputException) as error:
        return _fail(
            f"A table under {pipeline.tables} cannot be read or written ({type(error).__name__}: {error}). Each table "
            "holds either what it held before or all of its new rows. Check the disk's space and permissions and run "
            f"the same command again; if a file is damaged, {REBUILD}."
        )
    return 0


def _require_moments(repo: Path, options: argparse.Namespace) -> None:
    """Refuse moments of which nothing has landed, and of which the source has nothing to land. Raises NotLanded."""
    from fti.features.source import reach
    from fti.stores.landed import Landed, require_landed, require_past

    command, (first, last), source = options.command, reach(), project().source
    start = None if options.start == utc(source.START) else options.start  # what the project says is not mistyped
    end = None if options.end == utc(source.END) else options.end
    if command in ("all", "ingest", "validate", "publish"):
        require_landed(repo, {"--start": start, "--end": end}, options.force, Landed(first, last))
    if command in ("all", "materialize"):
        landing = Landed(options.start, options.end) if command == "all" else None
        require_landed(repo, {"--start": start}, options.force, landing or Landed(first, first))
        require_landed(repo, {"--as-of": options.as_of}, options.force, landing)
    if command in ("all", "ingest", "release"):
        require_past({"--received-at": options.received_at})
        require_landed(repo, {"--received-at": options.received_at}, options.force, Landed(first, datetime.now(UTC)))


def _fail(message: str) -> int:
    """One line, whatever the libraries put into their messages."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    return 1


def _require_repo(repo: Path) -> None:
    configured = os.environ.get("FEAST_FS_YAML_FILE_PATH")  # which Feast goes by, wherever the definitions are
    if not (Path(configured) if configured else repo / "feature_store.yaml").is_file():
        raise RepoMissing(
            f"There is no {configured}, which FEAST_FS_YAML_FILE_PATH names."
            if configured
            else f"No feature_store.yaml in {repo}, so it is no Feast repository. "
            "Let --repo name the folder that has one, such as feature_repo."
        )


def run(pipeline: FeaturePipeline, options: argparse.Namespace, as_of: datetime) -> None:
    from fti.features import guard
    from fti.features.feast_steps import apply, materialize
    from fti.features.lock import one_writer
    from fti.features.printed import findings_table
    from fti.features.windows import Interval

    interval = Interval(options.start, options.end)
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
        materialize(pipeline.repo, options.start, as_of, options.rewind)


def run_quarantine(pipeline: FeaturePipeline, options: argparse.Namespace) -> None:
    from fti.features.lock import one_writer
    from fti.features.printed import held_table
    from fti.features.quarantine import held_rows

    if options.command == "quarantine":
        print(held_table(held_rows(pipeline.con, pipeline.tables, options.table), options.export))
        return
    with one_writer(pipeline.data, options.command):
        pipeline.release(options.table, options.rows, options.received_at or datetime.now(UTC))
    print("They are events like others now: the next `publish`, of any interval, computes what they touch.")


if __name__ == "__main__":
    sys.exit(main())
