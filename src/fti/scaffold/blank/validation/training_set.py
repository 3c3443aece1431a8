"""Limits of a training set, checked before anything is fitted to it. [yours]"""

from fti.validation.rules import TrainingLimits

LIMITS = TrainingLimits(
    # A feature may be missing for half of the rows; beyond it, its pipeline is broken.
    mostly_known=0.5,
    # No honest feature explains this much of the ranks by itself: one that does knows the outcome.
    told_alone={"regression": 0.99},
    label=(0, 10_000),
)
