"""One Spark session a process: settings come in, as `spark_conf` in feature_store.yaml has them; a session comes out.

`spark.master` is all that a cluster changes: `local[2]` is two threads of this process's machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from fti.errors import Refusal

try:
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession
except ModuleNotFoundError as error:  # Feast would name `feast[spark]`, which lacks what Great Expectations then needs
    raise ModuleNotFoundError("Spark is not installed. Install the extra: pip install -e '.[spark]'") from error

# What answers depend on, whatever the settings say.
ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # Spark 4 refuses Parquet's nanoseconds, which pandas writes
}
# What takes time alone: without it, Spark reads a frame that slides anew for each row. It is there since Spark 4.2.
FAST = {"spark.sql.window.segmentTree.enabled": "true"}
# One process has no use for a web page, nor for a network card; the settings may say otherwise.
LOCAL = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.driver.host": "127.0.0.1"}


class SparkUnavailable(Refusal):
    """Spark does not start here."""


def open_session(spark_conf: Mapping[str, str]) -> SparkSession:
    """The running session, or a new one with these settings; one that runs takes over what can still be changed.

    Raises SparkUnavailable.
    """
    master = spark_conf.get("spark.master", "")
    if master.startswith("local"):
        spark_conf = LOCAL | dict(spark_conf)
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark would take the first python3 on the PATH
    running = SparkSession.getActiveSession() is not None
    try:
        session = SparkSession.builder.config(map={**FAST, **spark_conf, **ALWAYS}).getOrCreate()
    except PySparkRuntimeError as error:
        raise SparkUnavailable(
            f"Spark does not start with spark.master {master or 'unset'!r} ({error}). It needs Java 17 or later, on "
            "the PATH or as JAVA_HOME; `java -version` says what there is."
        ) from error
    if not running:
        session.sparkContext.setLogLevel("ERROR")
    return session
