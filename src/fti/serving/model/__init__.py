"""The model version that serves: followed, asked, shadowed."""
