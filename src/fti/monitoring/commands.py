"""Monitoring's commands: what each takes, and what is wrong with it before anything heavy is imported."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from fti.command import DAYS, FILE, FOLDER, HOURS, LOG, MINUTES, MOMENT, Command, Option, flag

SECTION = "Monitoring"
SAMPLE_ROWS = 20_000

REPORT = Option("--report", type=FILE, usual="data/monitoring/report.html", help="The report to write.")
PROMETHEUS = Option(
    "--prometheus", type=FILE, usual="data/monitoring/monitor.prom",
    help="The metrics to write, for node_exporter's textfile collector.",
)  # fmt: skip


def _monitor(as_of: datetime, force: bool, repo: Path | None, **more: Any) -> int:
    from fti.contract.settings import PredictionSettings
    from fti.stores.landed import require_landed

    settings = PredictionSettings()
    repo = repo or settings.feast_repo
    require_landed(repo, {"--as-of": as_of}, force)
    # Not above: it takes seconds that a wrong command line should not wait for.
    from fti.monitoring.run import execute

    return execute(settings, as_of, repo=repo, **more)


def _undo(**given: Any) -> int:
    from fti.monitoring.undo import execute

    return execute(**given)


MONITOR = Command(
    "monitor", _monitor,
    Option("--as-of", type=MOMENT, required=True, help="The moment to look back from, UTC: later labels do not exist."),
    Option("--days", type=DAYS, default=7, usual="7", help="How many days to look at."),
    Option("--label-delay-hours", type=HOURS, usual="training/config.yaml", help="When outcomes are known."),
    Option(
        "--sample-rows", type=click.IntRange(1), default=SAMPLE_ROWS, usual=f"{SAMPLE_ROWS:,}",
        help="How many to replay for consistency.",
    ),
    Option(
        "--refresh-minutes", type=MINUTES, default=0, usual="0",
        help="How late the online store may be: what is only that late is no skew.",
    ),
    Option("--model", usual="SERVING_MODEL_NAME", help="The registered model."),
    Option("--repo", type=FOLDER, usual="SERVING_FEAST_REPO", help="Feast repository."),
    LOG, REPORT, PROMETHEUS,
    flag("--force", help="Monitor as of a moment of which nothing has landed."),
    flag("--no-alert", help="Tell no webhook of a breach (MONITORING_WEBHOOK_URL)."),
    about="""
    Judge consistency, drift, quality and freshness as of a moment.

    Ends with 3 when something is in breach.
    """,
)  # fmt: skip
UNDO = Command(
    "undo-monitor", _undo,
    Option("--as-of", type=MOMENT, required=True, help="The moment that was looked back from, UTC."),
    LOG, REPORT, PROMETHEUS,
    about="Delete what `monitor` found as of a moment; the report is that of the newest run left.",
)  # fmt: skip
COMMANDS = [MONITOR, UNDO]
