"""Combiners: one LoRA adapter from many, one module of the base model at a time.

An adapter changes a weight matrix by ``s B A``, with A (r, in_features), B (out_features, r) and
its scaling s. A combiner takes all A and all B of one module, their coefficients and their
scalings; it changes none of them and opens no file. `COMBINERS` in `registries.py` lists the
combiners.

References:
    [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    [2] Eckart, Young, Psychometrika 1, 1936.
    [3] Musco, Musco, arXiv 1504.05477, 2015.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import Option, RecipeError
from hf_lorameta.method.low_rank import LowRankSum, truncated_svd
from hf_lorameta.types import Array, FactorPair, FloatArray

Factors = Sequence[FloatArray]
Weights = Sequence[float] | NDArray[Any]

DEFAULT_RANK = 16
"""Rank of a result, which vLLM serves without configuration."""


class Concatenated(list[FloatArray]):
    """All lora_A as views of one array, along axis 0, or all lora_B, along axis 1.

    `exact` uses that array instead of a copy: twice as fast for 502 adapters, in half the memory.
    """

    def __init__(self, array: FloatArray, ranks: Sequence[int], axis: int) -> None:
        super().__init__(np.split(array, np.cumsum(ranks)[:-1], axis))
        self.array = array


def shared_rank(ranks: Iterable[int]) -> int:
    """Return the rank that all adapters share, without which factors cannot be averaged.

    Raises:
        RecipeError: they have several ranks.

    Example:
        >>> shared_rank([4, 4])
        4
    """
    distinct = sorted(set(ranks))
    if len(distinct) > 1:
        raise RecipeError(
            f"the adapters have rank {', '.join(map(str, distinct))}, which cannot be averaged",
            code="adapter.other-rank",
            hint=Option("combine", "exact"),
        )
    return distinct[0]


def factors(
    As: Factors, Bs: Factors, weights: Weights, scalings: Weights, rank: int | None = None
) -> FactorPair:
    """Average A and B separately, as the paper does [1]: ``A = Σ c_i A_i``, ``B = Σ c_i s_i B_i``.

    The update is then ``(Σ c_i s_i B_i)(Σ c_i A_i)``: not the weighted sum of updates, but one with
    cross terms ``c_i c_j s_i B_i A_j``. Good if the adapters share their initial A, bad if not.

    Args:
        As: N arrays (r, in_features).
        Bs: N arrays (out_features, r).
        weights: (N,) coefficients c.
        scalings: (N,) scalings s, alpha / r.
        rank: None, or the r that all adapters share.

    Returns:
        A (r, in_features) and B (out_features, r), float32, to be used with scaling 1.

    Raises:
        RecipeError: ranks differ, or `rank` is another one.

    Example:
        >>> I = np.eye(2, dtype=np.float32)
        >>> A, B = factors([I, -I], [I, I], [0.75, 0.25], [2.0, 2.0])
        >>> A[0, 0], B[0, 0]
        (np.float32(0.5), np.float32(2.0))
    """
    if rank not in (None, own := shared_rank(map(len, As))):
        raise RecipeError(
            f"the adapters have rank {own}, which cannot give rank {rank}",
            code="recipe.rank-too-high",
            hint=Option("combine", "exact"),
        )
    c, cs = np.asarray(weights, np.float64), _products(weights, scalings)
    A, B = np.zeros(As[0].shape), np.zeros(Bs[0].shape)
    for i in np.flatnonzero(c).tolist():
        A += c[i] * As[i]
        B += cs[i] * Bs[i]
    return A.astype(np.float32), B.astype(np.float32)


def exact(
    As: Factors, Bs: Factors, weights: Weights, scalings: Weights, rank: int | None = None
) -> FactorPair:
    """Compute the best approximation of ``Σ c_i s_i B_i A_i`` by one adapter of the given rank.

    Best in the Frobenius norm (Eckart and Young [2]). With stacked factors ``A (R, in)`` of all A_i
    and ``B (out, R)`` of all c_i s_i B_i, the update is ``M = B A``; the eigenvectors of
    ``M Mᵀ = B (A Aᵀ) Bᵀ``, computed in R coordinates, give the subspace Q of its largest singular
    values, and the SVD of Qᵀ M gives those to full precision; any below 1e-8 of the largest may be
    lost. Both factors get the square roots of the singular values, and in every row of A the entry
    of largest magnitude is positive. Ranks may differ; if the update's own rank is lower, the last
    rows of A and columns of B are 0.

    If R is above 512 (over 32 adapters of rank 16) and the matrix large, a block Krylov iteration
    from a fixed start [3] computes the subspace instead. It stops once a step adds less than 1e-6
    of the update's squared norm, after 24 steps at most.

    Args:
        As: N arrays (r_i, in_features).
        Bs: N arrays (out_features, r_i).
        weights: (N,) coefficients c; adapters of weight 0 cost nothing.
        scalings: (N,) scalings s, alpha / r.
        rank: of the result; None is 16, or Σ r_i if that is less.

    Returns:
        A (rank, in_features) and B (out_features, rank), float32, to be used with scaling 1.

    Raises:
        AdapterError: a value is not finite.

    Example:
        >>> A = np.array([[1, 0], [0, 1]], np.float32)
        >>> B = np.array([[4, 0], [0, 1]], np.float32)
        >>> a, b = exact([A], [B], [1.0], [1.0], rank=1)
        >>> (b @ a).round(4).tolist()
        [[4.0, 0.0], [0.0, 0.0]]
    """
    rank = rank or min(DEFAULT_RANK, sum(map(len, As)))
    cs = _products(weights, scalings)
    if not cs.any():
        shape_A, shape_B = (rank, As[0].shape[1]), (Bs[0].shape[0], rank)
        return np.zeros(shape_A, np.float32), np.zeros(shape_B, np.float32)
    return _balanced(*truncated_svd(_stack(As, Bs, cs), rank), rank)


def _products(weights: Weights, scalings: Weights) -> NDArray[np.float64]:
    return np.asarray(weights, np.float64) * np.asarray(scalings, np.float64)


def _stack(As: Factors, Bs: Factors, cs: NDArray[np.float64]) -> LowRankSum:
    """Stack the factors of nonzero weight; all of them if they already are and most count."""
    active = np.flatnonzero(cs).tolist()
    if isinstance(As, Concatenated) and isinstance(Bs, Concatenated) and 2 * len(active) >= len(As):
        return LowRankSum(As.array, Bs.array, np.repeat(cs, [len(A) for A in As]))
    A, B = (np.concatenate([M[i] for i in active], axis) for axis, M in enumerate((As, Bs)))
    return LowRankSum(A, B, np.repeat(cs[active], [len(As[i]) for i in active]))


def _balanced(U: Array, s: Array, V: Array, rank: int) -> FactorPair:
    """Return A (rank, in) and B (out, rank) of ``U diag(s) Vᵀ``, padded with zeros.

    Both get the square roots of the singular values, and in every row of A the entry of largest
    magnitude is positive.
    """
    A = np.zeros((rank, len(V)), np.float32)
    B = np.zeros((len(U), rank), np.float32)
    if s.size:
        signed_root = np.sign(V[np.abs(V).argmax(axis=0), np.arange(s.size)]) * np.sqrt(s)
        A[: s.size] = (V * signed_root).T
        B[:, : s.size] = U * signed_root
    return A, B
