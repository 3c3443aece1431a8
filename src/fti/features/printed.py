"""What the feature pipeline's command line prints: findings of the gate, and rows that are held."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd

from fti.features.quarantine import held_name
from fti.project import project
from fti.validation.gate import Finding

SHOWN = 20  # rows of a table that `quarantine` prints


def findings_table(findings: list[Finding]) -> str:
    """A terse table: one line a suite, and one for each rule that something broke."""
    lines = [f"{'suite':34} {'rules':>5} {'broken':>7}  verdict"]
    for suite in dict.fromkeys(found.suite for found in findings):
        mine = [found for found in findings if found.suite == suite]
        broken = [found for found in mine if not found.passed]
        held = any(found.severity == "critical" for found in broken)
        verdict = "stop" if any(found.stops for found in mine) else "held" if held else "warn" if broken else "ok"
        lines.append(f"{suite:34} {len(mine):>5} {len(broken):>7}  {verdict}")
        lines += [f"    {found.rule}: {found.observed} [{found.scope}, {found.severity}]" for found in broken]
    return "\n".join(lines)


def held_table(held: dict[str, pd.DataFrame], export: Path | None) -> str:
    """What is in quarantine, a line a row; with `export`, all columns of one table's rows to a CSV file."""
    keys_of = {
        held_name(name): table.keys for name, table in project().transforms.FEATURE_TABLES.items()
    } | project().source.RAW_KEYS
    lines = [] if held else ["Nothing is in quarantine."]
    for table, rows in held.items():
        keys = [*keys_of.get(table, ())]
        shown = ["held_id", "rules", *keys, "event_timestamp", "batch"]
        lines.append(f"{table}: {len(rows)} row(s) held")
        lines.append(rows[list(dict.fromkeys(shown))].head(SHOWN).to_string(index=False))
        if len(rows) > SHOWN:
            lines.append(f"... and {len(rows) - SHOWN} more")
    if export and held:
        ((table, rows),) = held.items()
        rows.to_csv(export, index=False)
        lines.append(
            f"Correct the rows in {export}, then: fti release --table {table} --rows {shlex.quote(str(export))}"
        )
    return "\n".join(lines)
