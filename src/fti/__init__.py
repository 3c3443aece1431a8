"""Feature, training and inference pipelines: the machinery, which names no feature, column, entity or model."""
