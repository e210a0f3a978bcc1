"""Weighted sums of low-rank updates, and their truncated SVD."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError
from hf_lorameta.types import Array, FloatArray

_MAX_DIRECT_RANK = 512  # of a sum whose eigenvectors are computed, at cubic cost
_CHUNK = 1024  # ranks per product in float32, few enough for its precision
_OVERSAMPLING = 8
_ENERGY_TOLERANCE = 1e-6
_MAX_KRYLOV_STEPS = 24  # reached only if singular values hardly decay


class LowRankSum(NamedTuple):
    """The matrix ``M = B diag(weights) A``, with A (R, in_features) and B (out_features, R)."""

    A: FloatArray
    B: FloatArray
    weights: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.B.shape[0], self.A.shape[1]

    def dense(self) -> Array:
        """M, in float64."""
        total = np.zeros(self.shape)
        for B, weights, A in self._chunks(np.float64):
            total += (B * weights.T) @ A.astype(np.float64)
        return total

    def squared_norm(self) -> float:
        """‖M‖², the sum of the squared singular values."""
        A, B = self.A.astype(np.float64), self.B.astype(np.float64) * self.weights
        return float(((A @ A.T) * (B.T @ B)).sum())

    def apply(self, X: Array) -> Array:
        """M X, in float32 except for the sum over chunks."""
        total, X32 = np.zeros((self.shape[0], X.shape[1])), X.astype(np.float32)
        for B, weights, A in self._chunks(np.float32):
            total += B @ (weights * (A @ X32))
        return total

    @property
    def T(self) -> "LowRankSum":  # noqa: N802 - numpy's name
        """Mᵀ."""
        return LowRankSum(self.B.T, self.A.T, self.weights)

    def _chunks(self, dtype: type[Any]) -> Iterator[tuple[FloatArray, NDArray[Any], FloatArray]]:
        """B (out, k), weights (k, 1) as `dtype` and A (k, in) of k ≤ 1,024 ranks at a time."""
        column = self.weights.astype(dtype)[:, None]
        for start in range(0, len(column), _CHUNK):
            part = slice(start, start + _CHUNK)
            yield self.B[:, part], column[part], self.A[part]


def truncated_svd(update: LowRankSum, rank: int) -> tuple[Array, Array, Array]:
    """Compute the k ≤ rank largest singular values of a sum: U (out, k), s (k,), V (in, k).

    Singular values at the level of rounding are left out.

    Raises:
        AdapterError: a value is not finite.

    Example:
        >>> A, B = np.eye(2, dtype=np.float32), np.diag([1, 4]).astype(np.float32)
        >>> truncated_svd(LowRankSum(A, B, np.array([1.0, 0.5])), 1)[1].round(4)
        array([2.])
    """
    smaller, larger = sorted(update.shape)
    large = min(len(update.A), larger) > _MAX_DIRECT_RANK
    # the iteration needs room for eight steps: one or two may miss most of the squared norm
    iterate = large and 8 * (rank + _OVERSAMPLING) <= smaller
    U, s, V = (_krylov if iterate else _direct)(update, rank)
    k = int((s > s[0] * np.finfo(np.float64).eps * max(update.shape)).sum())
    return U[:, :k], s[:k], V[:, :k]


def _direct(update: LowRankSum, rank: int) -> tuple[Array, Array, Array]:
    """Use the eigenvectors of M Mᵀ in R coordinates, or the SVD of M itself if it is small."""
    if len(update.A) >= min(update.shape):
        U, s, Vt = _svd(update.dense())
        return U[:, :rank], s[:rank], Vt[:rank].T
    A, B = update.A.astype(np.float64), update.B.astype(np.float64) * update.weights
    inner, outer = finite(A @ A.T), finite(B.T @ B)
    values, W = np.linalg.eigh(inner)
    root = W * np.sqrt(np.maximum(values, 0))  # M Mᵀ = (B root)(B root)ᵀ
    _, Y = np.linalg.eigh(root.T @ outer @ root)
    # squaring loses half of the digits of the subspace; the SVD inside it recovers full precision
    Q, _ = np.linalg.qr(B @ (root @ Y[:, -rank - _OVERSAMPLING :]))
    V, s, Wt = _svd(A.T @ (B.T @ Q))
    return Q @ Wt[:rank].T, s[:rank], V[:, :rank]


def _krylov(update: LowRankSum, rank: int) -> tuple[Array, Array, Array]:
    """Project M on span{X, MᵀMX, (MᵀM)²X, ...}, X random with a fixed seed."""
    rows, columns = update.shape
    width = rank + _OVERSAMPLING
    block = np.random.default_rng(0).standard_normal((columns, width))
    basis, image, gram = np.empty((columns, 0)), np.empty((rows, 0)), np.empty((0, 0))
    energy = total = 0.0
    for step in range(min(_MAX_KRYLOV_STEPS, min(rows, columns) // width)):
        for _ in range(2):  # the second pass removes rounding
            block = block - basis @ (basis.T @ block)
        block, R = np.linalg.qr(block)
        product = update.apply(block)
        if step == 0:
            total = float(np.square(product @ R).sum()) / width  # E ‖M x‖² = ‖M‖² for normal x
        cross = image.T @ product
        gram = np.block([[gram, cross], [cross.T, product.T @ product]])
        basis, image = np.hstack([basis, block]), np.hstack([image, product])
        previous, energy = energy, float(np.linalg.eigvalsh(finite(gram))[-rank:].sum())
        if energy - previous <= _ENERGY_TOLERANCE * total:
            break
        block = update.T.apply(product)
    U, s, Vt = _svd(image)
    return U[:, :rank], s[:rank], basis @ Vt[:rank].T


def _svd(matrix: Array) -> tuple[Array, Array, Array]:
    U, s, Vt = np.linalg.svd(finite(matrix), full_matrices=False)
    return U, s, Vt


def finite(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return the matrix, or raise `AdapterError` if a value is not finite."""
    if not np.isfinite(matrix).all():
        raise AdapterError(
            "an adapter or a coefficient holds NaN or infinite values", code="adapter.not-finite"
        )
    return matrix
