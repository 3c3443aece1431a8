"""The model version that is served: loaded, compiled, followed, asked."""
