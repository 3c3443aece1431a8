"""What is said where Spark, or the Java that it needs, is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.spark_conf import SPARK_CONF


def test_without_spark_the_store_says_what_to_install(monkeypatch):
    """Feast wraps whatever a store's module raises; the reason behind it names the project's own extra."""
    from feast.errors import FeastModuleImportError
    from feast.repo_config import get_offline_config_from_type

    for name in [name for name in sys.modules if name.startswith(("fti.stores.asof_spark", "pyspark"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "fti.stores.spark_session", raising=False)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(FeastModuleImportError) as raised:
        get_offline_config_from_type("fti.stores.asof_spark.AsofSparkOfflineStore")
    assert "pip install -e '.[spark]'" in str(raised.value.__cause__)


@pytest.mark.spark
def test_without_java_it_is_named(tmp_path, monkeypatch):
    """One error, of the kind that command lines print as one line, says which Java Spark needs."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    code = (
        "from fti.stores.spark_session import SparkUnavailable, open_session\n"
        f"try: open_session({SPARK_CONF})\n"
        "except SparkUnavailable as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "Java 17 or later" in result.stdout, result.stderr
