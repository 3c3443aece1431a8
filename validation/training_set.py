"""Limits of a training set, checked before anything is fitted to it. [yours]"""

from fti.validation.rules import TrainingLimits

LIMITS = TrainingLimits(
    # A feature may be missing for this share of the rows; beyond it, its pipeline is broken, not its world.
    mostly_known=0.5,
    told_alone={
        # No honest feature tells late flights from others this well by itself: the best of 2013 has 0.70, the departure
        # delay, which is not known two hours before, has 0.90.
        "classification": 0.85,
        # Nor the minutes of a delay, by the share of the variance of their ranks: the best of June 2013 has 0.18, the
        # departure delay 0.48.
        "regression": 0.35,
    },
)
