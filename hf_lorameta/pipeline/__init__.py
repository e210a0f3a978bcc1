"""The steps from a dataset to a published adapter."""
