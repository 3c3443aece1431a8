"""A point-in-time join on Spark: entity rows and what views know come in, entity rows with features come out.

Both are stacked, sorted by key and moment, and each entity row takes the last feature row above it: one shuffle and one
sort for all views with the same keys, however many rows a key has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812

from fti.stores.asof import ViewPlan
from fti.stores.spark_tables import EPOCH, MICROSECOND, between, micros, microseconds, named, timestamp_at

# Rows of one moment in the order in which they count: what was known before, feature rows, entity rows.
BEFORE, KNOWN, ASKED = 0, 1, 2


@dataclass(frozen=True)
class Extent:
    """From when to when entity rows ask, None when there are none, and of how many keys, by columns."""

    first: datetime | None
    last: datetime | None
    distinct: dict[tuple[str, ...], int]

    @classmethod
    def of(cls, entities: pa.Table | DataFrame, timestamp: str, keys: Sequence[tuple[str, ...]]) -> Extent:
        if isinstance(entities, pa.Table):
            moments = entities.column(timestamp)
            distinct = {names: entities.group_by([*names]).aggregate([]).num_rows for names in keys}
            return cls(pc.min(moments).as_py(), pc.max(moments).as_py(), distinct)
        moment = micros(named(timestamp))
        counts = [F.approx_count_distinct(F.xxhash64(F.lit(0), *map(named, names))) for names in keys]
        (found,) = entities.agg(F.min(moment), F.max(moment), *counts).collect()
        first, last = (None if moment is None else EPOCH + moment * MICROSECOND for moment in found[:2])
        return cls(first, last, dict(zip(keys, found[2:], strict=True)))

    def slice_length(self, keys: tuple[str, ...], wanted: int) -> int | None:
        """Microseconds of each slice of time, if there are fewer keys than parts `wanted`; None to leave time whole."""
        distinct = max(1, self.distinct[keys])
        if self.first is None or self.last is None or distinct >= wanted:
            return None
        return (self.last - self.first) // MICROSECOND // math.ceil(wanted / distinct) + 1


def join_views(
    entities: DataFrame, plans: Sequence[ViewPlan], known: Sequence[DataFrame], timestamp: str, extent: Extent
) -> DataFrame:
    """The entity rows with every view's features behind their own columns.

    Columns have numbers until the end: c0, c1... are those of the entity rows, v0_0, v0_1... the first view's features.
    So no name has to be quoted, and none can clash.
    """
    names = [*entities.columns, *(name for plan in plans for name in plan.names)]
    numbers = {name: f"c{number}" for number, name in enumerate(entities.columns)}
    base = joined = entities.toDF(*numbers.values())
    parts = 2 * int(entities.sparkSession.conf.get("spark.sql.shuffle.partitions") or 1)
    for keys in dict.fromkeys(map(entity_keys, plans)):
        views = {f"v{number}": plan for number, plan in enumerate(plans) if entity_keys(plan) == keys}
        rows = [known[number].withColumnRenamed("row", f"v{number}") for number, plan in enumerate(plans)
                if entity_keys(plan) == keys]  # fmt: skip
        asked = [F.col(numbers[name]).alias(f"k{number}") for number, name in enumerate(keys)]
        moment = micros(F.col(numbers[timestamp])).alias("at")
        stacked = _Stack(
            len(keys),
            views,
            joined.select(*asked, moment, F.struct("*").alias("entity")),
            base.select(*asked, moment),
            reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), rows),
        )
        joined = stacked.joined(extent.first, extent.slice_length(keys, parts))
    order = [f"v{number}_{place}" for number, plan in enumerate(plans) for place in range(len(plan.names))]
    return joined.select(*numbers.values(), *order).toDF(*names)


@dataclass(frozen=True)
class _Stack:
    """Entity rows and the rows of the views that share their keys, to be sorted into each other.

    `asked` has the columns k0, k1..., at (microseconds) and entity, a struct; `moments` the first two of them, straight
    from their source; `known` k0, k1..., at, created and for each view a struct, null in the rows of other views.
    """

    keys: int
    views: dict[str, ViewPlan]
    asked: DataFrame
    moments: DataFrame
    known: DataFrame

    def joined(self, first: datetime | None, slice_length: int | None) -> DataFrame:
        """The entity rows' own columns and the features, v0_0, v0_1...; null once older than the view's ttl."""
        known, asked = self.known, self.asked
        by = [f"k{number}" for number in range(self.keys)]
        if slice_length and first:
            start = microseconds(first)
            known, asked = (_sliced(rows, start, slice_length) for rows in (known, asked))
            before = self._before(known, _sliced(self.moments, start, slice_length), start, slice_length, by)
            known = known.where(F.col("at") >= start).withColumn("rank", F.lit(KNOWN)).unionByName(before)
            by_slice = [*by, "slice"]
        else:
            known, by_slice = known.withColumn("rank", F.lit(KNOWN)), by
        rows = known.unionByName(asked.withColumn("rank", F.lit(ASKED)), allowMissingColumns=True)
        # An entity row without a key finds nothing; all of them in one partition would be a heap.
        alone = [F.when(reduce(Column.__or__, [F.col(key).isNull() for key in by]), F.col("at"))] if by else []
        upwards = (
            Window.partitionBy(*by_slice, *alone)
            .orderBy("at", "rank", F.col("created").asc_nulls_first())
            .rowsBetween(Window.unboundedPreceding, Window.currentRow)
        )
        found = rows.select(
            "rank", "at", "entity", *(self._newest(view).over(upwards).alias(view) for view in self.views)
        )
        features = [
            F.when(_fresh(plan, view), F.col(f"{view}.f{place}")).alias(f"{view}_{place}")
            for view, plan in self.views.items()
            for place in range(len(plan.names))
        ]
        return found.where(F.col("rank") == ASKED).select("entity.*", *features)

    def _newest(self, view: str) -> Column:
        """Of a view's rows so far the one that counts: the last, or where rows come as they are created, the newest."""
        if self.views[view].cutoff:
            return F.max_by(view, _age(view))
        return F.last(view, ignorenulls=True)

    def _before(self, known: DataFrame, moments: DataFrame, start: int, slice_length: int, by: list[str]) -> DataFrame:
        """For each key and slice that is asked for: each view's newest row of the slices before, as if at its start."""
        newest = [F.max_by(view, _age(view)).alias(view) for view in self.views]
        heads = known.groupBy(*by, "slice").agg(*newest).withColumn("rank", F.lit(KNOWN))
        asked = moments.select(*by, "slice").distinct().withColumn("rank", F.lit(BEFORE))
        upwards = (
            Window.partitionBy(*by).orderBy("slice", "rank").rowsBetween(Window.unboundedPreceding, Window.currentRow)
        )
        carried = heads.unionByName(asked, allowMissingColumns=True).select(
            *by,
            "slice",
            "rank",
            (F.lit(start) + F.col("slice") * slice_length).alias("at"),
            F.lit(None).cast("long").alias("created"),
            *(self._newest(view).over(upwards).alias(view) for view in self.views),
        )
        return carried.where(F.col("rank") == BEFORE)


def known_rows(plan: ViewPlan, rows: DataFrame, extent: Extent) -> DataFrame:
    """What a view may answer with: k0, k1..., at, created and row, a struct of ts, created and the features f0, f1...

    `at` is the moment from which a row counts: its event timestamp, or with a cutoff the time it was created if later.
    """
    stamp = named(plan.timestamp)
    ts = micros(stamp)
    created = micros(named(plan.created)) if plan.created else F.lit(None).cast("long")
    keys = [named(plan.column(key)) for key in _by_entity_key(plan)]
    rows = rows.where(stamp.isNotNull() & between(stamp, None, extent.last))
    if extent.first and plan.ttl:
        rows = rows.where(stamp >= timestamp_at(microseconds(extent.first) - plan.ttl // MICROSECOND))
    if plan.cutoff:
        rows = rows.where(named(plan.cutoff).isNotNull() & between(named(plan.cutoff), None, extent.last))
    features = [named(plan.column(name)).alias(f"f{place}") for place, name in enumerate(plan.features)]
    return rows.where(reduce(Column.__and__, [key.isNotNull() for key in keys], F.lit(True))).select(
        *(key.alias(f"k{number}") for number, key in enumerate(keys)),
        (F.greatest(ts, created) if plan.cutoff else ts).alias("at"),
        created.alias("created"),
        F.struct(ts.alias("ts"), created.alias("created"), *features).alias("row"),
    )


def _by_entity_key(plan: ViewPlan) -> list[str]:
    """The view's keys, ordered by the entity dataframe's columns: so views with the same ones share a shuffle."""
    return sorted(plan.keys, key=lambda key: plan.keys[key])


def entity_keys(plan: ViewPlan) -> tuple[str, ...]:
    return tuple(plan.keys[key] for key in _by_entity_key(plan))


def _age(view: str) -> Column:
    """What decides between a view's rows; null in the rows of other views. A null created timestamp is the oldest."""
    return F.when(F.col(view).isNotNull(), F.struct(f"{view}.ts", f"{view}.created"))


def _fresh(plan: ViewPlan, view: str) -> Column:
    """Whether the row may be used; a ttl of zero never ends, the bound is inclusive."""
    return F.col("at") - F.col(f"{view}.ts") <= plan.ttl // MICROSECOND if plan.ttl else F.lit(True)


def _sliced(rows: DataFrame, start: int, length: int) -> DataFrame:
    """Add the number of the slice of time; all before the first entity row is one, -1."""
    number = F.expr(f"(at - {start}) div {length}")
    return rows.withColumn("slice", F.when(F.col("at") < start, F.lit(-1)).otherwise(number))
