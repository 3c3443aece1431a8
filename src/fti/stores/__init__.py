"""Feast store plug-ins, named in `feature_store.yaml`."""
