"""Spark's settings in tests: all of it in one process, and few parts, as the tables are small."""

SPARK_CONF = {
    "spark.master": "local[2]",
    "spark.driver.memory": "3g",
    "spark.sql.shuffle.partitions": "2",
}
