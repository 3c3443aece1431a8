"""What a benchmark found: numbers beside what they are compared with and what they are to reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One number. `ratio` compares it with `baseline` in the way `target` says; None where there is no such thing."""

    name: str
    value: float
    unit: str
    baseline: str | None = None
    ratio: float | None = None
    target: str | None = None
    met: bool | None = None


def table(results: Sequence[Result]) -> str:
    """The results as text, a line each under a line of headings."""
    lines = [("", "value", "compared with", "ratio", "target", "")]
    lines += [
        (
            result.name,
            f"{result.value:.3g} {result.unit}",
            result.baseline or "-",
            "-" if result.ratio is None else f"{result.ratio:.2f}",
            result.target or "-",
            {True: "met", False: "MISSED", None: ""}[result.met],
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
