"""The mathematics of the method: distances, coefficients and merging."""

PAPER = "arXiv 2507.01806"
"""Reference of the methods that are the paper's own."""
