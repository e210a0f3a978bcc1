"""The mathematics of the method: distances, coefficients and merging."""
