"""Fitting coefficients on a few labeled rows."""
