"""The Feast repository: the definitions, the source that raw events come from, and how features are computed."""
