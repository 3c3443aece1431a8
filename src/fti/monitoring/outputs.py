"""Where the report and the metrics go."""

from __future__ import annotations

import argparse
from pathlib import Path

from fti.project import project


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Let the command line name the report and the file of metrics."""
    outputs = project().root / "data" / "monitoring"
    parser.add_argument("--report", type=Path, default=outputs / "report.html", help="(data/monitoring/report.html)")
    parser.add_argument(
        "--prometheus", type=Path, default=outputs / "monitor.prom",
        help="for node_exporter's textfile collector (data/monitoring/monitor.prom)",
    )  # fmt: skip
