"""Coordinates for a fit of coefficients, in which adapters have equal length and are orthogonal."""

from typing import NamedTuple

import numpy as np

from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.types import Array

NO_MODULE_DIRECTIONS = np.zeros((0, 0, 0))
"""`Directions.per_module` if all modules share their coefficients."""


class Directions(NamedTuple):
    """Coordinates u in which adapters have about equal length and are about orthogonal.

    The coefficients of module m change by

        (G/g + 0.1 I)^(-1/2) u_0 + scale · (M G_m/g + 0.1 I)^(-1/2) u_m,

    with G_m the Gram matrix of the adapters in this module, G the sum of all M, and g the mean of
    G's diagonal: the mean squared length of an adapter.

    Attributes:
        shared: (K, D) directions of all modules together, D ≤ K.
        per_module: (M, K, K) directions of each module; (0, 0, 0) if modules do not differ.

    Example:
        >>> directions = Directions.of(np.array([[[0.45]], [[0.45]]])).with_module_scale(3.0)
        >>> directions.coefficients(np.zeros(1), np.array([1.0, 0.0, 1.0])).per_module.round(2)
        array([[0.95],
               [3.81]])
    """

    shared: Array
    per_module: Array

    @classmethod
    def of(cls, grams: Array) -> "Directions":
        """Directions for adapters with Gram matrices (M, K, K), with a module scale of 1."""
        total = grams.sum(0)
        length = max(float(np.mean(np.diag(total))), np.finfo(np.float64).tiny)
        return cls(_whitening(total, length), _whitening(grams, length / len(grams)))

    def with_module_scale(self, scale: float) -> "Directions":
        """The same with `per_module` multiplied; 0 lets all modules share their coefficients."""
        differ = scale and len(self.per_module) > 1
        return self._replace(per_module=scale * self.per_module if differ else NO_MODULE_DIRECTIONS)

    @property
    def dimensions(self) -> int:
        """Number of coordinates in u."""
        return int(self.shared.shape[1] + self.per_module.shape[0] * self.per_module.shape[2])

    def coefficients(self, start: Array, u: Array) -> Coefficients:
        """The coefficients at u, for coefficients (K,) at the origin."""
        split = self.shared.shape[1]
        change: Array = self.shared @ u[:split]
        if not len(self.per_module):
            return Coefficients(start + change)
        rows = u[split:].reshape(len(self.per_module), -1)
        change = change + np.einsum("mij,mj->mi", self.per_module, rows)
        return Coefficients.by_module(start + change)

    def slopes(self, by_coefficient: Array) -> Array:
        """Convert derivatives by the coefficients, (R, M, K), to derivatives by u, (R, D')."""
        slopes: Array = by_coefficient.sum(1) @ self.shared
        if len(self.per_module):
            rows = np.einsum("rmi,mij->rmj", by_coefficient, self.per_module)
            slopes = np.concatenate([slopes, rows.reshape(len(rows), -1)], axis=1)
        return slopes


def _whitening(gram: Array, length: float) -> Array:
    """``(G / length + 0.1 I)^(-1/2)`` of one symmetric matrix, or of a stack of them."""
    values, vectors = np.linalg.eigh(gram / length)
    scaled = vectors / np.sqrt(np.maximum(values, 0) + 0.1)[..., None, :]
    return np.asarray(scaled @ vectors.swapaxes(-1, -2))
