"""What Feast keeps, its registry and the online store, when jobs are killed, fail, meet or come in the wrong order."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from fti.features import run
from tests.small_repo import arguments, said, start, start_and_hang, succeed, wait_until

MORNING = ("--start", "2013-06-01", "--as-of", "2013-07-01T09:30Z")
EVENING = ("--start", "2013-06-01", "--as-of", "2013-07-01T20:30Z")
WRITE = "fti.stores.wal_sqlite:WalSqliteOnlineStore.online_write_batch"
FEATURE = "origin_weather:origin_temperature_f"


@pytest.fixture(scope="session")
def applied_once(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, applied, and materialized as of the morning."""
    made = Path(shutil.copytree(built, tmp_path_factory.mktemp("applied") / "copy"))
    succeed(made, "apply")
    succeed(made, "materialize", *MORNING)
    return made


@pytest.fixture
def applied(applied_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(applied_once, tmp_path / "applied"))


def store(folder: Path) -> Any:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(folder / "feature_repo"))


def newest(folder: Path) -> pd.Timestamp | None:
    """The event timestamp of the weather that is online; raises what Feast raises when it is not served."""
    answer = store(folder).get_online_features([FEATURE], [{"origin": "JFK"}])
    (stamp,) = answer.to_df(include_event_timestamps=True)["origin_temperature_f__ts"]
    return pd.Timestamp(stamp, unit="s", tz="UTC") if stamp else None


def intervals(folder: Path) -> set[tuple[str, str]]:
    """The materialization intervals of all views that go online."""
    views = [view for view in store(folder).list_feature_views() if view.online]
    return {(f"{low:%dT%H:%M}", f"{high:%dT%H:%M}") for view in views for low, high in view.materialization_intervals}


def test_materializing_again_and_again_keeps_one_interval(applied):
    """However often and however cut: what meets is one interval, what does not is another."""
    succeed(applied, "materialize", *MORNING)
    succeed(applied, "materialize", *EVENING)
    assert intervals(applied) == {("01T00:00", "01T20:30")}
    succeed(applied, "materialize", "--start", "2013-07-02", "--as-of", "2013-07-02T06:00Z")
    assert intervals(applied) == {("01T00:00", "01T20:30"), ("02T00:00", "02T06:00")}


def test_a_killed_materialization_is_served_around_and_run_again(applied):
    """While it hangs and after kill -9 the values of before are served; the same command once more completes it."""
    process = start_and_hang(applied, "materialize", *EVENING, at=WRITE)
    assert newest(applied) == pd.Timestamp("2013-07-01T09:00Z")
    process.kill()
    process.join()
    assert newest(applied) == pd.Timestamp("2013-07-01T09:00Z")
    succeed(applied, "materialize", *EVENING)
    assert newest(applied) == pd.Timestamp("2013-07-01T20:00Z")


def test_a_materialization_that_fails_after_a_killed_one_leaves_the_views_served(applied, monkeypatch, capsys):
    """Feast alone would refuse them from then on."""
    from fti.stores.wal_sqlite import WalSqliteOnlineStore

    process = start_and_hang(applied, "materialize", *EVENING, at=WRITE)
    process.kill()
    process.join()

    def fail(*_: object, **__: object) -> None:
        raise OSError("made up")

    with monkeypatch.context() as patch:
        patch.setattr(WalSqliteOnlineStore, "online_write_batch", fail)
        assert run.main(arguments(applied, "materialize", *EVENING)) == 1
    assert "made up" in capsys.readouterr().err
    assert newest(applied) == pd.Timestamp("2013-07-01T09:00Z")
    succeed(applied, "materialize", *EVENING)
    assert newest(applied) == pd.Timestamp("2013-07-01T20:00Z")


def test_a_killed_first_materialization_is_run_again(folder):
    """Nothing was served before it, and everything is after the next one."""
    succeed(folder, "apply")
    process = start_and_hang(folder, "materialize", *MORNING, at=WRITE)
    process.kill()
    process.join()
    succeed(folder, "materialize", *MORNING)
    assert newest(folder) == pd.Timestamp("2013-07-01T09:00Z")


@pytest.mark.parametrize("first", [True, False], ids=["the first", "a later one"])
def test_an_apply_killed_in_mid_write_leaves_the_registry_of_before(folder, applied, first):
    """Whole, or not there yet; the same command once more completes it."""
    place = folder if first else applied
    registry = place / "data" / "feast" / "registry.db"
    before = None if first else registry.read_bytes()
    views = place / "feature_repo" / "feature_views.py"
    views.write_text(views.read_text().replace("How busy and how late", "HOW BUSY AND HOW LATE"))
    process = start_and_hang(place, "apply", at="os:fsync")
    process.kill()
    process.join()
    assert (registry.read_bytes() if registry.exists() else None) == before
    succeed(place, "apply")
    assert "HOW BUSY" in store(place).get_feature_view("origin_congestion").description


def test_two_materializations_at_once_run_one_after_the_other(applied):
    """The second says that it waits; both are done in the end, and the newer values stay."""
    holder = start_and_hang(applied, "materialize", *EVENING, at=WRITE)
    (applied / "materialize.log").rename(applied / "first.log")
    second = start(applied, "materialize", *EVENING)
    wait_until(lambda: "materialize waits: `materialize` (process" in said(applied, "materialize"), second)
    holder.kill()
    second.join()
    assert second.exitcode == 0
    assert newest(applied) == pd.Timestamp("2013-07-01T20:00Z")


def test_who_changes_a_registry_that_has_changed_since_is_refused(applied):
    """What the other process wrote is kept: nothing is overwritten unseen."""
    from fti.stores.atomic_registry import RegistryChanged

    mine, other = store(applied), store(applied)
    assert mine.list_feature_views()  # reads the registry
    other.registry.apply_materialization(
        other.get_feature_view("dest_arrivals"), "flights", pd.Timestamp("2013-07-03", tz="UTC").to_pydatetime(),
        pd.Timestamp("2013-07-04", tz="UTC").to_pydatetime(),
    )  # fmt: skip
    kept = (applied / "data" / "feast" / "registry.db").read_bytes()
    with pytest.raises(RegistryChanged, match="run this command again"):
        mine.registry.commit()
    assert (applied / "data" / "feast" / "registry.db").read_bytes() == kept
    assert ("03T00:00", "04T00:00") in intervals(applied)


def test_an_older_materialization_overwrites_nothing_unless_it_is_to_rewind(applied, caplog):
    """A backfill that comes late must not bring yesterday's values back; a replay wants just that."""
    succeed(applied, "materialize", *EVENING)
    succeed(applied, "materialize", *MORNING)
    assert newest(applied) == pd.Timestamp("2013-07-01T20:00Z")
    assert "newer rows stay (--rewind)" in caplog.text
    succeed(applied, "materialize", *MORNING, "--rewind")
    assert newest(applied) == pd.Timestamp("2013-07-01T09:00Z")


def test_reads_go_on_while_materializations_run(applied):
    """No read fails or waits for the writer, and each sees a row of before or of after, never half of one."""
    process = start(applied, "materialize", *EVENING)
    open_store, seen = store(applied), set()
    while process.is_alive():
        answer = open_store.get_online_features([FEATURE], [{"origin": "JFK"}]).to_df(include_event_timestamps=True)
        seen.add(answer["origin_temperature_f__ts"][0])
    process.join()
    assert process.exitcode == 0
    assert newest(applied) == pd.Timestamp("2013-07-01T20:00Z")
    assert seen <= {pd.Timestamp(f"2013-07-01T{hour}Z").timestamp() for hour in ("09:00", "20:00")}
    assert seen


def test_rows_beyond_the_first_arrow_batch_go_online_too(applied, monkeypatch):
    """Feast writes only the first batch of a table unless it is told a size to write in."""
    from fti.stores.asof_duckdb import AsofRetrievalJob

    whole = AsofRetrievalJob._to_arrow_internal

    def in_pieces(job: AsofRetrievalJob, timeout: int | None = None) -> pa.Table:
        table = whole(job, timeout)
        return pa.concat_tables([table.slice(0, 1), table.slice(1)])

    monkeypatch.setattr(AsofRetrievalJob, "_to_arrow_internal", in_pieces)
    with sqlite3.connect(applied / "data" / "feast" / "online_wal.db") as online:
        online.execute('DELETE FROM "flights.origin_schedule_load"')
    succeed(applied, "materialize", *MORNING)
    with sqlite3.connect(applied / "data" / "feast" / "online_wal.db") as online:
        ((rows,),) = online.execute('SELECT count(*) FROM "flights.origin_schedule_load"').fetchall()
    assert rows == 48


@pytest.mark.parametrize("damage", ["flipped bits", "cut in half"])
def test_a_damaged_online_store_is_one_line_and_filled_anew_as_that_says(applied, damage):
    """Whatever SQLite says of its pages, and of the files beside it."""
    feast = applied / "data" / "feast"
    before, online = contents(feast), feast / "online_wal.db"
    bits = bytearray(online.read_bytes())
    if damage == "cut in half":
        bits = bits[: len(bits) // 2 + 1]
    for at in range(0, len(bits), 101) if damage == "flipped bits" else ():
        bits[at] ^= 0x10
    online.write_bytes(bits)
    for command, given in {"materialize": MORNING, "apply": ()}.items():
        process = start(applied, command, *given)
        process.join(120)
        (line,) = [one for one in said(applied, command).splitlines() if one.startswith(("error:", "Traceback"))]
        assert (process.exitcode, "Delete them, apply, and materialize: no data are lost." in line) == (1, True)
    for file in feast.iterdir():
        file.unlink()
    for command, given in {"apply": (), "materialize": MORNING}.items():
        process = start(applied, command, *given)
        process.join(120)
        assert process.exitcode == 0
    assert contents(feast) == before


def contents(feast: Path) -> dict[str, list[Any]]:
    """The rows of each table of the online store, but for the moments at which they were written."""
    with closing(sqlite3.connect(f"file:{feast / 'online_wal.db'}?mode=ro", uri=True)) as con:
        tables = [name for (name,) in con.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: sorted(con.execute(f'SELECT * FROM "{name}"').fetchall()) for name in tables}
