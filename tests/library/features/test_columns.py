"""Rows with other columns than the table that is there: what is added, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from fti.features import columns
from fti.features.columns import ColumnsChanged
from fti.features.publish import OtherWriter, changes, merge_events, replace_interval, state_of
from fti.stores.delta import connect, create_view

US = pa.timestamp("us", tz="UTC")
DAY = pd.Timestamp("2013-01-01", tz="UTC")


def events(*rows: dict[str, object], created: pd.Timestamp = DAY, **types: pa.DataType) -> pa.Table:
    """Rows of an id, and of what else `types` names."""
    stamps = {"event_timestamp": DAY, "created_timestamp": created}
    schema = pa.schema({"id": pa.string()} | types | dict.fromkeys(stamps, US))
    return pa.Table.from_pylist([row | stamps for row in rows], schema=schema)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A table of two events, of which one was corrected ten days later."""
    path = tmp_path / "raw" / "t"
    merge_events(path, events({"id": "a", "fare": 1.0}, {"id": "b", "fare": 2.0}, fare=pa.float64()), ["id"])
    corrected = events({"id": "b", "fare": 3.0}, created=DAY + pd.Timedelta(days=10), fare=pa.float64())
    merge_events(path, corrected, ["id"])
    return path


def content(path: Path) -> list[tuple[object, ...]]:
    con = connect()
    create_view(con, "v", path)
    return con.sql("SELECT id, fare, gate, day(created_timestamp) FROM v ORDER BY id").fetchall()


WIDER = {"fare": pa.float64(), "gate": pa.string()}


def test_a_column_that_the_source_has_more_is_added_to_the_raw_table(path):
    """Events that are there say null in it, corrections stay, and what comes again with a value has it from then on."""
    before = state_of(path)
    merge_events(path, events({"id": "c", "fare": 5.0, "gate": "C9"}, **WIDER), ["id"])
    assert content(path) == [("a", 1.0, None, 1), ("b", 3.0, None, 11), ("c", 5.0, "C9", 1)]
    again = events({"id": "a", "fare": 1.0, "gate": "A1"}, {"id": "b", "fare": 3.0, "gate": None}, **WIDER)
    assert merge_events(path, again, ["id"]).changed == 1
    assert content(path) == [("a", 1.0, "A1", 1), ("b", 3.0, None, 11), ("c", 5.0, "C9", 1)]
    version = DeltaTable(str(path)).version()
    assert merge_events(path, again, ["id"]).changed == 0
    assert DeltaTable(str(path)).version() == version
    feed = changes(path, before, ["id"], ["id"])
    assert feed is not None
    assert sorted(feed.column("id").to_pylist()) == ["a", "c"]


def test_a_column_is_added_by_a_batch_without_events_too(path):
    """What reads the raw table may name it from then on."""
    merge_events(path, events(**WIDER), ["id"])
    assert [row[2] for row in content(path)] == [None, None]


def test_a_landing_that_was_killed_behind_the_new_column_lands_when_it_is_run_again(path, monkeypatch):
    """The table has the column and no new event: what it said, it says."""
    batch = events({"id": "c", "fare": 5.0, "gate": "C9"}, **WIDER)
    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "merge", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merge_events(path, batch, ["id"])
    assert content(path) == [("a", 1.0, None, 1), ("b", 3.0, None, 11)]
    merge_events(path, batch, ["id"])
    assert content(path)[-1] == ("c", 5.0, "C9", 1)


def test_a_column_that_another_machine_adds_at_the_same_time_is_told(path, monkeypatch):
    """In the words of every other write that comes too late."""

    def too_late(*_: object) -> None:
        raise CommitFailedError("version exists")

    monkeypatch.setattr(columns, "add_new", too_late)
    with pytest.raises(OtherWriter, match="same time"):
        merge_events(path, events(**WIDER), ["id"])


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        ({"gate": pa.string()}, r"lack the column\(s\) \['fare'\].*Give the source that column again"),
        ({"fare": pa.string()}, r"another type: fare \(.*double.*string.*another name"),
        ({"fare": pa.int64()}, r"another type: fare"),
    ],
)
def test_a_raw_column_that_is_gone_or_of_another_type_is_refused(path, types, reason):
    """In one line, and nothing is written: not even what else is new."""
    version = DeltaTable(str(path)).version()
    with pytest.raises(ColumnsChanged, match=reason) as error:
        merge_events(path, events({"id": "c"}, **types), ["id"])
    assert "\n" not in str(error.value)
    assert DeltaTable(str(path)).version() == version


def test_a_column_that_the_source_renames_goes_on_under_its_old_name(path):
    """Mapped by the source, as the how-to says, nothing that is there changes, and what comes is in the same column."""
    before = content_of_fares(path)
    renamed = events({"id": "c", "price": 5.0}, {"id": "a", "price": 1.0}, price=pa.float64())
    with pytest.raises(ColumnsChanged, match="fare"):
        merge_events(path, renamed, ["id"])
    mapped = renamed.rename_columns(["fare" if name == "price" else name for name in renamed.column_names])
    assert merge_events(path, mapped, ["id"]).changed == 1
    assert content_of_fares(path) == [*before, ("c", 5.0)]


def test_a_column_that_the_source_retypes_is_cast_or_lands_under_another_name(path):
    """Cast it is the same column, and nothing that is there changes; in another unit it is one column more."""
    whole = events({"id": "a", "fare": 1}, {"id": "d", "fare": 4}, fare=pa.int64())
    with pytest.raises(ColumnsChanged, match="another type"):
        merge_events(path, whole, ["id"])
    position = whole.schema.get_field_index("fare")
    cast = whole.set_column(position, "fare", whole.column("fare").cast(pa.float64()))
    assert merge_events(path, cast, ["id"]).changed == 1
    both = {"fare": pa.float64(), "fare_cents": pa.int64()}
    merge_events(path, events({"id": "e", "fare": None, "fare_cents": 700}, **both), ["id"])
    con = connect()
    create_view(con, "v", path)
    assert con.sql("SELECT id, fare, fare_cents FROM v ORDER BY id").fetchall() == [
        ("a", 1.0, None), ("b", 3.0, None), ("d", 4.0, None), ("e", None, 700),
    ]  # fmt: skip


def content_of_fares(path: Path) -> list[tuple[object, ...]]:
    con = connect()
    create_view(con, "v", path)
    return con.sql("SELECT id, fare FROM v ORDER BY id").fetchall()


@pytest.mark.parametrize("types", [WIDER, {}, {"fare": pa.int64()}])
def test_a_feature_table_takes_no_other_columns(path, types):
    """Its raw events rebuild it: so a column that is new, gone or of another type needs a new table."""
    replace_interval(connect(), path.parent / "f", events({"id": "a", "fare": 1.0}, fare=pa.float64()), "true")
    with pytest.raises(ColumnsChanged, match="Delete the table's folder and publish every interval again"):
        replace_interval(connect(), path.parent / "f", events({"id": "a"}, **types), "true")
