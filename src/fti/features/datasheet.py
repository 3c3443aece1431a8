"""The data sheet: Feast's registry, the Delta tables and the suites in; Markdown and HTML out, as of a moment.

    fti datasheet --as-of 2013-10-01

The headings are those of Gebru et al., Datasheets for Datasets (2021). What people have to say is in datasheet.md.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from deltalake.exceptions import DeltaError

from fti.command import alias, fail
from fti.features.publish import MONTH
from fti.features.quarantine import held_name
from fti.page import table, write
from fti.project import project
from fti.stores.delta import connect, create_view, literal, quote
from fti.stores.landed import require_landed
from fti.stores.repository import open_repository
from fti.stores.tables import data_of, tables_in, tables_of
from fti.validation.gate import Suite
from fti.validation.rules import feature_suite, floats_of

if TYPE_CHECKING:
    from feast import FeatureView

WORDS = "datasheet.md"  # [yours], beside the definitions
STAMPS = ("event_timestamp", "created_timestamp")


@dataclass(frozen=True)
class Contents:
    """What is in a table as of a moment: its version now, rows, their first and last event, nulls by column.

    `floats` are the columns that can hold an infinite number.
    """

    version: int
    rows: int
    first: datetime | None
    last: datetime | None
    missing: Mapping[str, int]
    floats: Sequence[str]

    def share(self, column: str) -> str:
        """The share of rows in which a column is null."""
        return f"{self.missing[column] / self.rows:.2%}" if self.rows and column in self.missing else ""


def main(argv: list[str] | None = None) -> int:
    return alias("fti.features.datasheet", "fti.features.commands:DATASHEET", argv)


def write_sheet(as_of: datetime | None, force: bool, repo: Path | None, file: Path | None) -> int:
    """Write the data sheet, and print where it is; returns the exit code."""
    repo = (repo or project().repo).resolve()
    try:
        require_landed(repo, {"--as-of": as_of}, force)
        print(write(sheet(repo, as_of), file or data_of(repo) / "datasheet.md"))
    except (DeltaError, OSError, duckdb.Error) as error:
        return fail(error)
    return 0


def sheet(repo: Path, as_of: datetime | None = None) -> str:
    """The data sheet as Markdown. Raises TableMissing, TableCorrupt, RegistryUnreadable."""
    # Not above: it imports Feast, for which a wrong command line should not wait.
    from fti.features.readers import users

    store, con, tables = open_repository(repo), connect(), tables_of(repo)
    views = sorted(store.list_feature_views(), key=lambda view: view.name)
    raw = {name: contents(con, str(tables / "raw" / name), as_of) for name in project().source.RAW_KEYS}
    features = {view.name: contents(con, _path(repo, view), as_of) for view in views}
    held = {name: _held(con, str(tables / "quarantine" / name), as_of) for name in tables_in(tables / "quarantine")}
    held_of = {view.name: held.get(held_name(view.name), Counter()) for view in views}
    used = users(store, repo)
    when = f"as of {as_of:%Y-%m-%d %H:%M} UTC" if as_of else "with all that is in them"
    words = repo / WORDS
    parts = [
        f"# Data sheet of {store.project}",
        f"{len(raw)} tables of raw events and {len(features)} of features, {when}.",
        words.read_text().strip() if words.is_file() else "",
        "## Raw events",
        _summary(raw, held),
        *(_raw(name, found, held.get(name, Counter())) for name, found in raw.items()),
        "## Features and labels",
        _summary(features, held_of),
        *(_view(view, features[view.name], held_of[view.name], used[view.name]) for view in views),
        "## Computed on demand",
        *(
            _on_demand(view, used[view.name])
            for view in store.registry.list_on_demand_feature_views(store.project, skip_udf=True)
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def contents(con: duckdb.DuckDBPyConnection, path: str, as_of: datetime | None) -> Contents:
    """Look at a table: of its rows those that had happened, and were known, by `as_of`. Raises TableMissing."""
    columns, version = create_view(con, "__sheet", path)
    columns = [column for column in columns if column != MONTH]
    counts = ", ".join(f"count(*) - count({quote(column)})" for column in columns)
    rows, first, last, *missing = con.execute(
        f"SELECT count(*), min(event_timestamp), max(event_timestamp), {counts} FROM __sheet WHERE {_known(as_of)}"
    ).fetchall()[0]
    schema = con.sql("SELECT * FROM __sheet LIMIT 0").to_arrow_table().schema
    return Contents(version, rows, first, last, dict(zip(columns, missing, strict=True)), floats_of(schema))


def _known(as_of: datetime | None) -> str:
    """SQL that is true for the rows of by then; one without a moment always was."""
    if as_of is None:
        return "true"
    then = f"TIMESTAMPTZ {literal(as_of.isoformat())}"
    return " AND ".join(f"({stamp} IS NULL OR {stamp} <= {then})" for stamp in STAMPS)


def _held(con: duckdb.DuckDBPyConnection, path: str, as_of: datetime | None) -> Counter[str]:
    """How many rows each rule holds back; a row that breaks two counts with both, and once in `rows`."""
    create_view(con, "__held", path)
    asked = f"SELECT rules FROM __held WHERE released_at IS NULL AND {_known(as_of)}"
    found: Counter[str] = Counter()
    for (rules,) in con.execute(asked).fetchall():
        found.update(["rows", *rules.split(",")])
    return found


def _path(repo: Path, view: FeatureView) -> str:
    path = str(view.batch_source.path)  # type: ignore[union-attr]  # the sources of this project are files
    return path if "://" in path else str((repo / path).resolve())


def _summary(found: Mapping[str, Contents], held: Mapping[str, Counter[str]]) -> str:
    rows = [
        [f"`{name}`", one.version, one.rows, _moment(one.first), _moment(one.last), held.get(name, Counter())["rows"]]
        for name, one in found.items()
    ]
    return table(["table", "version", "rows", "first event", "last event", "held"], rows)


def _raw(name: str, found: Contents, held: Counter[str]) -> str:
    columns = [[column, found.share(column)] for column in found.missing]
    suites = [
        project().raw.RAW_SUITES[name],
        *(feed.suite for feed in project().profiles.PROFILES.values() if name in feed.tables),
    ]
    key = f"One row for each: {', '.join(project().source.RAW_KEYS[name])}."
    return "\n\n".join(
        [
            f"### Raw `{name}`",
            key,
            table(["column", "missing"], columns),
            *_judged(held, suites),
        ]
    )


def _view(view: FeatureView, found: Contents, held: Counter[str], used: list[str]) -> str:
    tags = ", ".join(f"{name}: {value}" for name, value in sorted(view.tags.items()))
    facts = [
        ("owner", view.owner),
        ("source", view.batch_source.description if view.batch_source else ""),
        ("keys", ", ".join(view.join_keys)),
        ("expires after", str(view.ttl) if view.ttl else "never"),
        ("online", "yes" if view.online else "no"),
        ("tags", tags),
        ("read by", "; ".join(used) or "nobody"),
    ]
    fields = [
        [field.name, str(field.dtype), field.tags.get("unit", ""), field.description, found.share(field.name)]
        for field in view.features
    ]
    suites = []
    if made := project().transforms.FEATURE_TABLES.get(view.name):
        columns = [column for column in found.missing if column not in made.keys]
        suites = [feature_suite(view.name, made.keys, columns, project().features.BOUNDS, found.floats)]
    return "\n\n".join(
        [
            f"### `{view.name}`\n\n{view.description}",
            table(["", ""], facts),
            table(["feature", "type", "unit", "what it is", "missing"], fields),
            *_judged(held, suites),
        ]
    )


def _on_demand(view: Any, used: list[str]) -> str:
    fields = [[field.name, str(field.dtype), field.tags.get("unit", ""), field.description] for field in view.features]
    readers = f"Read by: {'; '.join(used) or 'nobody'}."
    return "\n\n".join(
        [f"### `{view.name}`\n\n{view.description}", readers, table(["feature", "type", "unit", "what it is"], fields)]
    )


def _judged(held: Counter[str], suites: list[Suite]) -> list[str]:
    """What is held back, by rule, and the rules that everything else has passed."""
    back = ", ".join(f"{rule} ({rows})" for rule, rows in sorted(held.items()) if rule != "rows")
    rules = [
        [rule, suite.name, scope, _text(expectation)]
        for suite in suites
        for scope, mine in (("row", suite.row_rules), ("batch", suite.batch_rules))
        for rule, expectation in mine.items()
    ]
    told = "Rules that hold for what was written; of those that are only reported, most of the time:"
    shown = [told, table(["rule", "suite", "of each", "expectation"], rules)] if rules else []
    return [f"Held in quarantine: {back or 'nothing'}.", *shown]


def _text(expectation: Any) -> str:
    given = ", ".join(
        f"{name}={value}" for name, value in expectation.configuration.kwargs.items() if value is not None
    )
    severity = str(getattr(expectation.severity, "value", expectation.severity))
    return f"{type(expectation).__name__}({given}){' (only reported)' if severity == 'warning' else ''}"


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


if __name__ == "__main__":
    sys.exit(main())
