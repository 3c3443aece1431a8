"""The columns of rows that are to be written, beside those of the table that is there."""

from __future__ import annotations

import pyarrow as pa
from deltalake import DeltaTable, Schema
from upath import UPath

from fti.errors import Refusal, few


class ColumnsChanged(Refusal):
    """Rows to write lack columns of the table that is there, have other ones, or the same of another type."""


def new_columns(path: UPath, table: DeltaTable, rows: pa.Table, fix: str) -> list[str]:
    """Return the columns of `rows` that the table lacks.

    `fix` says what to do when that is not all that differs. Raises ColumnsChanged when a column is missing, or is of
    another type.
    """
    have = {field.name: field.type for field in table.schema().fields}
    come = {field.name: field.type for field in Schema.from_arrow(rows.schema).fields}
    if gone := sorted(have.keys() - come.keys()):
        raise ColumnsChanged(f"The rows for {path} lack the column(s) {few(gone)} of the table that is there. {fix}")
    retyped = [f"{name} ({have[name]}, now {come[name]})" for name in sorted(have) if have[name] != come[name]]
    if retyped:
        raise ColumnsChanged(f"Columns of the rows for {path} are of another type: {few(retyped, ', ')}. {fix}")
    return sorted(come.keys() - have.keys())


def require_same(path: UPath, table: DeltaTable, rows: pa.Table, fix: str) -> None:
    """Check that rows have the columns of the table. Raises ColumnsChanged."""
    if more := new_columns(path, table, rows, fix):
        raise ColumnsChanged(f"The table {path} has no column(s) {few(more)}, which the rows for it have. {fix}")


def add_new(path: UPath, table: DeltaTable, rows: pa.Table, fix: str) -> None:
    """Give the table the columns that only `rows` have: the rows that are there say null in them.

    A commit of its own, which a kill may leave as the last one: the table says what it said. Raises ColumnsChanged.
    """
    more = new_columns(path, table, rows, fix)
    if more:
        table.alter.add_columns(Schema.from_arrow(rows.schema.empty_table().select(more).schema).fields)
