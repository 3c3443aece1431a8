"""Feast's Spark engine on the session that feature_store.yaml asks for: materialization from `asof_spark` online.

Written for Feast 0.67, which takes the engine's whole entry in feature_store.yaml for Spark's settings, and so starts
Spark on this machine whatever `spark.master` says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from feast.feature_view import FeatureView
from feast.infra.common.materialization_job import MaterializationJob, MaterializationTask
from feast.infra.compute_engines.spark.compute import SparkComputeEngine, SparkComputeEngineConfig
from feast.infra.registry.base_registry import BaseRegistry
from pyspark.sql import SparkSession

from fti.stores.spark_session import open_session


class SparkEngineConfig(SparkComputeEngineConfig):
    """Spark's settings are those of the offline store, with `spark_conf` over them."""

    type: Literal["fti.stores.spark_engine.SparkEngine"] = "fti.stores.spark_engine.SparkEngine"  # type: ignore[assignment]


class SparkEngine(SparkComputeEngine):
    """Reads by the offline store, writes from Spark's workers, each its own rows."""

    def _get_feature_view_spark_session(self, feature_view: FeatureView) -> SparkSession:
        own = self.repo_config.batch_engine.spark_conf or {}
        return open_session(self.repo_config.offline_store.spark_conf | own)

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, from_offline_store: bool = False, **kwargs: Any
    ) -> MaterializationJob:
        # The store has chosen the newest rows; Feast would choose again, by the names that keys have in the source.
        if self.repo_config.materialization_config.pull_latest_features:
            task = replace(task, only_latest=False)
        return super()._materialize_one(registry, task, from_offline_store, **kwargs)
