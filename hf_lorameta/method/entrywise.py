"""Combiners that choose among the entries of the updates: prune, elect signs, average.

`merge_entries` forms the matrices ``ΔW_i = s_i B_i A_i`` one after another, in float32. A rule, one
of `ties`, `dare`, `magnitude` and `sparse`, keeps some of their entries and merges them. The result
is fitted by one adapter of the given rank (Eckart and Young), as in `exact`. Memory is that of a
few matrices, whatever the number of adapters.

A coefficient c is a signed weight: ``c ΔW`` counts as the update ``sign(c) ΔW`` with weight |c|.
All rules are homogeneous: twice the coefficients give twice the update.

`start` is an adapter from which all others were trained. Then their differences from it are
combined, ``D_i = ΔW_i − ΔW_start``, in place of the updates. As ``c_0 ΔW_start + Σ c_i ΔW_i`` is
``(c_0 + Σ c_i) ΔW_start + Σ c_i D_i``, the start is added with the sum of all coefficients. Its
entries, which all adapters share, would otherwise decide which are kept.

References:
    [1] Yadav et al., TIES-Merging, arXiv 2306.01708, 2023.
    [2] Yu et al., Language Models are Super Mario (DARE), arXiv 2311.03099, 2024.
    [3] Arnob et al., Exploring Sparse Adapters, arXiv 2507.07140, 2025.
    [4] Ilharco et al., Editing Models with Task Arithmetic, arXiv 2212.04089, 2023.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hf_lorameta.method.combiner_parts import (
    Factors,
    Weights,
    balanced,
    check_factors,
    result_rank,
)
from hf_lorameta.method.low_rank import dense_svd, finite
from hf_lorameta.types import FactorPair, FloatArray

TIES_DENSITY = 0.2
"""Share of each update's entries that `ties` keeps, as in [1]."""
DARE_DENSITY = 0.1
"""Share of each update's entries that `dare` keeps: 9 of 10 are dropped, as in [2]."""
MAGNITUDE_DENSITY = 0.2
"""Share of each update's entries that `magnitude` keeps."""
SPARSE_DENSITY = 0.05
"""Share of each update's entries that `sparse` keeps, as in [3]."""


class Start(NamedTuple):
    """The adapter from which all others were trained: A (r, in), B (out, r), scaling and weight."""

    A: FloatArray
    B: FloatArray
    scaling: float
    weight: float

    @property
    def update(self) -> FloatArray:
        """ΔW_start (out, in)."""
        return _product(self.A, self.B, self.scaling)


@dataclass(frozen=True, eq=False)
class Updates:
    """The updates of N adapters of one module, or their differences from `start`.

    Attributes:
        As: N arrays (r_i, in_features).
        Bs: N arrays (out_features, r_i).
        weights: (N,) coefficients c.
        scalings: (N,) scalings s, alpha / r.
        seed: of random choices.
        start: adapter that the others were trained from.
    """

    As: Factors
    Bs: Factors
    weights: Weights
    scalings: Weights
    seed: int = 0
    start: Start | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.Bs[0].shape[0], self.As[0].shape[-1]

    @property
    def mass(self) -> np.float32:
        """Σ|c|."""
        return np.float32(np.abs(np.asarray(self.weights, np.float64)).sum())

    def __iter__(self) -> Iterator[tuple[float, FloatArray, int]]:
        """Yield coefficient, update (out, in) and index of each adapter of nonzero weight."""
        origin = None if self.start is None else self.start.update
        for i in np.flatnonzero(self.weights).tolist():
            update = _product(self.As[i], self.Bs[i], self.scalings[i])
            yield float(self.weights[i]), update if origin is None else update - origin, i

    def largest(self, density: float) -> Iterator[tuple[np.float32, FloatArray]]:
        """Yield coefficient and T_i of each: its ``density · size`` largest entries, else 0."""
        for c, update, _ in self:
            yield np.float32(c), _largest(update, density)


Rule = Callable[[Updates, float], FloatArray]
"""Merges updates into one matrix (out, in) of the entries that a density keeps."""


def merge_entries(
    rule: Rule,
    As: Factors,
    Bs: Factors,
    weights: Weights,
    scalings: Weights,
    rank: int | None = None,
    *,
    density: float,
    seed: int = 0,
    start: Start | None = None,
) -> FactorPair:
    """Merge updates by a rule on their entries, and fit the result by one adapter.

    Args:
        rule: one of those below.
        As: N arrays (r_i, in_features).
        Bs: N arrays (out_features, r_i).
        weights: (N,) coefficients c.
        scalings: (N,) scalings s, alpha / r.
        rank: of the result; None is 16, or that of a matrix of this shape if it is less.
        density: share of the entries kept, above 0 and at most 1.
        seed: of random choices.
        start: adapter that the others were trained from.

    Returns:
        A (rank, in_features) and B (out_features, rank), float32, to be used with scaling 1.

    Raises:
        RecipeError: the rank is below 1.
        BankError: there is no adapter.
        AdapterError: shapes or lengths do not match, or a value is not finite.

    Example:
        >>> one = np.ones((1, 1), np.float32)
        >>> Bs = [5 * one, 3 * one, -one]
        >>> A, B = merge_entries(ties, [one] * 3, Bs, [1 / 3] * 3, [1.0] * 3, density=1.0)
        >>> float((B @ A)[0, 0].round(4))  # the mean of 5 and 3
        4.0
    """
    check_factors(As, Bs, weights, scalings)
    updates = Updates(As, Bs, weights, scalings, seed, start)
    rank = result_rank(rank, min(updates.shape))
    merged = rule(updates, density)
    if start is not None:
        merged = merged + np.float32(start.weight + float(np.sum(weights))) * start.update
    return balanced(*dense_svd(merged, rank), rank)


# --- the rules -----------------------------------------------------------------------------------


def ties(updates: Updates, density: float) -> FloatArray:
    """Trim, elect a sign for each entry, and average the entries of that sign (TIES [1]).

    Of each update the largest entries by magnitude are kept, ``T_i``. The sign of an entry is that
    of ``Σ c_i T_i``, and its value is ``Σ|c| · Σ_S c_i T_i / Σ_S |c_i|`` over the adapters S whose
    kept ``c_i T_i`` has this sign: with equal coefficients that sum to 1, the paper's mean.

    Example:
        >>> one = np.ones((1, 1), np.float32)
        >>> ties(Updates([one] * 3, [5 * one, 3 * one, -one], [1 / 3] * 3, [1.0] * 3), 0.2).round(4)
        array([[4.]], dtype=float32)
    """
    total = np.zeros((2, *updates.shape), np.float32)  # of positive and of negative entries
    weight = np.zeros_like(total)
    for c, kept in updates.largest(density):
        term = c * kept
        positive = np.maximum(term, 0)
        total[0] += positive
        total[1] += term - positive
        weight[0] += abs(c) * (term > 0)
        weight[1] += abs(c) * (term < 0)
    negative = total[0] + total[1] < 0
    chosen, counts = (np.where(negative, pair[1], pair[0]) for pair in (total, weight))
    return _averaged(chosen, counts) * updates.mass


def dare(updates: Updates, density: float) -> FloatArray:
    """Drop entries at random, enlarge the others, and add up (DARE [2]).

    ``Σ c_i m_i ΔW_i / density`` with masks m_i of independent entries, 1 with probability
    `density`. Its expectation is the weighted sum. The mask of an adapter is drawn from the seed
    and its factors, so that it does not depend on the order of the adapters.

    Example:
        >>> I = np.eye(2, dtype=np.float32)
        >>> dare(Updates([I], [I], [1.0], [1.0]), 1.0).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    total = np.zeros(updates.shape, np.float32)
    for c, update, i in updates:
        digest = zlib.crc32(np.ascontiguousarray(updates.As[i]).data)
        digest = zlib.crc32(np.ascontiguousarray(updates.Bs[i]).data, digest)
        rng = np.random.default_rng([updates.seed, digest])
        kept = rng.random(update.shape, np.float32) < density
        total += np.float32(c / density) * update * kept
    return total


def magnitude(updates: Updates, density: float) -> FloatArray:
    """Keep the largest entries of each update, and add up: ``Σ c_i T_i``.

    Task arithmetic [4] of updates that were pruned by magnitude, PEFT's ``magnitude_prune``.

    Example:
        >>> I = np.eye(2, dtype=np.float32)
        >>> magnitude(Updates([I], [np.diag([4, 1]).astype("f")], [0.5], [1.0]), 0.25).tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    total = np.zeros(updates.shape, np.float32)
    for c, kept in updates.largest(density):
        total += c * kept
    return total


def sparse(updates: Updates, density: float) -> FloatArray:
    """Keep the largest entries of each update, and average each entry over those that kept it.

    ``Σ|c| · Σ_K c_i T_i / Σ_K |c_i|`` over the adapters K that kept the entry; with equal
    coefficients that sum to 1, the mean of the kept ones. In [3] adapters are trained sparse; here
    trained LoRA adapters are made sparse.

    Example:
        >>> I = np.eye(2, dtype=np.float32)
        >>> Bs = [np.diag([4, 1]).astype("f"), np.diag([1, 6]).astype("f")]
        >>> sparse(Updates([I, I], Bs, [0.5, 0.5], [1.0, 1.0]), 0.25).tolist()
        [[4.0, 0.0], [0.0, 6.0]]
    """
    total = np.zeros(updates.shape, np.float32)
    counts = np.zeros_like(total)
    for c, kept in updates.largest(density):
        total += c * kept
        counts += abs(c) * (kept != 0)
    return _averaged(total, counts) * updates.mass


def _averaged(total: FloatArray, counts: FloatArray) -> FloatArray:
    """Return total / counts, 0 where nothing counts."""
    return np.divide(total, counts, out=np.zeros_like(total), where=counts > 0)


def _product(A: FloatArray, B: FloatArray, scaling: float) -> FloatArray:
    return finite((B * np.float32(scaling)) @ A)


def _largest(update: FloatArray, density: float) -> FloatArray:
    """Return the update with all but its ``density · size`` largest entries set to zero."""
    keep = max(1, int(density * update.size))
    if keep >= update.size:
        return update
    sizes = np.abs(update)
    threshold = np.partition(sizes, update.size - keep, axis=None)[update.size - keep]
    return np.asarray(update * (sizes >= threshold), np.float32)  # faster than `where`
