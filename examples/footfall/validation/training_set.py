"""Limits of a training set, checked before anything is fitted to it. [yours]"""

from fti.validation.rules import TrainingLimits

LIMITS = TrainingLimits(
    # A feature may be missing for this share of the rows; beyond it, its pipeline is broken, not its world.
    mostly_known=0.5,
    # An honest feature explains much of the ranks here: the mean of four weeks 0.93. The count itself explains all.
    told_alone={"regression": 0.97},
    label=(0, 20_000),
)
