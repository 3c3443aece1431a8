"""Markdown on disk, and beside it the same as one page of HTML that asks no other machine for anything."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}"
    "th,td{border:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}th{background:#f3f3f3}"
    "pre{background:#f6f6f6;padding:.8em;overflow-x:auto}img{max-width:100%}"
)


def write(text: str, file: Path) -> Path:
    """Write Markdown to `file`, and as HTML beside it; returns the page of HTML."""
    import mistune

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    title = html.escape(text.partition("\n")[0].lstrip("# "))
    body = mistune.create_markdown(plugins=["table"])(text)
    page = file.with_suffix(".html")
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"{body}</html>",
        encoding="utf-8",
    )
    return page


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown. Numbers are written short, None as nothing; a bar in a cell does not end it."""
    lines = [list(columns), ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None or value != value:  # noqa: PLR0124 - NaN alone is not itself
        return ""
    if isinstance(value, float):
        value = f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}"
    elif isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
