"""What pipelines agree on: the feature contract, retrieval as of a moment, registered versions, tables of records."""
