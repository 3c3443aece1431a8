"""Load a registered model version and answer requests with it: the service does, and training before it promotes."""
