"""The feature pipeline: raw events in, validated and versioned feature tables out, described to Feast."""
