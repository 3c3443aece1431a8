"""Where the report and the metrics go."""

from __future__ import annotations

from pathlib import Path

from fti.project import project


def report_file() -> Path:
    return project().root / "data" / "monitoring" / "report.html"


def metrics_file() -> Path:
    """For node_exporter's textfile collector."""
    return project().root / "data" / "monitoring" / "monitor.prom"
