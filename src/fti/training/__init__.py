"""The training pipeline: a feature service and a moment in, a registered and judged model version out."""
