"""Sources of feature views, Delta Lake or Parquet, as Spark dataframes; and Spark's words for columns and moments."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import DeltaFormat
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.types import StructType, TimestampNTZType

from fti.stores.asof import absolute, pinned
from fti.stores.delta import folder_of, parquet_files, snapshot

MICROSECOND = timedelta(microseconds=1)
EPOCH, FIRST_YEAR = datetime(1970, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)
NANOSECONDS = (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC"))


def read_source(spark: SparkSession, source: FileSource, config: RepoConfig) -> DataFrame:
    """A source's rows, moments as UTC. As in Feast, a source that names no format is Parquet.

    Raises TableMissing, TableCorrupt.
    """
    path = absolute(source, str(config.repo_path))
    if isinstance(source.file_format, DeltaFormat):
        return read_delta(spark, path, pinned(source, config))
    files = parquet_files(path)
    reader = spark.read.option("mergeSchema", "true")
    if Path(path).is_dir():  # below which folders' names are columns
        reader = reader.option("basePath", _address(path))
    rows = reader.parquet(*map(_not_a_pattern, files))
    nanoseconds = {column.name for column in pq.read_schema(files[0]) if column.type in NANOSECONDS}
    return rows.select(*(_as_moment(field.name, field.dataType, nanoseconds) for field in rows.schema))


def read_delta(spark: SparkSession, path: str, version: int | None = None) -> DataFrame:
    """The rows of a Delta table at a version (default: the newest); Spark reads its files as Parquet.

    Spark's own reader of Delta Lake is a jar that no wheel has. Raises TableMissing, TableCorrupt.
    """
    table, files = snapshot(path, version)
    # Delta Lake writes its schema as Spark does. With it, a column that older files lack is null there.
    schema = StructType.fromJson(json.loads(table.schema().to_json()))
    if not files:
        return spark.createDataFrame([], schema)
    # Not `path`, which may be a link: delta-rs has followed it.
    reader = spark.read.option("basePath", _address(folder_of(table)))
    return reader.schema(schema).parquet(*map(_not_a_pattern, files))


def _as_moment(name: str, kind: Any, nanoseconds: set[str]) -> Column:
    column = named(name)
    if name in nanoseconds:
        count = _quoted(name)  # of nanoseconds: more than a float has digits for
        return F.expr(f"timestamp_micros(({count} - pmod({count}, 1000)) div 1000)").alias(name)
    return column.cast("timestamp").alias(name) if isinstance(kind, TimestampNTZType) else column


def _address(path: str) -> str:
    """The path, for Spark, which takes one without a scheme for one of its cluster's own file system, as HDFS."""
    return path if "://" in path else f"file://{path}"


def _not_a_pattern(file: str) -> str:
    r"""The address of a file, for Spark, which takes `*?[]{}\` in it for patterns."""
    return "".join(f"\\{letter}" if letter in r"*?[]{}\\" else letter for letter in _address(file))


def named(name: str) -> Column:
    """The column of this name, whatever letters are in it."""
    return F.col(_quoted(name))


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def micros(moment: Column) -> Column:
    return F.unix_micros(moment.cast("timestamp"))


def microseconds(moment: datetime) -> int:
    """Since 1970; a moment without a zone is UTC."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND


def timestamp_at(count: int) -> Column:
    """The moment so many microseconds after 1970, of the year 1 when it is earlier: what Parquet can be asked for."""
    return F.timestamp_micros(F.lit(max(count, microseconds(FIRST_YEAR))))


def between(column: Column, start: datetime | None, end: datetime | None) -> Column:
    """`start` <= column <= `end`; None leaves a side open."""
    since = column >= timestamp_at(microseconds(start)) if start else F.lit(True)
    return since & (column <= timestamp_at(microseconds(end))) if end else since
