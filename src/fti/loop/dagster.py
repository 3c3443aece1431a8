"""The cycle on Dagster: the same steps as daily partitions, their findings as asset checks, a schedule, a sensor.

    dagster dev -m fti.loop.dagster      (the extra `dagster`)

The partition of a day is the cycle as of its end. Landing's checks are the suites of Great Expectations, monitoring's
are the monitors. What is refused is not tried again, what failed is, three times. The champion is no part of the daily
job: the sensor asks for it when the monitors do.
"""
# Without `from __future__ import annotations`: Dagster looks at the type of `context` itself.

from collections.abc import Iterator
from datetime import UTC, datetime

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetsDefinition,
    AssetSelection,
    Backoff,
    DailyPartitionsDefinition,
    DefaultSensorStatus,
    Definitions,
    Failure,
    MaterializeResult,
    MetadataValue,
    RetryPolicy,
    RunRequest,
    SensorEvaluationContext,
    SkipReason,
    asset,
    build_schedule_from_partitioned_job,
    define_asset_job,
    sensor,
)

from fti.contract.results import MONITORS, latest, saved, worst
from fti.loop.day import DAY, STEPS, Cycle, open_cycle
from fti.loop.retrain import champion_then
from fti.monitoring.trigger import decide
from fti.project import project
from fti.serving.settings import ServingSettings

# Where the data end. Of a feed that goes on, leave `end_date` out: the schedule then does each day after it has ended.
DAILY = DailyPartitionsDefinition(start_date=project().source.TODAY, end_date=project().source.END)
RETRIES = RetryPolicy(max_retries=3, delay=30, backoff=Backoff.EXPONENTIAL)
SUITES = [
    *(suite.name for suite in project().raw.RAW_SUITES.values()),
    *(feed.suite.name for feed in project().profiles.PROFILES.values()),
    *(f"features_{name}" for name in project().transforms.FEATURE_TABLES),
]
CHECKS = {"land": SUITES, "monitor": MONITORS}
ABOUT = {
    "land": "Raw events of the day that passed the gate, and the feature rows computed of them.",
    "materialize": "The newest feature rows, online.",
    "score": "Predictions of the day that comes.",
    "monitor": "What the monitors found, in monitor_results.",
    "maintain": "Tables of few files, without what nobody needs; the online store without rows past their ttl.",
    "retrain": "The model version that answers, trained again where the monitors ask for it.",
}


def _cycle() -> Cycle:
    return open_cycle(ServingSettings(), project().source.RawEvents())


def _asset_of(name: str, after: str | None) -> AssetsDefinition:
    @asset(
        name=name,
        deps=[after] if after else [],
        partitions_def=DAILY,
        retry_policy=RETRIES,
        description=ABOUT[name],
        group_name="cycle",
        check_specs=[AssetCheckSpec(check, asset=name) for check in CHECKS.get(name, [])],
    )
    def run(context: AssetExecutionContext) -> Iterator[AssetCheckResult | MaterializeResult]:
        cycle, as_of = _cycle(), context.partition_time_window.end.astimezone(UTC)
        done = cycle.step(name, as_of, again=True)
        if name == "land":
            yield from _suites(cycle)
        if name == "monitor":
            yield from _monitors(cycle, as_of)
        if done.status in ("refused", "failed"):
            raise Failure(done.said, allow_retries=done.status == "failed")
        yield MaterializeResult(
            metadata={"said": MetadataValue.text(done.said), "seconds": MetadataValue.float(done.seconds)}
        )

    return run


def _suites(cycle: Cycle) -> Iterator[AssetCheckResult]:
    """One check a suite; a suite that did not come to its turn has none."""
    findings = cycle.pipeline.gate.findings
    for suite in SUITES:
        mine = [found for found in findings if found.suite == suite]
        broken = [found for found in mine if not found.passed]
        if mine:
            yield AssetCheckResult(
                passed=not broken,
                check_name=suite,
                severity=AssetCheckSeverity.ERROR if any(found.stops for found in mine) else AssetCheckSeverity.WARN,
                metadata={found.rule: str(found.observed) for found in broken},
            )


def _monitors(cycle: Cycle, as_of: datetime) -> Iterator[AssetCheckResult]:
    results = saved(cycle.engine, as_of)
    for monitor in MONITORS:
        mine = [result for result in results if result.monitor == monitor]
        verdict = worst(mine)
        told = {f"{one.subject}: {one.metric}": one.details for one in mine if one.verdict in ("breach", "investigate")}
        yield AssetCheckResult(
            passed=verdict in ("healthy", "no_data"),
            check_name=monitor,
            severity=AssetCheckSeverity.ERROR if verdict == "breach" else AssetCheckSeverity.WARN,
            metadata={"verdict": verdict} | dict(list(told.items())[:20]),
        )


ASSETS = [_asset_of(name, after) for name, after in zip(STEPS, (None, *STEPS), strict=False)]
daily = define_asset_job("daily", AssetSelection.assets(*STEPS[:-1]))
retraining = define_asset_job("retraining", AssetSelection.assets(STEPS[-1]))


@sensor(job=retraining, minimum_interval_seconds=300, default_status=DefaultSensorStatus.STOPPED)
def retrain_sensor(_: SensorEvaluationContext) -> RunRequest | SkipReason:
    """Asks for a retraining when the verdicts of the newest windows do, once for each of them."""
    cycle = _cycle()
    as_of = latest(cycle.engine)
    if as_of is None:
        return SkipReason("the monitors have found nothing yet")
    decision = decide(cycle.engine, cycle.name, champion_then(cycle.engine, cycle.name, as_of), as_of)
    if decision.action != "train":
        return SkipReason(f"{decision.action}: {decision.reasons}")
    return RunRequest(run_key=f"retrain {as_of.isoformat()}", partition_key=f"{as_of - DAY:%Y-%m-%d}")


defs = Definitions(
    assets=ASSETS,
    jobs=[daily, retraining],
    schedules=[build_schedule_from_partitioned_job(daily, hour_of_day=1)],
    sensors=[retrain_sensor],
)
