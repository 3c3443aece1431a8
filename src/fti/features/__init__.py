"""From raw events to published feature tables."""
