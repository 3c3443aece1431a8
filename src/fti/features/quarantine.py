"""Rows held back: what is held, and how a corrected row comes in after all, by the same gate as every other.

A quarantine table has the columns of the table it guards, and says of each row: `rules`, the names of the rules it
broke; `batch`, the interval it came in; `held_id`, which names the row by what it says; and `released_at` and
`released_to`, when a corrected row went in and the id of the raw table it is in, null until then. A source that goes on
sending the broken row does not put it back into quarantine, unless that raw table, and the correction with it, is gone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
from upath import UPath

from fti.errors import Refusal, few
from fti.features.publish import MONTH, Written, change_columns, id_of, merge_events, replace_interval
from fti.features.source import MOMENT, learnt
from fti.project import project
from fti.stores.delta import create_view, exists, literal, quote
from fti.stores.frames import as_frame
from fti.stores.tables import OF_FEATURES, tables_in
from fti.validation.gate import Gate, Suite

REASONS = pa.schema(
    dict.fromkeys(("rules", "batch", "held_id"), pa.string()) | {"released_at": MOMENT, "released_to": pa.string()}
)
logger = logging.getLogger("features")


class ReleaseRefused(Refusal):
    """Rows handed in for release are not in quarantine, or still break a rule."""


def held_name(feature_table: str) -> str:
    """What a feature table's held rows are called: as the table, unless a raw table has that name already."""
    return f"{OF_FEATURES}{feature_table}" if feature_table in project().source.RAW_SCHEMAS else feature_table


def hold(
    con: duckdb.DuckDBPyConnection,
    path: UPath,
    held: pd.DataFrame,
    schema: pa.Schema,
    holds: str,
    batch: str,
    released_to: str | None = None,
) -> None:
    """Make `held` what quarantine says of the rows for which `holds` is true.

    By interval, not by key: a key may be what a row lacks. `held` has the columns of `schema` and `rules`. Rows that
    were released to the raw table of this id stay as they are: their corrections are in it.
    """
    if held.empty and not exists(path):
        return
    if len(held):
        logger.warning("quarantine %s: %d row(s), rules %s", path.name, len(held), few(sorted(set(held.rules))))
    rows = pa.Table.from_pandas(held, schema=schema, preserve_index=False)
    reasons = [held.rules, [batch] * len(held), _ids(rows), [None] * len(held), [None] * len(held)]
    for field, values in zip(REASONS, reasons, strict=True):
        rows = rows.append_column(field, pa.array(values, field.type))
    if exists(path):
        change_columns(con, path, rows.schema)
        create_view(con, "__quarantine", path)
        con.register("__held", rows)
        condition = f"({holds}) AND released_to = {literal(released_to or '')}"
        released = f"(SELECT * EXCLUDE ({MONTH}) FROM __quarantine WHERE {condition})"
        columns = ", ".join(map(quote, rows.column_names))
        rows = con.sql(
            f"SELECT {columns} FROM __held WHERE held_id NOT IN (SELECT held_id FROM {released}) "
            f"UNION ALL SELECT {columns} FROM {released}"
        ).to_arrow_table()
    replace_interval(con, path, rows.cast(pa.schema([*schema, *REASONS])), holds)


def known(con: duckdb.DuckDBPyConnection, path: UPath, schema: pa.Schema, held: pd.DataFrame) -> int:
    """How many of these rows quarantine names already, be they held or released."""
    if not exists(path):
        return 0
    try:
        ids = _ids(pa.Table.from_pandas(held, schema=schema, preserve_index=False))
    except (pa.ArrowException, KeyError):
        return 0  # what does not fit the table was never in it
    create_view(con, "__quarantine", path)
    named = {row for (row,) in con.execute("SELECT held_id FROM __quarantine").fetchall()}
    return sum(row in named for row in ids)


def held_rows(con: duckdb.DuckDBPyConnection, tables: UPath, table: str | None = None) -> dict[str, pd.DataFrame]:
    """The rows that are held, by table, oldest first, reasons first. Raises ReleaseRefused for an unknown table."""
    folder = tables / "quarantine"
    names = tables_in(folder)
    if table and table not in names:
        raise ReleaseRefused(
            f"Nothing of a table {table!r} is in quarantine; there is {few(names) if names else 'nothing at all'}."
        )
    found = {}
    for name in [table] if table else names:
        columns, _ = create_view(con, "__quarantine", folder / name)
        facts = [quote(column) for column in columns if column not in (*REASONS.names, MONTH)]
        rows = con.sql(
            f"SELECT held_id, rules, batch, {', '.join(facts)} "
            "FROM __quarantine WHERE released_at IS NULL ORDER BY event_timestamp, held_id"
        ).to_arrow_table()
        if rows.num_rows:
            found[name] = as_frame(rows)
    return found


def release(
    con: duckdb.DuckDBPyConnection,
    tables: UPath,
    table: str,
    file: Path,
    gate: Gate,
    suite: Suite,
    received_at: datetime,
) -> tuple[Written, list[str]]:
    """Land the corrected rows of a CSV file, in the form that `held_rows` has; returns what still breaks rules.

    Each row is named by its `held_id`. What passes is merged as learnt at `received_at` (UTC) and leaves quarantine.
    Raises ReleaseRefused when the file lacks columns, or names rows that are not held.
    """
    schema = project().source.RAW_SCHEMAS[table]
    rows = _read(file, schema)
    path = tables / "quarantine" / table
    held = held_rows(con, tables, table).get(table, pd.DataFrame({"held_id": []}))
    unknown = sorted(set(rows.held_id) - set(held.held_id))
    twice = sorted(set(rows.held_id[rows.held_id.duplicated()]))
    if unknown or twice:
        problem = "that are not held" if unknown else "more than once"
        raise ReleaseRefused(
            f"{file} names row(s) {few(unknown or twice)} {problem}; held of {table} "
            f"are {few(sorted(held.held_id))}. Export them again: `fti quarantine`."
        )
    outcome = gate.check(rows[schema.names], suite)
    passed = rows.loc[outcome.accepted.index]
    still_held = rows.loc[outcome.held.index]
    refused = [f"{row}: {rules}" for row, rules in zip(still_held.held_id, outcome.held.rules, strict=True)]
    if outcome.refusals:
        passed, refused = passed.iloc[:0], [*refused, *outcome.refusals]
    events = passed[schema.names].assign(created_timestamp=learnt(passed.event_timestamp, received_at))
    raw = tables / "raw" / table
    written = merge_events(
        raw,
        pa.Table.from_pandas(events, schema=schema, preserve_index=False),
        project().source.RAW_KEYS[table],
        month_of=project().source.KEY_MOMENTS.get(table),
    )
    if len(passed):
        _mark(con, path, schema, passed.held_id, received_at, id_of(raw))
    return written, refused


def _mark(
    con: duckdb.DuckDBPyConnection,
    path: UPath,
    schema: pa.Schema,
    held_ids: Iterable[str],
    released_at: datetime,
    released_to: str,
) -> None:
    """Let quarantine say of these rows when, and to which table, they were released."""
    whole, ids = pa.schema([*schema, *REASONS]), ", ".join(map(literal, held_ids))
    change_columns(con, path, whole)
    create_view(con, "__quarantine", path)
    released = con.sql(
        f"SELECT * EXCLUDE ({MONTH}) REPLACE (TIMESTAMPTZ {literal(released_at.isoformat())} AS released_at, "
        f"{literal(released_to)} AS released_to) FROM __quarantine WHERE held_id IN ({ids})"
    ).to_arrow_table()
    replace_interval(con, path, released.select(whole.names).cast(whole), f"held_id IN ({ids})")


def _ids(rows: pa.Table) -> list[str]:
    """A name for each row, made of all it says but when it was learnt; rows that say the same are numbered."""
    names, times = [], Counter[str]()
    for row in rows.drop_columns(["created_timestamp"]).to_pylist():
        name = hashlib.sha256(json.dumps(row, default=str, sort_keys=True).encode()).hexdigest()[:12]
        times[name] += 1
        names.append(name if times[name] == 1 else f"{name}-{times[name]}")
    return names


def _read(file: Path, schema: pa.Schema) -> pd.DataFrame:
    try:
        # Only an empty cell is missing: NA, null and None may be keys or words.
        texts = pd.read_csv(file, dtype="str", keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise ReleaseRefused(f"{file} cannot be read as CSV ({type(error).__name__}: {error}).") from error
    _require_columns(file, texts.columns, ["held_id", *schema.names])
    texts = texts.dropna(how="all")
    if nameless := [row + 1 for row in texts.index[texts.held_id.isna()]]:
        raise ReleaseRefused(
            f"{file} has no held_id in row(s) {few(nameless)}; which held row each corrects is unknown."
        )
    frame = texts[["held_id"]].copy()
    for column in schema:
        try:
            frame[column.name] = _typed(texts[column.name], column.type)
        except (ValueError, TypeError) as error:
            raise ReleaseRefused(f"{file}, column {column.name}: {error}; expected {column.type}.") from error
    return frame


def _require_columns(file: Path, found: Iterable[str], wanted: list[str]) -> None:
    if missing := [name for name in wanted if name not in found]:
        raise ReleaseRefused(f"{file} lacks the column(s) {few(missing)}; it needs {few(wanted)}.")


def _typed(texts: pd.Series, kind: pa.DataType) -> pd.Series:
    """The cells of a CSV file in the type of a column, each whole number to its last digit. Raises ValueError."""
    if pa.types.is_timestamp(kind):
        return pd.to_datetime(texts, utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    cells = pa.array(texts, pa.string(), from_pandas=True)
    if pa.types.is_integer(kind):  # by way of decimals, for spreadsheets write 1060.0
        cells = cells.cast(pa.decimal128(38, 9))
    return as_frame(pa.table({"cells": cells.cast(kind)})).cells.set_axis(texts.index)
