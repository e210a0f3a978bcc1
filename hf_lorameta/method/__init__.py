"""The mathematics: distances, coefficients and merging."""
