"""Faults that a replay can cause on purpose, to see which monitor notices; none yet. [yours]"""

from __future__ import annotations

from fti.loop.faulty import Faults

FAULTS: Faults = {}
