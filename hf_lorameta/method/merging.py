"""Adding LoRA adapters up, one module of the base model at a time.

An adapter changes a weight matrix by ``s B A``, with A (r, in_features), B (out_features, r) and
its scaling s. Every function here takes the lists of all A and all B of one module, their
coefficients and their scalings, changes none of them and opens no file. `COMBINERS` lists the ways
to add up; the command line and the model card read that table.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError, BankError, RecipeError
from hf_lorameta.types import Array, FloatArray

Factors = Sequence[FloatArray]
Weights = Sequence[float] | NDArray[Any]

DEFAULT_RANK = 16
"""Of `exact`: what vLLM serves without being configured."""

_DIRECT = 512  # most ranks of which eigenvectors are computed, at cubic cost
_CHUNK = 1024  # ranks stacked at a time where a dense matrix is built
_OVERSAMPLING = 8
_ENERGY_TOLERANCE = 1e-6
_STEPS = 24  # reached only where the update has no structure and hardly any rank is better


class Stacked(Sequence[FloatArray]):
    """Factors that lie in one array, as a sequence of views of it: nothing is copied to stack them.

    Args:
        whole: all lora_A (Σr, in_features) for axis 0, all lora_B (out_features, Σr) for axis 1.
        ranks: r of each.
        axis: along which they are stacked.

    Example:
        >>> stacked = Stacked(np.arange(6, dtype=np.float32).reshape(3, 2), [1, 2], 0)
        >>> len(stacked), stacked[1].tolist()
        (2, [[2.0, 3.0], [4.0, 5.0]])
    """

    def __init__(self, whole: FloatArray, ranks: Sequence[int], axis: int) -> None:
        self.whole = whole
        ends = accumulate(ranks, initial=0)
        self._parts = [whole[a:b] if axis == 0 else whole[:, a:b] for a, b in pairwise(ends)]

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[FloatArray]:
        return iter(self._parts)

    @overload
    def __getitem__(self, index: int) -> FloatArray: ...
    @overload
    def __getitem__(self, index: slice) -> list[FloatArray]: ...
    def __getitem__(self, index: int | slice) -> FloatArray | list[FloatArray]:
        return self._parts[index]


def factors(
    As: Factors, Bs: Factors, weights: Weights, scalings: Weights, rank: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """The paper's combination [1]: ``A = Σ c_i A_i`` and ``B = Σ c_i s_i B_i``, averaged apart.

    The update is then ``(Σ c_i s_i B_i)(Σ c_i A_i)``: not the weighted sum of updates, but one with
    cross terms ``c_i c_j s_i B_i A_j``. Good where adapters share their initial A, bad where not.

    Args:
        As: N arrays (r, in_features).
        Bs: N arrays (out_features, r).
        weights: (N,) coefficients c.
        scalings: (N,) scalings s, alpha / r.
        rank: None, or the r that all adapters share.

    Returns:
        A (r, in_features) and B (out_features, r), float32, to be used with scaling 1.

    Raises:
        RecipeError: ranks differ, or another rank is asked for.
        BankError: there is no adapter.
        AdapterError: shapes or lengths do not match.

    Example:
        >>> I = np.eye(2, dtype=np.float32)
        >>> A, B = factors([I, -I], [I, I], [0.75, 0.25], [2.0, 2.0])
        >>> A[0, 0], B[0, 0]
        (np.float32(0.5), np.float32(2.0))

    References:
        [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    """
    terms = _terms(As, Bs, weights, scalings)
    ranks = sorted({len(A) for A in As})
    if len(ranks) > 1 or rank not in (None, ranks[0]):
        wanted = f"and rank {rank} is asked for" if len(ranks) == 1 else "which cannot be averaged"
        raise RecipeError(
            f"the adapters have rank {', '.join(map(str, ranks))}, {wanted}", hint="--combine exact"
        )
    if isinstance(As, Stacked) and isinstance(Bs, Stacked):
        return _averaged(As, Bs, weights, [term.weight for term in terms])
    A, B = np.zeros(As[0].shape), np.zeros(Bs[0].shape)
    for term, c in zip(terms, weights, strict=True):
        if term.weight:
            A += np.float64(c) * term.A
            B += np.float64(term.weight) * term.B
    return A.astype(np.float32), B.astype(np.float32)


def _averaged(
    As: Stacked, Bs: Stacked, for_A: Weights, for_B: Weights
) -> tuple[FloatArray, FloatArray]:
    """The sums of `factors`, with the adapters' axis first or last: one product a factor."""
    number, rank = len(As), len(As[0])
    A = np.asarray(for_A, np.float64) @ As.whole.reshape(number, -1)
    B = Bs.whole.reshape(-1, number, rank).transpose(0, 2, 1) @ np.asarray(for_B, np.float64)
    return A.reshape(As[0].shape).astype(np.float32), B.astype(np.float32)


def exact(
    As: Factors, Bs: Factors, weights: Weights, scalings: Weights, rank: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """The best approximation of ``Σ c_i s_i B_i A_i`` by one adapter of the given rank.

    Best in the Frobenius norm (Eckart and Young [1]). With stacked factors ``A (R, in)`` of all A_i
    and ``B (out, R)`` of all c_i s_i B_i, the update is ``M = B A``; the eigenvectors of
    ``M Mᵀ = B (A Aᵀ) Bᵀ``, found among R numbers, give the subspace Q of its largest singular
    values, and the SVD of Qᵀ M gives those to full precision; any below 1e-8 of the largest may be
    lost. Both factors get the square roots of the singular values, and in every row of A the entry
    largest in size is positive. Ranks may differ; where the update's own rank is lower, the last
    rows of A and columns of B are 0.

    Where R is above 512 (over 32 adapters of rank 16) and the matrix large, a block Krylov
    iteration from a fixed start [2] finds the subspace instead. It stops once a step adds less than
    1e-6 of the update's squared norm, after 24 steps at most.

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

    References:
        [1] Eckart, Young, Psychometrika 1, 1936.
        [2] Musco, Musco, arXiv 1504.05477, 2015.
    """
    all_terms = _terms(As, Bs, weights, scalings)
    rank = min(DEFAULT_RANK, _rank(all_terms)) if rank is None else rank
    if rank < 1:
        raise RecipeError(f"rank is {rank}, expected at least 1")
    terms = _nonzero_terms(As, Bs, all_terms)
    A = np.zeros((rank, As[0].shape[1]), np.float32)
    B = np.zeros((Bs[0].shape[0], rank), np.float32)
    if terms:
        U, s, V = _truncated_svd(terms, rank)
        flip = np.sign(V[np.abs(V).argmax(axis=0), np.arange(s.size)])
        A[: s.size] = (V * (flip * np.sqrt(s))).T
        B[:, : s.size] = U * (flip * np.sqrt(s))
    return A, B


class Combiner(NamedTuple):
    """A row of `COMBINERS`.

    Attributes:
        name: short, for recipes.
        title: for people, worded as inside a sentence.
        reference: publication that it is from.
        function: from As, Bs, weights, scalings and rank to A and B.
        linear: whether the update B A is linear in the weights; if not, A and B each are.
    """

    name: str
    title: str
    reference: str
    function: Callable[
        [Factors, Factors, Weights, Weights, int | None], tuple[FloatArray, FloatArray]
    ]
    linear: bool


COMBINERS: dict[str, Combiner] = {
    row.name: row
    for row in (
        Combiner(
            "factors",
            "lora_A and lora_B averaged separately",
            "arXiv 2507.01806",
            factors,
            linear=False,
        ),
        Combiner(
            "exact",
            "the weighted sum of the updates B·A, truncated to the rank by an SVD",
            "Eckart, Young 1936",
            exact,
            linear=True,
        ),
    )
}
"""Every combiner, by the name a recipe uses."""


# --- terms of the sum ----------------------------------------------------------------------------


class _Term(NamedTuple):
    weight: float  # c · s
    A: FloatArray
    B: FloatArray


def _terms(As: Factors, Bs: Factors, weights: Weights, scalings: Weights) -> list[_Term]:
    lengths = [len(sequence) for sequence in (As, Bs, weights, scalings)]
    if len(set(lengths)) > 1:
        raise AdapterError(
            f"{lengths} lora_A, lora_B, weights and scalings, expected as many of each"
        )
    if not lengths[0]:
        raise BankError("there is no adapter to combine")
    for A, B in zip(As, Bs, strict=True):
        expected = (Bs[0].shape[0], len(A)), (len(A), As[0].shape[-1])
        if (B.shape, A.shape) != expected:
            raise AdapterError(
                f"lora_B {B.shape} and lora_A {A.shape}, expected {expected[0]} and {expected[1]}"
            )
    return [
        _Term(float(c) * float(s), A, B)
        for c, s, A, B in zip(weights, scalings, As, Bs, strict=True)
    ]


class _Terms(list[_Term]):
    """Terms whose factors lie in two arrays: A (R, in) and B (out, R), weights not in them."""

    A: FloatArray
    B: FloatArray


def _nonzero_terms(As: Factors, Bs: Factors, terms: list[_Term]) -> list[_Term]:
    """Terms that count; all where they are stacked already and most count."""
    used = [term for term in terms if term.weight]
    if not (isinstance(As, Stacked) and isinstance(Bs, Stacked)) or 2 * len(used) < len(terms):
        return used
    whole = _Terms(terms)
    whole.A, whole.B = As.whole, Bs.whole
    return whole if used else []


def _rank(terms: Sequence[_Term]) -> int:
    return sum(len(term.A) for term in terms)


def _stack_terms(terms: Sequence[_Term]) -> tuple[Array, Array]:
    """B (out, R) with the weights multiplied in, and A (R, in)."""
    A = np.concatenate([term.A for term in terms], axis=0, dtype=np.float64)
    B = np.concatenate([term.B for term in terms], axis=1, dtype=np.float64)
    B *= np.repeat([term.weight for term in terms], [len(term.A) for term in terms])
    return B, A


def _chunks(terms: Sequence[_Term]) -> Iterator[list[_Term]]:
    chunk: list[_Term] = []
    rank = 0
    for term in terms:
        chunk.append(term)
        rank += len(term.A)
        if rank >= _CHUNK:
            yield chunk
            chunk, rank = [], 0
    if chunk:
        yield chunk


def _dense(terms: Sequence[_Term]) -> Array:
    total = np.zeros((len(terms[0].B), terms[0].A.shape[1]))
    for B, weights, A in _pieces(terms, np.float64):
        total += (B * weights.T) @ A.astype(np.float64)
    return total


# --- the truncated SVD ---------------------------------------------------------------------------


def _truncated_svd(terms: Sequence[_Term], rank: int) -> tuple[Array, Array, Array]:
    """U (out, k), s (k,), V (in, k) of the sum, k ≤ rank, without directions that are rounding."""
    rows, columns = len(terms[0].B), terms[0].A.shape[1]
    core = min(_rank(terms), max(rows, columns))
    iterate = core > _DIRECT and 8 * rank < min(rows, columns)
    U, s, V = (_krylov if iterate else _direct)(terms, rank)
    noise = s[0] * np.finfo(np.float64).eps * max(rows, columns)
    k = min(rank, int((s > noise).sum()))
    return U[:, :k], s[:k], V[:, :k]


def _direct(terms: Sequence[_Term], rank: int) -> tuple[Array, Array, Array]:
    if _rank(terms) >= min(len(terms[0].B), terms[0].A.shape[1]):
        U, s, Vt = _svd(_dense(terms))
        return U[:, :rank], s[:rank], Vt[:rank].T
    B, A = _stack_terms(terms)
    inner, outer = _finite(A @ A.T), _finite(B.T @ B)
    values, W = np.linalg.eigh(inner)
    root = W * np.sqrt(np.maximum(values, 0))  # M Mᵀ = (B root)(B root)ᵀ
    _, Y = np.linalg.eigh(root.T @ outer @ root)
    # squaring cost half of the digits: the subspace is right to the other half, which is enough to
    # find in it singular values and vectors to all of them
    Q, _ = np.linalg.qr(B @ (root @ Y[:, -rank - _OVERSAMPLING :]))
    V, s, Wt = _svd(A.T @ (B.T @ Q))
    return Q @ Wt[:rank].T, s[:rank], V[:, :rank]


def _krylov(terms: Sequence[_Term], rank: int) -> tuple[Array, Array, Array]:
    """Project the sum M on span{X, MᵀMX, (MᵀM)²X, ...}, X random with a fixed seed."""
    rows, columns = len(terms[0].B), terms[0].A.shape[1]
    width = rank + _OVERSAMPLING
    block = np.random.default_rng(0).standard_normal((columns, width))
    basis, image, squares = np.empty((columns, 0)), np.empty((rows, 0)), np.empty((0, 0))
    kept = total = 0.0
    for step in range(min(_STEPS, min(rows, columns) // width)):
        for _ in range(2):  # once leaves rounding behind
            block = block - basis @ (basis.T @ block)
        block, R = np.linalg.qr(block)
        moved = _apply(terms, block)
        if step == 0:
            total = float(np.square(moved @ R).sum()) / width  # E ‖M x‖² = ‖M‖² for normal x
        cross = image.T @ moved
        squares = np.block([[squares, cross], [cross.T, moved.T @ moved]])
        basis, image = np.hstack([basis, block]), np.hstack([image, moved])
        before, kept = kept, _largest(squares, rank)
        if kept - before <= _ENERGY_TOLERANCE * total:
            break
        block = _apply_transposed(terms, moved)
    U, s, Vt = _svd(image)
    return U[:, :rank], s[:rank], basis @ Vt[:rank].T


def _largest(squares: Array, rank: int) -> float:
    """Sum of the largest eigenvalues."""
    return float(np.linalg.eigvalsh(_finite(squares))[-rank:].sum())


def _apply(terms: Sequence[_Term], X: Array) -> Array:
    """M X, in float32 but for the sum over chunks."""
    total, X32 = np.zeros((len(terms[0].B), X.shape[1])), X.astype(np.float32)
    for B, weights, A in _pieces(terms, np.float32):
        total += B @ (weights * (A @ X32))
    return total


def _apply_transposed(terms: Sequence[_Term], X: Array) -> Array:
    """Mᵀ X, in float32 but for the sum over chunks."""
    total, X32 = np.zeros((terms[0].A.shape[1], X.shape[1])), X.astype(np.float32)
    for B, weights, A in _pieces(terms, np.float32):
        total += A.T @ (weights * (B.T @ X32))
    return total


def _pieces(
    terms: Sequence[_Term], dtype: type[Any]
) -> Iterator[tuple[FloatArray, NDArray[Any], FloatArray]]:
    """(B, weights (k, 1) as `dtype`, A) of about 1,024 ranks at a time, as float32 can add up."""
    repeated = np.repeat([t.weight for t in terms], [len(t.A) for t in terms])
    weights = repeated.astype(dtype)[:, None]
    if isinstance(terms, _Terms):
        for start in range(0, len(weights), _CHUNK):
            part = slice(start, start + _CHUNK)
            yield terms.B[:, part], weights[part], terms.A[part]
        return
    done = 0
    for chunk in _chunks(terms):
        A = np.concatenate([term.A for term in chunk], axis=0)
        B = np.concatenate([term.B for term in chunk], axis=1)
        yield B, weights[done : done + len(A)], A
        done += len(A)


def _svd(matrix: Array) -> tuple[Array, Array, Array]:
    U, s, Vt = np.linalg.svd(_finite(matrix), full_matrices=False)
    return U, s, Vt


def _finite(matrix: Array) -> Array:
    if not np.isfinite(matrix).all():
        raise AdapterError("an adapter or a coefficient holds NaN or infinite values")
    return matrix
