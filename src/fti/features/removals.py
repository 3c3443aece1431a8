"""Rows that a correction took out of a feature table, so that the online store can give them up as well.

A corrected event may leave a feature row's window: the row goes, or another one with an earlier event timestamp takes
its place. An online store keeps the newest row of each key, so it would go on serving the one that is gone until it
expires. Publishing therefore lists such rows in a small table beside the features, and materializing replaces them.
Written for Feast 0.67.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from deltalake import write_deltalake
from upath import UPath

from fti.errors import Refusal
from fti.stores.delta import connect, create_view, exists, literal, quote
from fti.stores.stamps import EPOCH

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

FOLDER = "removed"
MOMENT = "event_timestamp"


class CannotReplace(Refusal):
    """The online store has no way to give up a row."""


def of_table(path: UPath) -> UPath:
    """Return where the removed rows of the feature table at `path` are listed."""
    return path.parent.parent / FOLDER / path.name


def record(con: duckdb.DuckDBPyConnection, path: UPath, keys: Sequence[str], before: str, now: str) -> int:
    """List the rows of the SQL query `before` whose keys and event timestamp are not in `now`; return how many.

    Columns: the keys and `event_timestamp`. Call it before the table itself is written: a row that is listed and still
    in the table is no removal.
    """
    names = ", ".join(map(quote, (*keys, MOMENT)))
    removed = con.sql(f"SELECT {names} FROM ({before}) EXCEPT SELECT {names} FROM ({now})").to_arrow_table()
    if removed.num_rows:
        write_deltalake(str(of_table(path)), removed, mode="append")
    return removed.num_rows


def replace_online(store: FeatureStore, views: Sequence[FeatureView], end: datetime) -> int:
    """Replace each removed row that is online with the key's newest row at or before `end`; return how many were.

    A key without any such row is online no more. Raises CannotReplace.
    """
    from feast.utils import _convert_arrow_to_proto

    replaced = 0
    for view in views:
        removed, newest = _removed_and_newest(store, view, end)
        if not removed.num_rows:
            continue
        online_store = store._get_provider().online_store
        if not hasattr(online_store, "replace_removed"):
            raise CannotReplace(
                f"{removed.num_rows} row(s) of {view.name} were removed by corrections, and the online store "
                f"{type(online_store).__name__} cannot give them up. Let online_store in feature_store.yaml name a "
                "store of fti.stores, or empty the store and materialize again."
            )
        types = {entity.name: entity.dtype.to_value_type() for entity in view.entity_columns}
        gone = [(key, event) for key, _, event, _ in _convert_arrow_to_proto(removed, view, types)]
        rows = _convert_arrow_to_proto(newest, view, types) if newest.num_rows else []
        replaced += online_store.replace_removed(store.config, view, gone, rows)
    return replaced


def _removed_and_newest(store: FeatureStore, view: FeatureView, end: datetime) -> tuple[pa.Table, pa.Table]:
    """Return what was removed of a view's rows within its ttl, and the newest row as of `end` of each of these keys.

    Both have the columns of the view; of what was removed, the features are null.
    """
    from feast.infra.offline_stores.file_source import FileSource
    from feast.utils import _get_column_names, _run_pyarrow_field_mapping

    from fti.stores.asof import absolute

    nothing = pa.table({}), pa.table({})
    source = view.batch_source
    if not isinstance(source, FileSource):  # no other has rows that publishing wrote
        return nothing
    path = UPath(absolute(source, str(store.repo_path)))
    if not exists(of_table(path)):
        return nothing
    entities = [store.get_entity(name) for name in view.entities]
    keys, features, moment, created = _get_column_names(view, entities)
    start = end - view.ttl if view.ttl else EPOCH
    con = connect()
    create_view(con, "__listed", of_table(path))
    create_view(con, "__published", path)
    names = ", ".join(map(quote, (*keys, moment)))
    within = f"{quote(moment)} >= {literal(start.isoformat())} AND {quote(moment)} <= {literal(end.isoformat())}"
    con.execute(
        f"CREATE TEMP TABLE __removed AS SELECT DISTINCT {names} FROM __listed WHERE {within} "
        f"EXCEPT SELECT {names} FROM __published WHERE {within}"
    )
    removed = con.sql("SELECT * FROM __removed").to_arrow_table()
    if not removed.num_rows:
        return nothing
    newest = (
        store._get_provider()
        .offline_store.pull_latest_from_table_or_query(
            store.config, source, keys, features, moment, created, EPOCH, end
        )
        .to_arrow()
    )
    con.register("__newest", newest.select(keys).append_column("__row", pa.array(range(newest.num_rows), pa.int64())))
    matches = " AND ".join(f"n.{quote(key)} IS NOT DISTINCT FROM r.{quote(key)}" for key in keys) or "true"
    of_these = con.sql(f"SELECT DISTINCT __row FROM __newest n JOIN __removed r ON {matches}").to_arrow_table()
    mapping = source.field_mapping or {}
    empty = [
        removed.column(field.name).cast(field.type) if field.name in removed.column_names
        else pa.nulls(removed.num_rows, field.type)
        for field in newest.schema
    ]  # fmt: skip
    return (
        _run_pyarrow_field_mapping(pa.table(empty, schema=newest.schema), mapping),
        _run_pyarrow_field_mapping(newest.take(of_these.column("__row")), mapping),
    )
