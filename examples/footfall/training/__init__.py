"""The training project: the unfitted model, what it must beat, its configuration and its card."""
