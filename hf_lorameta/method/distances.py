"""How far a dataset is from every dataset of the bank.

Each distance is one pure function of two things: p (V,), the new dataset's token distribution, and
Q (N, V), the bank's, one a row. All are exact on histograms, need no sampling and no seed, and work
on a few rows at a time, so that what they allocate stays below 64 MB up to some 50,000 tokens
whatever N is. `DISTANCES` lists them; the command line and the model card read that table.

These functions say what is computed. `distances` and `between` get the same values from
`hf_lorameta.method.sparse_distances`, which does not spread a bank's histograms out.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.data.profile import LENGTHS, PARTS, Histogram, Part, Profile, ProfileTable
from hf_lorameta.errors import BankError, EmptyDatasetError, RecipeError
from hf_lorameta.method import sparse_distances
from hf_lorameta.method.sparse_distances import BANDWIDTHS as BANDWIDTHS
from hf_lorameta.method.sparse_distances import SMOOTHING as SMOOTHING
from hf_lorameta.method.sparse_distances import Counts, QueryCounts, fast_length, kernel
from hf_lorameta.types import Array

_WORKERS = 2
_BLOCK_BYTES = 48 << 20
_DOUBLES_PER_TOKEN = 8  # the most that any distance below keeps at once, per row and token


def wasserstein(p: Array, Q: Array) -> Array:
    """1-Wasserstein distance on the line of token ids, WD in [1].

    With F the cumulative distribution, ``d_i = Σ_v |F_p(v) − F_i(v)|``; the same value as optimal
    transport between the two samples of ids with cost |x − y|. The order of ids in a vocabulary
    means little, so this is the paper's choice more than a good one.

    Args:
        p: (V,) distribution of the new dataset.
        Q: (N, V) distributions of the bank.

    Returns:
        (N,) float64 in [0, V − 1], in token ids.

    Raises:
        BankError: p and Q are not over the same vocabulary.

    Example:
        >>> wasserstein(np.array([1.0, 0.0, 0.0]), np.array([[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]))
        array([2. , 0.5])

    References:
        [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    """
    return _by_rows(_wasserstein, p, Q)


def kl(p: Array, Q: Array) -> Array:
    """Kullback–Leibler divergence of the bank's datasets from the new one, KL in [1].

    ``d_i = Σ_v p(v) log(p(v) / q_i(v))``, after adding 1e-10 to every entry of p and q and dividing
    by the new sum. The published experiment adds without dividing; the difference is of order
    V · 1e-10, and divided sums keep d at or above zero. Not symmetric: p is the new dataset.

    Args:
        p: (V,) distribution of the new dataset.
        Q: (N, V) distributions of the bank.

    Returns:
        (N,) float64, at least 0, in nats.

    Raises:
        BankError: p and Q are not over the same vocabulary.

    Example:
        >>> kl(np.array([0.5, 0.5]), np.array([[0.25, 0.75], [0.5, 0.5]])).round(4)
        array([0.1438, 0.    ])

    References:
        [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    """
    return _by_rows(_kl, p, Q)


def js(p: Array, Q: Array) -> Array:
    """Jensen–Shannon divergence, JS in [1]; natural logarithm, no square root.

    With m = (p + q_i) / 2, ``d_i = (KL(p ‖ m) + KL(q_i ‖ m)) / 2``, smoothed as in `kl`.

    Args:
        p: (V,) distribution of the new dataset.
        Q: (N, V) distributions of the bank.

    Returns:
        (N,) float64 in [0, log 2], in nats.

    Raises:
        BankError: p and Q are not over the same vocabulary.

    Example:
        >>> js(np.array([1.0, 0.0]), np.array([[0.0, 1.0], [1.0, 0.0]])).round(4)
        array([0.6931, 0.    ])

    References:
        [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    """
    return _by_rows(_js, p, Q)


def mmd(p: Array, Q: Array) -> Array:
    """Squared maximum mean discrepancy on token ids, MMD in [1].

    ``d_i = pᵀKp + q_iᵀKq_i − 2 pᵀKq_i`` (the biased V-statistic of [2]) with the multiscale kernel
    ``K(x, y) = Σ_a a² / (a² + (x − y)²)``, a in `BANDWIDTHS`. The published experiment draws 1,000
    ids a dataset; this is the value that such draws estimate. K is Toeplitz, so one FFT a row does
    it: ``(p − q)ᵀK(p − q)`` is a sum over the frequencies of a circulant that contains K.

    Args:
        p: (V,) distribution of the new dataset.
        Q: (N, V) distributions of the bank.

    Returns:
        (N,) float64 in [0, 8], dimensionless.

    Raises:
        BankError: p and Q are not over the same vocabulary.

    Example:
        >>> mmd(np.array([1.0, 0.0]), np.array([[0.0, 1.0], [1.0, 0.0]])).round(4)
        array([5.3715, 0.    ])

    References:
        [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
        [2] Gretton et al., A Kernel Two-Sample Test, JMLR 13, 2012, equation 5.
    """
    return _by_rows(_mmd, p, Q)


def length_distance(p: Array, Q: Array) -> Array:
    """1-Wasserstein distance between the binary logarithms of the outputs' lengths.

    Args:
        p: (B,) distribution over the classes of `hf_lorameta.data.profile.length_class`.
        Q: (N, B) those of the bank.

    Returns:
        (N,) float64, in octaves: 1 where all outputs are twice as long.

    Raises:
        BankError: p and Q are not over the same classes.

    Example:
        >>> length_distance(np.array([1.0, 0.0, 0.0]), np.array([[0.0, 0.0, 1.0]]))
        array([1.])
    """
    return wasserstein(p, Q) / 2


class Distance(NamedTuple):
    """A row of `DISTANCES`.

    Attributes:
        function: of p (V,) and Q (N, V).
        sparse_fn: the same of token counts: of one dataset's and those of R, none empty; (R,).
        name: short, for recipes.
        title: for people.
        reference: where it comes from.
        parts: the texts it is measured over; the distances of several parts are added up.
        lengths: whether `length_distance` is added, too.
    """

    function: Callable[[Array, Array], Array]
    sparse_fn: Callable[[QueryCounts, Counts], Array]
    name: str
    title: str
    reference: str
    parts: tuple[Part, ...] = ("both",)
    lengths: bool = False

    @property
    def terms(self) -> "list[_Term]":
        """What is added up."""
        terms = [_Term(part, self.function, self.sparse_fn) for part in self.parts]
        if self.lengths:
            terms.append(_Term("lengths", length_distance, sparse_distances.length_distance))
        return terms


class _Term(NamedTuple):
    part: Part
    function: Callable[[Array, Array], Array]
    sparse_fn: Callable[[QueryCounts, Counts], Array]

    def size(self, vocab_size: int) -> int:
        """Number of ids that the part is counted over."""
        return LENGTHS if self.part == "lengths" else vocab_size


_PAPER = "arXiv 2507.01806"
DISTANCES: dict[str, Distance] = {
    row.name: row
    for row in (
        Distance(
            wasserstein,
            sparse_distances.wasserstein,
            "wd",
            "1-Wasserstein distance on token ids",
            _PAPER,
        ),
        Distance(kl, sparse_distances.kl, "kl", "Kullback–Leibler divergence", _PAPER),
        Distance(js, sparse_distances.js, "js", "Jensen–Shannon divergence", _PAPER),
        Distance(mmd, sparse_distances.mmd, "mmd", "Maximum mean discrepancy on token ids", _PAPER),
        Distance(
            js,
            sparse_distances.js,
            "js-io",
            "Jensen–Shannon divergence of the inputs plus that of the outputs",
            "this project: a task is what goes in and what comes out, read apart",
            ("input", "output"),
        ),
        Distance(
            js,
            sparse_distances.js,
            "js-task",
            "Jensen–Shannon divergence of the inputs plus that of the outputs plus the distance "
            "of the outputs' lengths",
            "this project: how long an answer is tells the kind of task",
            ("input", "output"),
            lengths=True,
        ),
    )
}
"""Every distance, by the name a recipe uses."""

DEFAULT_METRIC = "js-task"


def distances(profile: Profile, bank: ProfileTable, vocab_size: int, metric: str) -> Array:
    """From one dataset to every dataset of a bank.

    A part of the texts that the new dataset lacks (inputs of plain texts, outputs of prompts) is
    left out of the sum; a bank dataset that lacks a part is as far in it as can be.

    Args:
        profile: the new dataset.
        bank: N profiles, counted with the same tokenizer.
        vocab_size: V, above the largest id of either.
        metric: a key of `DISTANCES`.

    Returns:
        (N,) float64, in the order of the bank.

    Raises:
        RecipeError: the metric is unknown.
        BankError: the bank is empty, or an id lies outside the vocabulary.
        EmptyDatasetError: a profile holds no token.

    Example:
        >>> from hf_lorameta.data.profile import Histogram
        >>> nothing = Histogram.from_dense(np.zeros(3, int))
        >>> one = [Histogram.from_dense(row) for row in np.eye(3, dtype=int)]
        >>> a, b = Profile(nothing, one[0], 1), Profile(nothing, one[2], 1)
        >>> distances(a, ProfileTable.from_profiles([a, b]), 3, "wd")
        array([0., 2.])
    """
    news = ProfileTable.from_profiles([profile])
    _check([news, bank], vocab_size, metric)
    if not _comparable(news, metric).any():
        raise EmptyDatasetError("the texts of the dataset hold no token")
    return np.asarray(_measured(news, slice(0, 1), bank, vocab_size, metric)[0])


def between(bank: ProfileTable, vocab_size: int, metric: str) -> Array:
    """Of every dataset of a bank to every other.

    A dataset that has none of the texts the metric reads is as far from each as that is from it.

    Args:
        bank: N profiles.
        vocab_size: V.
        metric: a key of `DISTANCES`.

    Returns:
        (N, N) float64; row i holds the distances of dataset i, as the new one, to all.

    Raises:
        RecipeError: the metric is unknown.
        BankError: the bank is empty, none of its datasets has a token of the texts that are
            compared, or an id lies outside the vocabulary.

    Example:
        >>> from hf_lorameta.data.profile import Histogram
        >>> one = [Histogram.from_dense(row) for row in np.eye(3, dtype=int)]
        >>> table = ProfileTable.from_profiles([Profile(one[0], one[i], 1) for i in (1, 2)])
        >>> between(table, 3, "js-io").round(4)
        array([[0.    , 0.6931],
               [0.6931, 0.    ]])
    """
    _check([bank], vocab_size, metric)
    empty = ~_comparable(bank, metric)
    if empty.all():
        raise BankError(
            "no dataset of the bank has the texts that this dataset has: one has inputs alone, the "
            "others outputs alone",
            hint="--columns names other columns, --bank another bank",
        )
    blocks = _blocks(len(bank), vocab_size)
    found = np.concatenate([_measured(bank, rows, bank, vocab_size, metric) for rows in blocks])
    found[empty] = found[:, empty].T
    found[np.ix_(empty, empty)] = 0.0
    return found


# --- many against many ---------------------------------------------------------------------------


class _QueryPart:
    """One part of a new dataset."""

    def __init__(self, term: _Term, counts: QueryCounts) -> None:
        self._term, self._counts = term, counts

    @cached_property
    def _without(self) -> float:
        """To a dataset that lacks the part: as to a distribution of zeros."""
        p = self._counts.dense[0] / self._counts.totals[0]
        return float(self._term.function(p, np.zeros((1, p.size)))[0])

    def to(self, bank: Counts | None, filled: NDArray[np.bool_]) -> Array:
        """(R,) to R datasets of which `bank` counts those that are `filled`."""
        found = np.zeros(filled.size)
        if bank is not None:
            found[filled] = self._term.sparse_fn(self._counts, bank)
        if not filled.all():
            found[~filled] = self._without
        return np.maximum(found, 0.0)  # rounding alone puts equal distributions below zero


def _measured(
    news: ProfileTable, chosen: slice, bank: ProfileTable, vocab_size: int, metric: str
) -> Array:
    """From each of the chosen datasets to every dataset of a bank: (n, N)."""
    sides = [
        (
            term,
            [
                _QueryPart(term, QueryCounts([of], term.size(vocab_size))) if of else None
                for of in _histograms(news, term.part, chosen)
            ],
        )
        for term in DISTANCES[metric].terms
    ]
    result = np.zeros((chosen.stop - chosen.start, len(bank)))

    def measure(rows: slice) -> None:
        for term, of_part in sides:
            found = _histograms(bank, term.part, rows)
            known, filled = [of for of in found if of], np.array([bool(of) for of in found])
            counts = Counts(known, term.size(vocab_size)) if known else None
            for side, line in zip(of_part, result, strict=True):
                if side:
                    line[rows] += side.to(counts, filled)

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(measure, _blocks(len(bank), vocab_size * _WORKERS)))
    return result


def _histograms(table: ProfileTable, part: Part, rows: slice) -> list[list[Histogram]]:
    """Of each dataset the histograms whose sum is meant; none where it lacks the part."""
    halves = [table.histograms(half, rows) for half in PARTS[part]]
    return [[half for half in of if half.ids.size] for of in zip(*halves, strict=True)]


def name_of(metric: str, part: Literal["input", "output"] | None = None) -> str:
    """Under which a bank keeps the distances among its datasets, of one part of them or whole.

    Args:
        metric: a key of `DISTANCES`.
        part: None is all that the metric reads.

    Example:
        >>> name_of("js-task", "input")
        'js-task of inputs'
    """
    return f"{metric} of {part}s" if part else metric


def _comparable(table: ProfileTable, metric: str) -> NDArray[np.bool_]:
    """(N,) which profiles hold any token that the metric reads."""
    halves = {half for term in DISTANCES[metric].terms for half in PARTS[term.part]}
    found = [np.diff(table.arrays[f"{half}.indptr"]) > 0 for half in sorted(halves)]
    return np.asarray(np.any(found, axis=0))


def _check(tables: Sequence[ProfileTable], vocab_size: int, metric: str) -> None:
    if metric not in DISTANCES:
        raise RecipeError(
            f"no metric is called {metric!r}", hint=f"--metric takes one of {', '.join(DISTANCES)}"
        )
    if not all(map(len, tables)):
        raise BankError("the bank holds no dataset", hint="hf-lorameta bank list DIR says why")
    named = [(name, a) for t in tables for name, a in t.arrays.items()]
    ids = [a for name, a in named if name in ("input.ids", "output.ids") and a.size]
    largest = max((int(array.max()) for array in ids), default=0)
    if largest >= vocab_size:
        raise BankError(
            f"a profile holds token id {largest}, expected below {vocab_size}: "
            "bank and dataset were counted with different tokenizers"
        )


# --- one block of rows ---------------------------------------------------------------------------


def _blocks(rows: int, vocab_size: int) -> Iterator[slice]:
    size = max(1, _BLOCK_BYTES // (8 * _DOUBLES_PER_TOKEN * max(vocab_size, 1)))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _by_rows(block: Callable[[Array, Array], Array], p: Array, Q: Array) -> Array:
    p, Q = np.asarray(p, np.float64), np.asarray(Q, np.float64)
    if p.ndim != 1 or Q.ndim != 2 or Q.shape[1] != p.size or not p.size:
        raise BankError(f"shapes p {p.shape} and Q {Q.shape}, expected (V,) and (N, V)")
    result = np.zeros(len(Q))
    for rows in _blocks(len(Q), p.size):
        result[rows] = block(p, Q[rows])
    return np.maximum(result, 0.0)  # rounding alone puts equal distributions below zero; NaN stays


def _wasserstein(p: Array, Q: Array) -> Array:
    gap = np.cumsum(p - Q, axis=1)[:, :-1]
    return np.asarray(np.abs(gap, out=gap).sum(axis=1))


def _smooth(x: Array) -> Array:
    smoothed = x + SMOOTHING
    smoothed /= smoothed.sum(axis=-1, keepdims=True)
    return smoothed


def _kl(p: Array, Q: Array) -> Array:
    p, Q = _smooth(p), _smooth(Q)
    return np.asarray(np.subtract(np.log(p), np.log(Q, out=Q), out=Q) @ p)


def _js(p: Array, Q: Array) -> Array:
    p, Q = _smooth(p), _smooth(Q)
    own = (_negentropy(p[None]) + _negentropy(Q)) / 2
    Q += p
    Q /= 2
    return np.asarray(own - _negentropy(Q))


def _negentropy(P: Array) -> Array:
    return np.asarray(np.einsum("ij,ij->i", P, np.log(P)))


def _mmd(p: Array, Q: Array) -> Array:
    length = fast_length(2 * p.size)
    # d is real, so every frequency but the first (and, in even lengths, the last) counts twice
    weight = np.fft.rfft(kernel(length)).real * (2 / length)
    weight[0] /= 2
    if length % 2 == 0:
        weight[-1] /= 2
    spectrum = np.fft.rfft(p - Q, n=length, axis=1)
    power = spectrum.real**2
    power += spectrum.imag**2
    return np.asarray(power @ weight)
