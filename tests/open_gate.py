"""A gate that lets every row through: validation has tests of its own, and would be most of the time of others."""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd


class OpenGate:
    """In the place of `fti.validation.gate.Gate`."""

    findings: ClassVar[list] = []

    def check(self, frame: pd.DataFrame, suite: Any, known: Any = None) -> Any:
        from fti.validation.gate import Outcome

        return Outcome(suite.name, len(frame), frame, frame.iloc[:0].assign(rules=""), [])
