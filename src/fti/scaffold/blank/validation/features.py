"""Bounds of features, checked before their rows are published. [yours]"""

from fti.validation.rules import Bounds

# The first pattern that fits counts. None leaves a side open.
BOUNDS: dict[str, Bounds] = {"*visitors*": (0, 10_000)}
