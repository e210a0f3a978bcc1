"""Merging of LoRA adapters, one module of the base model at a time.

An adapter changes a weight matrix by ``s B A``, with A (r, in_features), B (out_features, r) and
its scaling s. A combiner takes all A and all B of one module, their coefficients and their
scalings; it changes none of them and opens no file. The registry `COMBINERS` lists the combiners;
command line, model card and Space read it.

References:
    [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    [2] Eckart, Young, Psychometrika 1, 1936.
    [3] Musco, Musco, arXiv 1504.05477, 2015.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import RecipeError
from hf_lorameta.method import PAPER
from hf_lorameta.method.combiner_parts import (
    Factors,
    Weights,
    balanced,
    check_factors,
    result_rank,
)
from hf_lorameta.method.entrywise import (
    DARE_DENSITY,
    MAGNITUDE_DENSITY,
    SPARSE_DENSITY,
    TIES_DENSITY,
    dare,
    magnitude,
    merge_entries,
    sparse,
    ties,
)
from hf_lorameta.method.low_rank import LowRankSum, truncated_svd
from hf_lorameta.types import FactorPair, FloatArray


class Stacked(list[FloatArray]):
    """Views of one array of all lora_A, along axis 0, or of all lora_B, along axis 1.

    `exact` uses that array instead of a copy: twice as fast for 502 adapters, in half the memory.
    """

    def __init__(self, array: FloatArray, ranks: Sequence[int], axis: int) -> None:
        super().__init__(np.split(array, np.cumsum(ranks)[:-1], axis))
        self.array = array


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
        BankError: there is no adapter.
        AdapterError: shapes or lengths do not match.

    Example:
        >>> I = np.eye(2, dtype=np.float32)
        >>> A, B = factors([I, -I], [I, I], [0.75, 0.25], [2.0, 2.0])
        >>> A[0, 0], B[0, 0]
        (np.float32(0.5), np.float32(2.0))
    """
    check_factors(As, Bs, weights, scalings)
    ranks = sorted({len(A) for A in As})
    if len(ranks) > 1 or rank not in (None, ranks[0]):
        result = f"give rank {rank}" if len(ranks) == 1 else "be averaged"
        raise RecipeError(
            f"the adapters have rank {', '.join(map(str, ranks))}, which cannot {result}",
            hint="--combine exact",
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
        RecipeError: the rank is below 1.
        BankError: there is no adapter.
        AdapterError: shapes or lengths do not match, or a value is not finite.

    Example:
        >>> A = np.array([[1, 0], [0, 1]], np.float32)
        >>> B = np.array([[4, 0], [0, 1]], np.float32)
        >>> a, b = exact([A], [B], [1.0], [1.0], rank=1)
        >>> (b @ a).round(4).tolist()
        [[4.0, 0.0], [0.0, 0.0]]
    """
    check_factors(As, Bs, weights, scalings)
    rank = result_rank(rank, sum(map(len, As)))
    cs = _products(weights, scalings)
    if not cs.any():
        shape_A, shape_B = (rank, As[0].shape[1]), (Bs[0].shape[0], rank)
        return np.zeros(shape_A, np.float32), np.zeros(shape_B, np.float32)
    return balanced(*truncated_svd(_stack(As, Bs, cs), rank), rank)


class Combiner(NamedTuple):
    """A row of `COMBINERS`; its title is worded as inside a sentence.

    Attributes:
        function: from As, Bs, weights, scalings and rank to A and B.
        linear: whether twice the weights give twice the update B A; if not, twice A and twice B.
        entrywise: whether it chooses among the entries of the updates. Then it needs the factors in
            the base model's own coordinates, not in those of a pack, and takes `density`, `seed`
            and `start`, see `hf_lorameta.method.entrywise.merge_entries`.
    """

    name: str
    title: str
    reference: str
    function: Callable[..., FactorPair]
    linear: bool
    entrywise: bool = False


COMBINERS: dict[str, Combiner] = {
    row.name: row
    for row in (
        Combiner("factors", "lora_A and lora_B averaged separately", PAPER, factors, linear=False),
        Combiner(
            "exact",
            "the weighted sum of the updates B·A, truncated to the rank by an SVD",
            "Eckart, Young 1936",
            exact,
            linear=True,
        ),
        Combiner(
            "ties",
            "the largest fifth of each update's entries, averaged where their signs agree",
            "Yadav et al., arXiv 2306.01708",
            partial(merge_entries, ties, density=TIES_DENSITY),
            linear=True,
            entrywise=True,
        ),
        Combiner(
            "dare",
            "a random tenth of each update's entries, enlarged tenfold, added up",
            "Yu et al., arXiv 2311.03099",
            partial(merge_entries, dare, density=DARE_DENSITY),
            linear=True,
            entrywise=True,
        ),
        Combiner(
            "magnitude",
            "the largest fifth of each update's entries, added up",
            "Ilharco et al., arXiv 2212.04089, with pruning",
            partial(merge_entries, magnitude, density=MAGNITUDE_DENSITY),
            linear=True,
            entrywise=True,
        ),
        Combiner(
            "sparse",
            "the largest twentieth of each update's entries, averaged over those that kept them",
            "Arnob et al., arXiv 2507.07140",
            partial(merge_entries, sparse, density=SPARSE_DENSITY),
            linear=True,
            entrywise=True,
        ),
    )
}
"""Every combiner, by the name a recipe uses."""


def _products(weights: Weights, scalings: Weights) -> NDArray[np.float64]:
    return np.asarray(weights, np.float64) * np.asarray(scalings, np.float64)


def _stack(As: Factors, Bs: Factors, cs: NDArray[np.float64]) -> LowRankSum:
    """Stack the factors of nonzero weight; all of them if they already are and most count."""
    active = np.flatnonzero(cs).tolist()
    if isinstance(As, Stacked) and isinstance(Bs, Stacked) and 2 * len(active) >= len(As):
        return LowRankSum(As.array, Bs.array, np.repeat(cs, [len(A) for A in As]))
    A, B = (np.concatenate([M[i] for i in active], axis) for axis, M in enumerate((As, Bs)))
    return LowRankSum(A, B, np.repeat(cs[active], [len(As[i]) for i in active]))
