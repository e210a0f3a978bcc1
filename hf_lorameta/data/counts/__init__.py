"""Token counts of rows, and samples of rows."""
