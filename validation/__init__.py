"""What the three pipelines share: gates on data, and the contract between features and models."""
