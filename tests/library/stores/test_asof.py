"""The ASOF offline stores on small made-up tables of every awkward kind.

They have two judges: brute force in plain Python, and Feast's own duckdb store over the same rows as Parquet. What asks
hundreds of times asks DuckDB alone; Spark, which takes a second for each answer, gets as many questions in one.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.spark_conf import SPARK_CONF

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")
ARROW = {
    "key": pa.string(),
    "number": pa.int64(),
    "value": pa.float64(),
    "event_at": UTC_MICROSECONDS,
    "made_at": UTC_MICROSECONDS,
}
FAST = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
SLOW = settings(FAST, max_examples=25)
MICROSECOND, MINUTE = timedelta(microseconds=1), timedelta(minutes=1)
BEFORE_ALL = datetime(1, 1, 1, tzinfo=UTC)


class NoOnDemandViews:
    """As much of a registry as the store asks for."""

    def list_on_demand_feature_views(self, *_: Any, **__: Any) -> list:
        return []


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Its name is one that a person may give, and that delta-rs quotes."""
    with tempfile.TemporaryDirectory(suffix=" flüge 100%") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def table_at(folder: Path) -> Callable[[list[dict[str, Any]]], str]:
    """Write rows as a new Delta table; returns its path."""
    count = iter(range(1_000_000))

    def write(rows: list[dict[str, Any]], columns: dict[str, pa.DataType] = ARROW) -> str:
        path = str(folder / f"table_{next(count)}")
        write_deltalake(path, arrow(rows, columns))
        return path

    return write


@pytest.fixture(scope="module")
def both_at(folder: Path, table_at: Callable[..., str]) -> Callable[[list[dict[str, Any]]], tuple[str, str]]:
    """Write rows as a new Delta table and as a Parquet file; returns both paths."""
    count = iter(range(1_000_000))

    def write(rows: list[dict[str, Any]]) -> tuple[str, str]:
        path = str(folder / f"rows_{next(count)}.parquet")
        pq.write_table(arrow(rows), path)
        return table_at(rows), path

    return write


def arrow(rows: list[dict[str, Any]], columns: dict[str, pa.DataType] = ARROW) -> pa.Table:
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in columns.items()})


def view_of(
    path: str, *, name: str = "prices", ttl: timedelta | None = timedelta(0), keys: tuple[str, ...] = ("key",),
    features: tuple[str, ...] = ("value",), field_mapping: dict[str, str] | None = None, created: str = "made_at",
    timestamp: str = "event_at",
):  # fmt: skip
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.data_format import DeltaFormat, ParquetFormat
    from feast.types import Float64, Int64, String

    file_format = ParquetFormat() if path.endswith(".parquet") else DeltaFormat()
    types = {"key": (String, ValueType.STRING), "number": (Int64, ValueType.INT64)}
    source = FileSource(
        name=f"{name}_source", path=path, file_format=file_format, timestamp_field=timestamp,
        created_timestamp_column=created, field_mapping=field_mapping or {},
    )  # fmt: skip
    return FeatureView(
        name=name,
        entities=[Entity(name=f"{key}_entity", join_keys=[key], value_type=types[key][1]) for key in keys],
        ttl=ttl,
        schema=[
            *(Field(name=key, dtype=types[key][0]) for key in keys),
            *(Field(name=f, dtype=Float64) for f in features),
        ],
        source=source,
    )


STORES = {
    "duckdb": {"type": "fti.stores.asof_duckdb.AsofDuckDBOfflineStore"},
    "spark": {"type": "fti.stores.asof_spark.AsofSparkOfflineStore", "spark_conf": SPARK_CONF},
}
ASKED = {"store": "duckdb"}  # the store that a test is about
DUCKDB_ALONE = (
    "test_entity_rows_may_come_from_sql",  # whose dialect is the engine's
    "test_sql_may_compute_moments_with_or_without_a_zone",
    "test_a_missing_parquet_source_is_named",  # which is asked of no store
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.function.__name__
    alone = getattr(metafunc.function, "is_hypothesis_test", False) or name in DUCKDB_ALONE
    on_spark = pytest.param("spark", marks=pytest.mark.spark)
    stores = [on_spark] if "spark" in name else ["duckdb"] if alone else ["duckdb", on_spark]
    metafunc.parametrize("store", stores, indirect=True)


@pytest.fixture(autouse=True)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ASKED, "store", request.param)


def config_of(versions: dict[str, int] | None = None, *, stock: bool = False):
    from feast import RepoConfig

    offline = {"type": "duckdb"} if stock else {**STORES[ASKED["store"]], "delta_versions": versions or {}}
    return RepoConfig(
        project="made_up", provider="local", registry="unused.db", offline_store=offline, repo_path=Path("/"),
        entity_key_serialization_version=3,
    )  # fmt: skip


def store_of(config: Any):
    from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

    return get_offline_store_from_config(config.offline_store)


def job_of(entities: pd.DataFrame | str, views: list, refs: list[str] | None = None, **options: Any):
    config = options.pop("config", None) or config_of()
    refs = refs or every_feature(views)
    return store_of(config).get_historical_features(
        config, views, refs, entities, NoOnDemandViews(), "made_up", **options
    )


def retrieve(entities: pd.DataFrame | str, views: list, refs: list[str] | None = None, **options: Any) -> pd.DataFrame:
    return job_of(entities, views, refs, **options).to_df()


def retrieve_stock(entities: pd.DataFrame, views: list, **options: Any) -> pd.DataFrame:
    """What Feast's own store answers, in the order of the entity dataframe's column `tag`."""
    from feast.infra.offline_stores.duckdb import DuckDBOfflineStore

    microseconds = entities.assign(event_timestamp=entities.event_timestamp.dt.as_unit("us"))
    job = DuckDBOfflineStore.get_historical_features(
        config_of(stock=True), views, every_feature(views), microseconds, NoOnDemandViews(), "made_up", **options
    )
    return job.to_df().sort_values("tag")


def every_feature(views: list) -> list[str]:
    return [f"{view.projection.name_to_use()}:{field.name}" for view in views for field in view.features]


def newest(
    rows: list[dict[str, Any]],
    key: dict[str, Any],
    moment: datetime,
    ttl: timedelta,
    features: tuple[str, ...] = ("value",),
    *,
    only_if_created: bool = False,
) -> dict[str, Any]:
    """Brute force: of the key's rows at or before the moment, last by event time, then by creation, if fresh enough.

    A row that does not say when it was created is before all equals; `only_if_created`, it is not there at all.
    """
    fitting = [
        row
        for row in rows
        if row["event_at"] <= moment
        and all(value is not None and row[name] == value for name, value in key.items())
        and not (only_if_created and (row["made_at"] is None or row["made_at"] > moment))
    ]
    if not fitting:
        return dict.fromkeys(features)
    last = max(fitting, key=lambda row: (row["event_at"], row["made_at"] or BEFORE_ALL))
    fresh = ttl == timedelta(0) or moment <= last["event_at"] + ttl
    return {name: last[name] if fresh else None for name in features}


def cells(column: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value for value in column]


# Few moments and few keys, so that ties, equal keys and edges come up all the time.
moments = st.builds(
    lambda steps, micros: NOON + steps * MINUTE + micros * MICROSECOND, st.integers(0, 6), st.sampled_from([0, 0, 0, 1])
)
keys = st.sampled_from(["a", "b", None])
values = st.one_of(st.none(), st.integers(-5, 5).map(float))
feature_rows = st.lists(
    st.fixed_dictionaries({"key": keys, "number": st.sampled_from([1, 2, None]), "value": values, "event_at": moments}),
    max_size=12,
).map(lambda rows: [row | {"made_at": NOON + (number * 7 % 13) * MINUTE} for number, row in enumerate(rows)])
# Some learnt before the moment they are for, some hours later, some who knows when.
late_rows = st.lists(
    st.fixed_dictionaries(
        {"key": keys, "value": values, "event_at": moments, "made_at": st.one_of(st.none(), moments, moments)}
    ),
    max_size=12,
    unique_by=lambda row: (row["key"], row["event_at"], row["made_at"]),
)
entity_rows = st.lists(
    st.fixed_dictionaries({"key": keys, "number": st.sampled_from([1, 2, None]), "event_timestamp": moments}),
    min_size=1,
    max_size=10,
)
ttls = st.sampled_from([timedelta(0), MICROSECOND, MINUTE, 2 * MINUTE, timedelta(days=1)])


def entity_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.assign(
        event_timestamp=pd.to_datetime(frame.event_timestamp, utc=True), number=frame.number.astype("Int64")
    )


@FAST
@given(rows=feature_rows, entities=entity_rows, ttl=ttls)
def test_each_row_gets_the_newest_fresh_row_of_its_key(table_at, rows, entities, ttl):
    """The newest row at or before the moment counts, of equals the last created, until the ttl ends; null is no key."""
    found = retrieve(entity_frame(entities), [view_of(table_at(rows), ttl=ttl)])
    wanted = [newest(rows, {"key": e["key"]}, e["event_timestamp"], ttl)["value"] for e in entities]
    assert cells(found.value) == wanted


@FAST
@given(rows=feature_rows, entities=entity_rows, ttl=ttls)
def test_a_key_of_two_columns_matches_only_when_both_do(table_at, rows, entities, ttl):
    """A row whose key is null in one part belongs to no entity, and an entity that lacks a part gets nothing."""
    found = retrieve(entity_frame(entities), [view_of(table_at(rows), ttl=ttl, keys=("key", "number"))])
    wanted = [
        newest(rows, {"key": e["key"], "number": e["number"]}, e["event_timestamp"], ttl)["value"] for e in entities
    ]
    assert cells(found.value) == wanted


@FAST
@given(
    first=feature_rows,
    second=feature_rows,
    entities=entity_rows,
    ttl=ttls,
    zone=st.sampled_from(["Asia/Kolkata", "America/New_York"]),
)
def test_views_are_joined_independently_and_rows_stay_in_order(table_at, first, second, entities, ttl, zone):
    """Several views with their own ttl, moments in another zone: one row out for each row in, in the same order."""
    frame = entity_frame(entities).assign(tag=range(len(entities)))
    frame["event_timestamp"] = frame.event_timestamp.dt.tz_convert(zone)
    views = [
        view_of(table_at(first), name="one", ttl=ttl, features=("value",)),
        view_of(table_at(second), name="two", keys=("number",)),
    ]
    found = retrieve(frame, views, full_feature_names=True)
    assert found.tag.tolist() == list(range(len(entities)))
    assert found.event_timestamp.tolist() == frame.event_timestamp.tolist()
    for e, one, two in zip(entities, cells(found.one__value), cells(found.two__value), strict=True):
        assert one == newest(first, {"key": e["key"]}, e["event_timestamp"], ttl)["value"]
        assert two == newest(second, {"number": e["number"]}, e["event_timestamp"], timedelta(0))["value"]


@FAST
@given(rows=feature_rows, entities=entity_rows)
def test_duplicate_rows_and_their_order_in_the_table_do_not_matter(table_at, rows, entities):
    """The same rows shuffled and doubled give the same answers."""
    frame = entity_frame(entities)
    once = retrieve(frame, [view_of(table_at(rows))])
    twice = retrieve(frame, [view_of(table_at(rows[::-1] + rows))])
    pd.testing.assert_frame_equal(once, twice)


@FAST
@given(rows=late_rows, entities=entity_rows, ttl=ttls, only_if_created=st.booleans())
def test_what_was_learnt_later_is_left_out_when_asked(table_at, rows, entities, ttl, only_if_created):
    """`filter_by_created_timestamp` answers as if asked at that moment: an older row known by then, or nothing."""
    found = retrieve(
        entity_frame(entities), [view_of(table_at(rows), ttl=ttl)], filter_by_created_timestamp=only_if_created
    )
    wanted = [
        newest(rows, {"key": e["key"]}, e["event_timestamp"], ttl, only_if_created=only_if_created)["value"]
        for e in entities
    ]
    assert cells(found.value) == wanted


@SLOW
@given(ticks=late_rows, prices=feature_rows, entities=entity_rows, ttl=ttls, full=st.booleans(), cutoff=st.booleans())
def test_the_stock_store_gives_the_same_answers(both_at, ticks, prices, entities, ttl, full, cutoff):
    """Its own duckdb store is what Feast means: keys of one and two columns, other names, ttl, created timestamps."""
    frame = entity_frame(entities).assign(tag=range(len(entities)), shop=[e["key"] for e in entities])

    def views(ticks_at: str, prices_at: str) -> list:
        return [
            view_of(ticks_at, name="ticks", ttl=ttl, features=("value",)).with_name("there").with_join_key_map(
                {"key": "shop"}
            ),
            view_of(prices_at, name="prices", ttl=ttl, keys=("key", "number"), features=("price",),
                    field_mapping={"value": "price"}),
        ]  # fmt: skip

    (ticks_delta, ticks_parquet), (prices_delta, prices_parquet) = both_at(ticks), both_at(prices)
    options = {"full_feature_names": full, "filter_by_created_timestamp": cutoff}
    ours = retrieve(frame, views(ticks_delta, prices_delta), **options)
    stock = retrieve_stock(frame, views(ticks_parquet, prices_parquet), **options)
    assert list(ours.columns) == list(stock.columns)
    for name in ("there__value", "prices__price") if full else ("value", "price"):
        assert cells(ours[name]) == cells(stock[name])


@SLOW
@given(rows=feature_rows, start=moments, length=st.integers(0, 4))
def test_the_stock_store_pulls_the_same_rows(both_at, rows, start, length):
    """Materialization gets from the table what it would get from the stock store."""
    delta, parquet = both_at(rows)
    asked_for = (["key"], ["value"], "event_at", "made_at", start, start + length * MINUTE)

    def pulled(config: Any, path: str, method: str) -> list:
        frame = getattr(store_of(config), method)(config, view_of(path).batch_source, *asked_for).to_df()
        moments_as = [pd.to_datetime(frame[name], utc=True) for name in ("event_at", "made_at")]
        return sorted(zip(cells(frame.key), cells(frame.value), *moments_as, strict=True), key=str)

    for method in ("pull_latest_from_table_or_query", "pull_all_from_table_or_query"):
        assert pulled(config_of(), delta, method) == pulled(config_of(stock=True), parquet, method)


@SLOW
@given(batches=st.lists(st.tuples(feature_rows, st.sampled_from(["append", "overwrite"])), min_size=1, max_size=4))
def test_each_version_of_a_table_answers_as_it_did_when_it_was_the_newest(table_at, batches):
    """Appended to or replaced since, a pinned table is what it was."""
    path, moment = table_at([]), NOON + 3 * MINUTE
    rows: list[dict[str, Any]] = []
    states = [rows]
    for number, (batch, mode) in enumerate(batches):
        learnt = [row | {"made_at": row["made_at"] + number * timedelta(hours=1)} for row in batch]
        rows = rows + learnt if mode == "append" else learnt
        write_deltalake(path, arrow(learnt), mode=mode)
        states.append(rows)
    for version, state in enumerate(states):
        found = retrieve(asked(moment), [view_of(path)], config=config_of({"prices_source": version}))
        assert cells(found.value) == [newest(state, {"key": "a"}, moment, timedelta(0))["value"]]


@FAST
@given(rows=feature_rows, start=moments, length=st.integers(0, 4))
def test_pulling_the_latest_gives_one_row_a_key_within_the_bounds(table_at, rows, start, length):
    """Materialization sees the newest row of each key with start <= event timestamp <= end, bounds included."""
    end = start + length * MINUTE
    source = view_of(table_at(rows)).batch_source
    arguments = (config_of(), source, ["key"], ["value"], "event_at", "made_at", start, end)
    latest = store_of(config_of()).pull_latest_from_table_or_query(*arguments).to_df()
    everything = store_of(config_of()).pull_all_from_table_or_query(*arguments).to_df()
    within = [row for row in rows if start <= row["event_at"] <= end]
    last: dict[Any, dict[str, Any]] = {}
    for row in sorted(within, key=lambda row: (row["event_at"], row["made_at"])):
        last[row["key"]] = row

    def listed(frame: pd.DataFrame) -> list:
        columns = zip(cells(frame.key), cells(frame.value), frame.event_at, frame.made_at, strict=True)
        return sorted(columns, key=str)

    def raw(chosen: list[dict[str, Any]]) -> list:
        as_columns = [(r["key"], r["value"], pd.Timestamp(r["event_at"]), pd.Timestamp(r["made_at"])) for r in chosen]
        return sorted(as_columns, key=str)

    assert listed(latest) == raw(list(last.values()))
    assert listed(everything) == raw(within)


def made_up(count: int, keys_there: int, steps: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Feature rows and as many questions, always the same: no two rows of a key say the same of when they count."""
    chance = random.Random(keys_there)

    def moment() -> datetime:
        return NOON + chance.randrange(steps) * MINUTE + chance.choice([0, 0, 0, 1]) * MICROSECOND

    def key() -> dict[str, Any]:
        return {"key": chance.choice([None, *map(str, range(keys_there))]), "number": chance.choice([1, 2, None])}

    rows = {}
    for _ in range(count):
        facts = key() | {"value": chance.choice([None, -1.0, 2.0, 3.0]), "event_at": moment()}
        facts["made_at"] = chance.choice([None, moment(), moment(), facts["event_at"]])
        rows[facts["key"], facts["event_at"], facts["made_at"]] = facts
    return list(rows.values()), [key() | {"event_timestamp": moment()} for _ in range(count)]


@pytest.mark.parametrize("only_if_created", [False, True])
@pytest.mark.parametrize(("keys_there", "steps"), [(2, 200), (300, 8)])
def test_hundreds_of_questions_have_as_many_answers(table_at, keys_there, steps, only_if_created):
    """A few keys with long histories and many with short ones; every ttl, keys of one column, of two and of none."""
    rows, entities = made_up(600, keys_there, steps)
    path, ttls_asked = table_at(rows), [timedelta(0), MICROSECOND, MINUTE, 5 * MINUTE, timedelta(days=1)]
    singles = {(row["event_at"], row["made_at"]): row for row in rows}  # without a key, more are of one moment
    views = [view_of(path, name=f"ttl_{number}", ttl=ttl) for number, ttl in enumerate(ttls_asked)]
    views += [
        view_of(path, name="both", ttl=5 * MINUTE, keys=("number", "key")),
        view_of(table_at(list(singles.values())), name="all", ttl=MINUTE, keys=()),
    ]
    found = retrieve(
        entity_frame(entities), views, full_feature_names=True, filter_by_created_timestamp=only_if_created
    )

    def wanted(state: list[dict[str, Any]], ttl: timedelta, *names: str) -> list[Any]:
        return [
            newest(state, {n: e[n] for n in names}, e["event_timestamp"], ttl, only_if_created=only_if_created)["value"]
            for e in entities
        ]

    for number, ttl in enumerate(ttls_asked):
        assert cells(found[f"ttl_{number}__value"]) == wanted(rows, ttl, "key")
    assert cells(found["both__value"]) == wanted(rows, 5 * MINUTE, "key", "number")
    assert cells(found["all__value"]) == wanted(list(singles.values()), MINUTE)


def row(key: str = "a", value: float | None = 1.0, at: datetime = NOON, made: datetime = NOON) -> dict[str, Any]:
    return {"key": key, "number": 1, "value": value, "event_at": at, "made_at": made}


def asked(*moments_asked: datetime, key: str = "a") -> pd.DataFrame:
    return pd.DataFrame({"key": key, "event_timestamp": pd.to_datetime(list(moments_asked), utc=True)})


def test_a_row_may_be_used_up_to_its_ttl_and_not_a_microsecond_longer(table_at):
    """The edge of the ttl belongs to the row."""
    found = retrieve(
        asked(NOON - MICROSECOND, NOON, NOON + MINUTE, NOON + MINUTE + MICROSECOND),
        [view_of(table_at([row()]), ttl=MINUTE)],
    )
    assert cells(found.value) == [None, 1.0, 1.0, None]


def test_a_ttl_of_zero_never_expires(table_at):
    """Feast's zero means for ever, not at once."""
    found = retrieve(asked(NOON + timedelta(days=40_000)), [view_of(table_at([row()]), ttl=timedelta(0))])
    assert cells(found.value) == [1.0]


def test_a_source_may_have_no_created_timestamp(table_at):
    """Without one there is nothing to break ties by, and nothing else changes."""
    assert cells(retrieve(asked(NOON), [view_of(table_at([row()]), created="")]).value) == [1.0]


def test_a_null_created_timestamp_is_the_oldest_of_equals(table_at):
    """A row that says when it was learnt counts before one that does not."""
    path = table_at([row(value=1.0), row(value=2.0) | {"made_at": None}])
    assert cells(retrieve(asked(NOON), [view_of(path)]).value) == [1.0]


def test_a_correction_counts_from_when_it_was_made(table_at):
    """Asked as of a moment before the correction, the store says what it would have said then."""
    path = table_at([row(value=1.0), row(value=2.0, made=NOON + 2 * MINUTE)])
    question = asked(NOON + 2 * MINUTE - MICROSECOND, NOON + 2 * MINUTE)
    assert cells(retrieve(question, [view_of(path)], filter_by_created_timestamp=True).value) == [1.0, 2.0]
    assert cells(retrieve(question, [view_of(path)]).value) == [2.0, 2.0]


def test_a_late_row_does_not_hide_a_newer_one(table_at):
    """Made last but for an earlier moment: what is newer stays, though the late row became visible after it."""
    path = table_at([row(value=1.0, at=NOON + MINUTE, made=NOON + MINUTE), row(value=0.0, made=NOON + 2 * MINUTE)])
    found = retrieve(asked(NOON + 3 * MINUTE), [view_of(path)], filter_by_created_timestamp=True)
    assert cells(found.value) == [1.0]


def test_of_rows_that_become_visible_at_once_the_later_event_counts(table_at):
    """It counts though it was made first: creation decides between equal event timestamps only."""
    path = table_at(
        [row(value=1.0, at=NOON + MINUTE, made=NOON), row(value=0.0, at=NOON, made=NOON + MINUTE), row(value=-1.0)]
    )
    question = asked(NOON + MINUTE - MICROSECOND, NOON + MINUTE)
    assert cells(retrieve(question, [view_of(path)], filter_by_created_timestamp=True).value) == [-1.0, 1.0]


def test_the_ttl_of_a_late_row_runs_from_its_event_timestamp(table_at):
    """Being made late does not keep a row fresh."""
    view = view_of(table_at([row(made=NOON + MINUTE)]), ttl=MINUTE)
    question = asked(NOON, NOON + MINUTE, NOON + MINUTE + MICROSECOND)
    assert cells(retrieve(question, [view], filter_by_created_timestamp=True).value) == [None, 1.0, None]


def test_without_a_created_timestamp_there_is_nothing_to_filter_by(table_at):
    """`filter_by_created_timestamp` leaves a view alone whose source has no such column."""
    view = view_of(table_at([row(made=NOON + MINUTE)]), created="")
    assert cells(retrieve(asked(NOON), [view], filter_by_created_timestamp=True).value) == [1.0]


def test_a_ttl_may_be_longer_than_the_calendar(table_at):
    """Ten thousand years is the longest that Feast can store; the moment less the ttl is no Python date."""
    view = view_of(table_at([row()]), ttl=timedelta(days=3_652_500))
    assert cells(retrieve(asked(NOON - MICROSECOND, NOON), [view]).value) == [None, 1.0]


def test_a_newer_null_hides_an_older_value(table_at):
    """Null is what is known by then; the older value is not brought back."""
    found = retrieve(asked(NOON + 2 * MINUTE), [view_of(table_at([row(), row(value=None, at=NOON + MINUTE)]))])
    assert cells(found.value) == [None]


def test_moments_without_a_zone_are_utc(table_at):
    """A naive event timestamp is read as UTC, whatever the machine's zone."""
    naive = pd.DataFrame(
        {"key": ["a", "a"], "event_timestamp": [pd.Timestamp("2013-07-01T12:00"), pd.Timestamp("2013-07-01T11:59")]}
    )
    assert cells(retrieve(naive, [view_of(table_at([row()]))]).value) == [1.0, None]


def test_moments_may_be_text(table_at):
    """As in the stock store: ISO 8601, UTC unless it says otherwise."""
    view = view_of(table_at([row()]))
    for moments_asked, wanted in (
        (["2013-07-01T12:00:00", "2013-07-01T11:59:59"], [1.0, None]),
        (["2013-07-01T12:00:00+00:00", "2013-07-01T12:00:00+02:00"], [1.0, None]),
    ):
        frame = pd.DataFrame({"key": "a", "event_timestamp": moments_asked})
        assert cells(retrieve(frame, [view]).value) == wanted


def test_the_hour_that_clocks_repeat_is_two_hours(table_at):
    """01:30 in New York before and after daylight saving time ends are different moments."""
    new_york = ZoneInfo("America/New_York")
    summer = pd.Timestamp(datetime(2013, 11, 3, 1, 30, tzinfo=new_york))
    winter = pd.Timestamp(datetime(2013, 11, 3, 1, 30, fold=1, tzinfo=new_york))
    frame = pd.DataFrame({"key": "a", "event_timestamp": [summer, winter]})
    path = table_at([row(at=datetime(2013, 11, 3, 6, tzinfo=UTC))])
    assert cells(retrieve(frame, [view_of(path)]).value) == [None, 1.0]


def test_moments_in_nanoseconds_are_not_rounded_up(table_at):
    """A nanosecond before the row's event timestamp, the row is not known yet."""
    frame = asked(NOON)
    frame["event_timestamp"] = frame.event_timestamp.dt.as_unit("ns") - pd.Timedelta(1, "ns")
    assert cells(retrieve(frame, [view_of(table_at([row()]))]).value) == [None]


def test_entity_rows_may_come_from_sql(table_at):
    """An SQL SELECT serves as entity dataframe, in the order of its rows."""
    query = "SELECT unnest(['a', 'b']) AS key, TIMESTAMPTZ '2013-07-01 12:00:00+00' AS event_timestamp"
    found = retrieve(query, [view_of(table_at([row(), row(key="b", value=2.0)]))])
    assert dict(zip(found.key, found.value, strict=True)) == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("kind", ["TIMESTAMPTZ '2013-07-01 14:00:00+02'", "TIMESTAMP '2013-07-01 12:00:00'"])
def test_sql_may_compute_moments_with_or_without_a_zone(table_at, kind):
    """Without one they are UTC, as in a dataframe."""
    for earlier, value in ((0, 1.0), (1, None)):
        query = f"SELECT 'a' AS key, {kind} - to_microseconds({earlier}) AS event_timestamp"
        assert cells(retrieve(query, [view_of(table_at([row()]))]).value) == [value]


def test_an_entity_dataframe_without_the_key_is_refused(table_at):
    """The message names the view, the missing column and the columns there are."""
    from fti.stores.asof import JoinKeyMissing

    view = view_of(table_at([row()]))
    with pytest.raises(JoinKeyMissing, match=r"(?s)'prices'.*\['key'\].*'shop'"):
        retrieve(asked(NOON).rename(columns={"key": "shop"}), [view])


def test_an_empty_entity_dataframe_gives_an_empty_answer(table_at):
    """No question, no row, but every column."""
    found = retrieve(asked(NOON).iloc[:0], [view_of(table_at([row()]))])
    assert list(found.columns) == ["key", "event_timestamp", "value"]
    assert found.empty


def test_an_empty_table_gives_nulls(table_at):
    """A view that has no rows yet knows nothing, which is no error."""
    assert cells(retrieve(asked(NOON), [view_of(table_at([]))]).value) == [None]


def test_a_field_mapping_renames_columns_of_the_source(table_at):
    """The feature's name is the view's, the column's name the source's, for features and for keys."""
    columns = {"shop_key": pa.string(), "v": pa.float64(), "event_at": UTC_MICROSECONDS, "made_at": UTC_MICROSECONDS}
    path = table_at([{"shop_key": "a", "v": 5.0, "event_at": NOON, "made_at": NOON}], columns)
    assert cells(retrieve(asked(NOON), [view_of(path, field_mapping={"v": "value", "shop_key": "key"})]).value) == [5.0]


def test_a_field_mapping_renames_the_timestamps_too(table_at):
    """Feast's own rule: where a mapping renames them, the source names them as the view does."""
    columns = {"key": pa.string(), "value": pa.float64(), "t": UTC_MICROSECONDS, "c": UTC_MICROSECONDS}
    rows = [{"key": "a", "value": float(n), "t": NOON, "c": NOON + n * MINUTE} for n in (2, 1)]
    view = view_of(
        table_at(rows, columns), field_mapping={"t": "at", "c": "made"}, timestamp="at", created="made", ttl=MINUTE
    )
    assert cells(retrieve(asked(NOON), [view]).value) == [2.0]
    assert cells(retrieve(asked(NOON), [view], filter_by_created_timestamp=True).value) == [None]


def test_one_part_of_a_key_may_be_renamed(table_at):
    """Keys that `with_join_key_map` does not name keep their name."""
    view = view_of(table_at([row("a", 1.0), row("b", 2.0)]), keys=("key", "number")).with_join_key_map({"key": "shop"})
    found = retrieve(asked(NOON).assign(shop="b", number=[1]), [view])
    assert cells(found.value) == [2.0]


def test_a_view_without_entities_is_the_same_for_all(table_at):
    """Its newest row at the moment is everybody's."""
    path = table_at([row("x", 1.0), row("y", 2.0, at=NOON + MINUTE)])
    question = pd.concat([asked(NOON - MICROSECOND, NOON), asked(NOON + MINUTE, key="b")])
    for cutoff in (False, True):
        found = retrieve(question, [view_of(path, keys=())], filter_by_created_timestamp=cutoff)
        assert cells(found.value) == [None, 1.0, 2.0]


def test_a_view_may_be_joined_twice_under_other_keys(table_at):
    """`with_join_key_map` and `with_name` join one view for two columns of the entity dataframe."""
    path = table_at([row("a", 1.0), row("b", 2.0)])
    frame = asked(NOON).rename(columns={"key": "here"}).assign(there="b")
    views = [view_of(path).with_name(name).with_join_key_map({"key": name}) for name in ("here", "there")]
    found = retrieve(frame, views, ["here:value", "there:value"], full_feature_names=True)
    assert (cells(found.here__value), cells(found.there__value)) == ([1.0], [2.0])


def test_only_the_features_asked_for_come_back_and_in_that_order(table_at):
    """Feature references choose and order the columns; names are short unless full names are asked for."""
    columns = ARROW | {"other": pa.float64()}
    view = view_of(table_at([row() | {"other": 9.0}], columns), features=("value", "other"))
    assert list(retrieve(asked(NOON), [view], ["prices:other", "prices:value"]).columns)[2:] == ["other", "value"]
    assert list(retrieve(asked(NOON), [view], ["prices:other"], full_feature_names=True).columns)[2:] == [
        "prices__other"
    ]


def test_a_feature_name_may_end_in_y(table_at):
    """Stock Feast drops such a feature: it takes it for a leftover of its join."""
    columns = ARROW | {"humidity_y": pa.float64()}
    view = view_of(table_at([row() | {"humidity_y": 3.0}], columns), features=("humidity_y",))
    assert cells(retrieve(asked(NOON), [view]).humidity_y) == [3.0]


def test_columns_of_the_entity_dataframe_pass_through(table_at):
    """Request fields come back beside the features, timestamps as the same moments in UTC."""
    local = pd.Timestamp("2013-07-01T08:00", tz=ZoneInfo("America/New_York"))
    found = retrieve(asked(NOON).assign(label="x", leaves=local), [view_of(table_at([row()]))])
    assert found.label.tolist() == ["x"]
    assert found.leaves.tolist() == [local]


def test_a_pinned_version_is_read_whatever_was_written_since(table_at):
    """`delta_versions` gives a model the features it was trained on; tables not named are read at their newest."""
    path = table_at([row(value=1.0)])
    write_deltalake(path, arrow([row(value=2.0)]), mode="overwrite")
    pinned = config_of({"prices_source": 0})
    view = view_of(path)
    assert cells(retrieve(asked(NOON), [view]).value) == [2.0]
    assert cells(retrieve(asked(NOON), [view], config=pinned).value) == [1.0]
    arguments = (view.batch_source, ["key"], ["value"], "event_at", "made_at", NOON, NOON)
    assert store_of(pinned).pull_latest_from_table_or_query(pinned, *arguments).to_df().value.tolist() == [1.0]
    assert store_of(pinned).pull_all_from_table_or_query(pinned, *arguments).to_df().value.tolist() == [1.0]


def test_rows_that_a_later_version_replaced_are_not_read(table_at):
    """Files of superseded versions still lie in the folder: only the snapshot's own files count."""
    path = table_at([row(value=1.0), row("b", 7.0)])
    write_deltalake(path, arrow([row("b", 8.0)]), mode="overwrite")
    assert cells(retrieve(asked(NOON), [view_of(path)]).value) == [None]


def test_a_missing_table_is_named_with_the_command_that_builds_it(folder):
    """There is a way out of a store without tables, and the message says it."""
    from fti.stores.delta import TableMissing

    with pytest.raises(TableMissing, match=r"nowhere.*make pipeline"):
        retrieve(asked(NOON), [view_of(str(folder / "nowhere"))])


def test_a_missing_data_file_is_an_error_not_fewer_rows(table_at):
    """A table whose file is gone is corrupt; answering from the files that are left would be wrong in silence."""
    from fti.stores.delta import TableCorrupt

    path = table_at([row()])
    next(Path(path).glob("*.parquet")).unlink()
    with pytest.raises(TableCorrupt, match="1 data file"):
        retrieve(asked(NOON), [view_of(path)])


def test_a_retrieval_can_be_kept_as_a_table_and_not_overwritten_by_accident(table_at, folder):
    """`persist` writes what `to_df` gives; writing over it takes `allow_overwrite`."""
    from deltalake import DeltaTable
    from feast.data_format import DeltaFormat
    from feast.errors import SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    job = job_of(asked(NOON), [view_of(table_at([row()]))])
    path = str(folder / f"kept_{ASKED['store']}")
    storage = SavedDatasetFileStorage(path=path, file_format=DeltaFormat())
    job.persist(storage)
    assert DeltaTable(path).to_pandas().value.tolist() == [1.0]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    job.persist(storage, allow_overwrite=True)


@pytest.fixture
def shop(applied):
    """The store whose turn it is, over the same registry."""
    from feast import FeatureStore

    offline = {"offline_store": STORES[ASKED["store"]]}
    return FeatureStore(config=applied.config.__class__(**(applied.config.model_dump(by_alias=True) | offline)))


@pytest.fixture(scope="module")
def applied(folder, table_at):
    """A feature store: prices by key, an index for all, and an on-demand cost of the price and a request field."""
    from feast import Entity, FeatureStore, Field, RepoConfig, RequestSource, ValueType
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64, UnixTimestamp

    prices = view_of(table_at([row(value=1.0), row(value=2.0, made=NOON + MINUTE)]))
    columns = {"index": pa.float64(), "event_at": UTC_MICROSECONDS, "made_at": UTC_MICROSECONDS}
    index = view_of(
        table_at([{"index": 5.0, "event_at": NOON, "made_at": NOON}], columns),
        name="index", keys=(), features=("index",),
    )  # fmt: skip
    order = RequestSource(
        name="order", schema=[Field(name="amount", dtype=Float64), Field(name="ordered_at", dtype=UnixTimestamp)]
    )

    @on_demand_feature_view(
        sources=[prices, order],
        schema=[Field(name="cost", dtype=Float64), Field(name="ordered_hour", dtype=Float64)],
        mode="python",
    )
    def bill(inputs):
        return {
            "cost": [
                None if price is None else price * amount
                for price, amount in zip(inputs["value"], inputs["amount"], strict=True)
            ],
            "ordered_hour": [None if moment is None else float(moment.hour) for moment in inputs["ordered_at"]],
        }

    config = RepoConfig(
        project="shop", provider="local", registry=str(folder / "registry.db"), offline_store=STORES["duckdb"],
        online_store={"type": "sqlite", "path": str(folder / "online.db")}, repo_path=folder,
        entity_key_serialization_version=3,
    )  # fmt: skip
    store = FeatureStore(config=config)
    key = Entity(name="key_entity", join_keys=["key"], value_type=ValueType.STRING)
    store.apply([key, prices, index, bill])
    return store


def orders() -> pd.DataFrame:
    """Before the first price, at it, and when it has been corrected; one order does not say when it was made."""
    frame = asked(NOON - MINUTE, NOON, NOON + MINUTE)
    return frame.assign(amount=10.0, ordered_at=[NOON, None, NOON + timedelta(hours=1)])


@pytest.mark.parametrize("full", [False, True])
def test_on_demand_features_see_what_was_joined(shop, full):
    """Names short or full, null for null, timestamps as datetimes; the cutoff reaches the store through Feast."""
    refs = ["prices:value", "bill:cost", "bill:ordered_hour"]
    cost, hour = ("bill__cost", "bill__ordered_hour") if full else ("cost", "ordered_hour")
    found = shop.get_historical_features(orders(), refs, full_feature_names=full).to_df()
    assert cells(found[cost]) == [None, 20.0, 20.0]
    assert cells(found[hour]) == [12.0, None, 13.0]
    cut = shop.get_historical_features(orders(), refs, full_feature_names=full, filter_by_created_timestamp=True)
    assert cells(cut.to_df()[cost]) == [None, 10.0, 20.0]


def test_a_registered_view_without_entities_is_joined_and_materialized(shop):
    """The registry gives it a key that its table lacks; offline it needs none, and online it is written under it."""
    assert cells(shop.get_historical_features(asked(NOON), ["index:index"]).to_df()["index"]) == [5.0]
    # Feast's offline server hands the store the registry's views as they are.
    assert cells(retrieve(asked(NOON), [shop.get_feature_view("index")])["index"]) == [5.0]
    for pull_latest in (False, True):
        shop.config.materialization_config.pull_latest_features = pull_latest
        shop.materialize(NOON - MINUTE, NOON + MINUTE, feature_views=["index"])
        assert shop.get_online_features(["index:index"], [{"key": "anybody"}]).to_dict()["index"] == [5.0]


def test_a_saved_dataset_in_parquet_has_the_on_demand_features_too(shop, folder):
    """What is kept is what a training run would have got."""
    from feast.data_format import ParquetFormat
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    job = shop.get_historical_features(orders(), ["prices:value", "bill:cost"])
    job.persist(
        SavedDatasetFileStorage(path=str(folder / f"kept_{ASKED['store']}.parquet"), file_format=ParquetFormat())
    )
    pd.testing.assert_frame_equal(pd.read_parquet(folder / f"kept_{ASKED['store']}.parquet"), job.to_df())


def test_a_job_may_be_run_twice(table_at):
    """A retrieval is a question, not a stream: asking again gives the same answer."""
    job = job_of(asked(NOON), [view_of(table_at([row()]))])
    pd.testing.assert_frame_equal(job.to_df(), job.to_df())
    assert job.to_arrow().column("value").to_pylist() == [1.0]


@pytest.mark.parametrize(
    "stamps", [UTC_MICROSECONDS, pa.timestamp("ns", tz="UTC"), pa.timestamp("ns"), pa.timestamp("us")]
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_parquet_source_is_read_too(tmp_path, kind, stamps):
    """The stores say that they read Delta Lake and Parquet sources, whatever precision pandas gave them."""
    from feast import FileSource
    from feast.data_format import ParquetFormat

    columns = ARROW | {"event_at": stamps, "made_at": stamps}
    path = str(tmp_path / "rows.parquet" if kind == "file" else tmp_path)
    pq.write_table(arrow([row()], columns), tmp_path / "rows.parquet")
    if kind == "folder":
        (tmp_path / "deeper").mkdir()
        pq.write_table(arrow([row(value=0.0, at=NOON - MINUTE)], columns), tmp_path / "deeper" / "more.parquet")
    view = view_of(path)
    view.batch_source = FileSource(
        name="prices_source",
        path=path,
        file_format=ParquetFormat(),
        timestamp_field="event_at",
        created_timestamp_column="made_at",
    )
    assert cells(retrieve(asked(NOON), [view]).value) == [1.0]
    assert cells(retrieve(asked(NOON - MICROSECOND), [view]).value) == ([None] if kind == "file" else [0.0])


def test_a_missing_parquet_source_is_named(tmp_path):
    """A file that is not there and a folder without files alike."""
    from fti.stores.delta import TableMissing, connect, create_parquet_view

    for path in (tmp_path, tmp_path / "nowhere.parquet"):
        with pytest.raises(TableMissing, match=str(path)):
            create_parquet_view(connect(), "rows", path)


@pytest.mark.parametrize("content", ["", "garbage"])
def test_a_log_that_is_none_is_an_error_that_names_the_table(table_at, content):
    """One line: what delta-rs adds of its own stack says nothing to anybody."""
    from fti.stores.delta import TableCorrupt

    path = table_at([row()])
    (Path(path) / "_delta_log" / f"{0:020}.json").write_text(content)
    with pytest.raises(TableCorrupt, match=path) as error:
        retrieve(asked(NOON), [view_of(path)])
    assert "\n" not in str(error.value)


def test_retrieval_metadata_says_what_was_asked(table_at):
    """Features, keys and the range of moments: what a saved dataset records."""
    metadata = job_of(asked(NOON + MINUTE, NOON), [view_of(table_at([row()]))]).metadata
    assert (metadata.features, metadata.keys) == (["prices:value"], ["key"])
    assert (metadata.min_event_timestamp, metadata.max_event_timestamp) == (NOON, NOON + MINUTE)


def test_spark_takes_entity_rows_from_sql_and_from_its_own_dataframes(table_at):
    """In any order of rows; a moment may be a timestamp with or without a zone, which then is UTC."""
    from fti.stores.spark_session import open_session

    view = view_of(table_at([row(), row(key="b", value=2.0)]))
    for kind in ("TIMESTAMP '2013-07-01 14:00:00+02:00'", "TIMESTAMP_NTZ '2013-07-01 12:00:00'"):
        query = f"SELECT explode(array('a', 'b', 'c')) AS key, {kind} AS event_timestamp"
        for entities in (query, open_session(SPARK_CONF).sql(query)):
            found = retrieve(entities, [view])
            assert dict(zip(found.key, cells(found.value), strict=True)) == {"a": 1.0, "b": 2.0, "c": None}


def test_a_spark_answer_may_stay_in_spark(table_at):
    """`to_spark_df` has the columns of `to_df`, and no row has passed through this process."""
    entities = pd.concat([asked(NOON), asked(NOON, key="b")]).assign(label=["x", "y"])
    job = job_of(entities, [view_of(table_at([row()]))])
    frame = job.to_spark_df()
    assert frame.columns == list(job.to_df().columns) == ["key", "event_timestamp", "label", "value"]
    assert {(line.key, line.label, line.value) for line in frame.collect()} == {("a", "x", 1.0), ("b", "y", None)}


def test_spark_reads_a_table_whose_path_looks_like_a_pattern(folder):
    """A star in a folder's name means nothing; nor do partitions' names in hexadecimal escapes."""
    path = str(folder / "a*b" / "table")
    columns = ARROW | {"part": pa.string()}
    write_deltalake(path, arrow([row() | {"part": "x y/z"}], columns), partition_by=["part"])
    assert cells(retrieve(asked(NOON), [view_of(path)]).value) == [1.0]


def test_a_table_may_be_a_link(table_at, folder):
    """Where tables lie may be a link to a bigger disk; partitions' names are columns there too, whatever they are."""
    path = str(folder / f"partitioned_{ASKED['store']}")
    columns = ARROW | {"part": pa.string()}
    write_deltalake(path, arrow([row() | {"part": "x y/100%"}], columns), partition_by=["part"])
    link = folder / f"link_{ASKED['store']}"
    link.symlink_to(path)
    assert cells(retrieve(asked(NOON), [view_of(str(link))]).value) == [1.0]


def test_spark_takes_categories_for_keys(table_at):
    """pandas' categories are the text that they stand for; columns that no view needs may have any type."""
    frame = asked(NOON).assign(key=pd.Categorical(["a"]), span=pd.Timedelta(1, "s"), small=pd.array([7], "UInt8"))
    job = job_of(frame, [view_of(table_at([row()]))])
    found = job.to_df()
    assert cells(found.value) == [1.0]
    assert found.small.tolist() == [7]
    assert [(line.key, line.small, line.value) for line in job.to_spark_df().collect()] == [("a", 7, 1.0)]


def test_a_key_may_be_a_number_without_a_sign(table_at):
    """Which pandas makes of small ones to save memory."""
    frame = asked(NOON, NOON).assign(number=pd.array([1, 2], "UInt16"))
    assert cells(retrieve(frame, [view_of(table_at([row()]), keys=("number",))]).value) == [1.0, None]


def test_an_entity_row_without_a_moment_finds_nothing(table_at):
    """And takes nothing from the others; its like, in the same moment and of the same key, get the same."""
    frame = asked(NOON, NOON, NOON).assign(key=["a", "a", None])
    nowhen = asked(NOON).assign(event_timestamp=pd.Series([pd.NaT]).dt.tz_localize("UTC"))
    for only_if_created in (False, True):
        found = retrieve(
            pd.concat([frame, nowhen]), [view_of(table_at([row()]))], filter_by_created_timestamp=only_if_created
        )
        assert cells(found.value) == [1.0, 1.0, None, None]


def test_bounds_without_a_zone_are_utc(table_at):
    """Of a pull too, and both belong to it."""
    source = view_of(table_at([row(), row(value=2.0, at=NOON + MINUTE)])).batch_source
    noon = NOON.replace(tzinfo=None)
    arguments = (config_of(), source, ["key"], ["value"], "event_at", "made_at", noon, noon)
    for pull in ("pull_latest_from_table_or_query", "pull_all_from_table_or_query"):
        assert getattr(store_of(config_of()), pull)(*arguments).to_df().value.tolist() == [1.0]


@pytest.mark.parametrize("suffix", ["", ".parquet"])
def test_spark_reads_files_of_this_machine_on_a_cluster_with_another_file_system(folder, suffix):
    """As on one with HDFS, where a path without a scheme is one of HDFS."""
    from fti.stores.spark_session import open_session

    spark, path = open_session(SPARK_CONF), str(folder / f"here{suffix}")
    pq.write_table(arrow([row()]), path) if suffix else write_deltalake(path, arrow([row()]))
    spark.conf.set("fs.defaultFS", "hdfs://nobody.invalid:1")
    try:
        assert cells(retrieve(asked(NOON), [view_of(path)]).value) == [1.0]
    finally:
        spark.conf.unset("fs.defaultFS")
