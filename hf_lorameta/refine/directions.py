"""Coordinates for a fit of coefficients, in which adapters are alike in length and independent."""

from typing import NamedTuple

import numpy as np

from hf_lorameta.types import Array

NO_MODULE_DIRECTIONS = np.zeros((0, 0, 0))
"""`Directions.apart` of no module."""


class Directions(NamedTuple):
    """Coordinates u in which adapters are alike in length and independent.

    Coefficients of module m change by

        (G/g + 0.1 I)^(-1/2) u_0 + spread · (M G_m/g + 0.1 I)^(-1/2) u_m,

    with G_m the Gram matrix of the adapters in this module, G the sum of all M, and g the mean of
    G's diagonal: the square of an adapter's length.

    Attributes:
        together: (K, D) for all modules, D ≤ K.
        apart: (M, K, K) for each beyond that; of no module if they do not go apart.

    Example:
        >>> directions = Directions.of(np.array([[[0.45]], [[0.45]]]))
        >>> directions.with_module_scale(3.0).change(np.array([1.0, 0.0, 1.0])).round(2)
        array([[0.95],
               [3.81]])
    """

    together: Array
    apart: Array

    @classmethod
    def of(cls, grams: Array) -> "Directions":
        """For adapters with these Gram matrices, (M, K, K), and a spread of 1."""
        whole = grams.sum(0)
        length = max(float(np.mean(np.diag(whole))), np.finfo(np.float64).tiny)
        each = [_whitening(gram, length / len(grams)) for gram in grams]
        return cls(_whitening(whole, length), np.stack(each))

    def with_module_scale(self, by: float) -> "Directions":
        """With modules that many times as far apart; 0 keeps them together."""
        return self._replace(
            apart=by * self.apart if by and len(self.apart) > 1 else NO_MODULE_DIRECTIONS
        )

    @property
    def dimensions(self) -> int:
        """Of u."""
        return int(self.together.shape[1] + self.apart.shape[0] * self.apart.shape[2])

    def change(self, u: Array) -> Array:
        """What belongs to u: (K,), or (M, K) where modules go apart."""
        common = self.together.shape[1]
        change: Array = self.together @ u[:common]
        if len(self.apart):
            by_module = u[common:].reshape(len(self.apart), -1)
            change = change + np.einsum("mij,mj->mi", self.apart, by_module)
        return change

    def slopes(self, by_coefficient: Array) -> Array:
        """Slopes (R, M, K) by coefficients as (R, …) by u."""
        slopes: Array = by_coefficient.sum(1) @ self.together
        if len(self.apart):
            apart = np.einsum("rmi,mij->rmj", by_coefficient, self.apart)
            slopes = np.concatenate([slopes, apart.reshape(len(apart), -1)], axis=1)
        return slopes


def _whitening(gram: Array, length: float) -> Array:
    """``(G / length + 0.1 I)^(-1/2)``, symmetric."""
    values, vectors = np.linalg.eigh(gram / length)
    return np.asarray((vectors / np.sqrt(np.maximum(values, 0) + 0.1)) @ vectors.T)
