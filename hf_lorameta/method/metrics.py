"""Metrics: distances from a dataset to every dataset of a bank.

A metric is one function of the token counts of the new dataset, `query`, and of R datasets of the
bank, `bank`. Below, p (V,) and q_i (V,) are their distributions: counts divided by their sum. All
metrics return (R,) float64, are exact on histograms, and need no sampling and no seed. A bank is
compared a few datasets at a time, so that memory does not grow with it. `METRICS` in
`registries.py` lists the metrics.

References:
    [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    [2] Gretton et al., A Kernel Two-Sample Test, JMLR 13, 2012.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.data.counts.profile import LENGTHS, PARTS, Histogram, Part, Profile, ProfileTable
from hf_lorameta.errors import BankError, Option
from hf_lorameta.method.registries import METRICS
from hf_lorameta.method.token_counts import Counts, QueryCounts
from hf_lorameta.types import Array

_WORKERS = 2
_BLOCK_BYTES = 48 << 20
_DOUBLES_PER_TOKEN = 8  # the most that a metric allocates at once, per dataset and token


def wasserstein(query: QueryCounts, bank: Counts) -> Array:
    """1-Wasserstein distance on the line of token ids, WD in [1].

    With F the cumulative distribution, ``d_i = Σ_v |F_p(v) − F_i(v)|``; the same value as optimal
    transport between the two samples of ids with cost |x − y|. The order of ids in a vocabulary
    means little; the metric is here because the paper has it. In token ids, from 0 to V − 1.

    Example:
        >>> new, other = (Histogram.from_dense(np.array(c)) for c in ([1, 0, 0], [0, 0, 1]))
        >>> wasserstein(QueryCounts([[new]], 3), Counts([[other], [new]], 3))
        array([2., 0.])
    """
    gap = bank.cumulative - query.cumulative
    return np.asarray(np.abs(gap, out=gap).sum(axis=1))


def kl(query: QueryCounts, bank: Counts) -> Array:
    """Kullback–Leibler divergence of the bank's datasets from the new one, KL in [1].

    ``d_i = Σ_v p(v) log(p(v) / q_i(v))``, after adding 1e-10 to every entry of p and q and dividing
    by the new sum. The published experiment adds without dividing; the difference is of order
    V · 1e-10, and dividing keeps d at or above zero. Not symmetric: p is the new dataset. In nats.

    Example:
        >>> new, other = (Histogram.from_dense(np.array(c)) for c in ([1, 1], [1, 3]))
        >>> kl(QueryCounts([[new]], 2), Counts([[other]], 2)).round(4)
        array([0.1438])
    """
    cross = query.ratio.take(bank.ids)
    cross *= bank.logs
    own = query.sum_by_dataset(query.information)
    return np.asarray(bank.floor * (own - bank.sum_by_dataset(cross)))


def js(query: QueryCounts, bank: Counts) -> Array:
    """Jensen–Shannon divergence, JS in [1]; natural logarithm, no square root.

    With m = (p + q_i) / 2, ``d_i = (KL(p ‖ m) + KL(q_i ‖ m)) / 2``, smoothed as in `kl`. The sum is
    first taken as if q_i were `Counts.floor` everywhere, then corrected at the tokens it has. In
    nats, from 0 to log 2.

    Example:
        >>> new, other = (Histogram.from_dense(np.array(c)) for c in ([1, 0], [0, 1]))
        >>> js(QueryCounts([[new]], 2), Counts([[other]], 2)).round(4)
        array([0.6931])
    """
    middle = query.ratio.take(bank.ids)
    middle += bank.ratios
    middle /= 2
    middle *= np.log(middle)
    correction = bank.information / 2
    correction -= middle
    correction += query.midpoint_xlogx.take(bank.ids)
    return np.asarray(bank.floor * (query.js_to_floor + bank.sum_by_dataset(correction)))


def mmd(query: QueryCounts, bank: Counts) -> Array:
    """Squared maximum mean discrepancy on token ids, MMD in [1].

    ``d_i = pᵀKp + q_iᵀKq_i − 2 pᵀKq_i`` (biased V-statistic, [2, eq. 5]) with the multiscale kernel
    ``K(x, y) = Σ_a a² / (a² + (x − y)²)``, a in (0.2, 0.5, 0.9, 1.3). The published experiment
    draws 1,000 ids a dataset; this is the value that such draws estimate. K is Toeplitz, so FFTs
    compute its products. Dimensionless, from 0 to 8.

    Example:
        >>> new, other = (Histogram.from_dense(np.array(c)) for c in ([1, 0], [0, 1]))
        >>> mmd(QueryCounts([[new]], 2), Counts([[other]], 2)).round(4)
        array([5.3715])
    """
    cross = np.einsum("ij,j->i", bank.dense, query.potential) / bank.totals
    return np.asarray(query.energy + bank.energy - 2 * cross)


def length_distance(query: QueryCounts, bank: Counts) -> Array:
    """1-Wasserstein distance between the binary logarithms of the outputs' lengths.

    Counts are those of the classes of `hf_lorameta.data.counts.profile.length_class`. In octaves: 1
    if all outputs are twice as long.

    Example:
        >>> new, other = (Histogram.from_dense(np.array(c)) for c in ([1, 0, 0], [0, 0, 1]))
        >>> length_distance(QueryCounts([[new]], 3), Counts([[other]], 3))
        array([1.])
    """
    return wasserstein(query, bank) / 2


def distances(profile: Profile, bank: ProfileTable, vocab_size: int, metric: str) -> Array:
    """Compute the (N,) distances from a new dataset to every dataset of a bank.

    A part of the texts that the new dataset lacks (inputs of plain texts, outputs of prompts) is
    left out of the sum. For a bank dataset that lacks a part see `Counts`.

    Example:
        >>> nothing = Histogram.from_dense(np.zeros(3, int))
        >>> one = [Histogram.from_dense(row) for row in np.eye(3, dtype=int)]
        >>> a, b = Profile(nothing, one[0], 1), Profile(nothing, one[2], 1)
        >>> distances(a, ProfileTable.from_profiles([a, b]), 3, "wd")
        array([0., 2.])
    """
    query = ProfileTable.from_profiles([profile])
    return np.asarray(_distance_rows(query, slice(0, 1), bank, vocab_size, metric)[0])


def pairwise_distances(bank: ProfileTable, vocab_size: int, metric: str) -> Array:
    """Compute the (N, N) distances inside a bank; row i takes dataset i as the new one.

    The row of a dataset with none of the texts that the metric reads is a copy of its column.

    Raises:
        BankError: none of the datasets has a token of the texts that are compared.

    Example:
        >>> one = [Histogram.from_dense(row) for row in np.eye(3, dtype=int)]
        >>> table = ProfileTable.from_profiles([Profile(one[0], one[i], 1) for i in (1, 2)])
        >>> pairwise_distances(table, 3, "js-io").round(4)
        array([[0.    , 0.6931],
               [0.6931, 0.    ]])
    """
    empty = ~_has_tokens(bank, metric)
    if empty.all():
        raise BankError(
            "nothing can be compared: of this dataset and those of the bank, one side has only "
            "inputs and the other only outputs",
            code="metric.nothing-to-compare",
            hint=[Option(name, change="name another") for name in ("columns", "bank")],
        )
    blocks = _blocks(len(bank), vocab_size)
    half = METRICS[metric].symmetric and _have_same_parts(bank, metric)
    D = np.concatenate(
        [_distance_rows(bank, rows, bank, vocab_size, metric, half) for rows in blocks]
    )
    if half:
        below = np.tril_indices(len(bank), -1)
        D[below] = D.T[below]
    D[empty] = D[:, empty].T
    D[np.ix_(empty, empty)] = 0.0
    return D


def stored_name(metric: str, part: Literal["input", "output"] | None = None) -> str:
    """Return the name under which a bank stores distances, over one part of the texts or all.

    Example:
        >>> stored_name("js-task", "input")
        'js-task of inputs'
    """
    return f"{metric} of {part}s" if part else metric


def _distance_rows(
    queries: ProfileTable,
    chosen: slice,
    bank: ProfileTable,
    vocab_size: int,
    metric: str,
    half: bool = False,
) -> Array:
    """(n, N) distances from each of the chosen datasets to every dataset of a bank.

    With `half`, most entries below the diagonal are not computed and stay zero.
    """
    result = np.zeros((chosen.stop - chosen.start, len(bank)))
    terms = []
    for part, function in METRICS[metric].terms.items():
        size = LENGTHS if part == "lengths" else vocab_size
        datasets = _histograms(queries, part, chosen)
        lines = [
            (chosen.start + i if half else -1, result[i], QueryCounts([histograms], size))
            for i, histograms in enumerate(datasets)
            if any(h.ids.size for h in histograms)
        ]
        terms.append((part, function, size, lines))

    def measure(rows: slice) -> None:
        for part, function, size, lines in terms:
            counts = Counts(_histograms(bank, part, rows), size)
            for first, line, query in lines:
                if first < rows.stop:
                    # rounding can put equal distributions slightly below zero
                    line[rows] += np.maximum(function(query, counts), 0.0)

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(measure, _blocks(len(bank), vocab_size * _WORKERS)))
    return result


def _histograms(table: ProfileTable, part: Part, rows: slice) -> list[tuple[Histogram, ...]]:
    """Per dataset the histograms whose sum counts the part."""
    return list(zip(*(table.histograms(half, rows) for half in PARTS[part]), strict=True))


def _blocks(rows: int, vocab_size: int) -> Iterator[slice]:
    size = max(1, _BLOCK_BYTES // (8 * _DOUBLES_PER_TOKEN * max(vocab_size, 1)))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _has_tokens(table: ProfileTable, metric: str) -> NDArray[np.bool_]:
    """(N,) which profiles hold any token that the metric reads."""
    return np.asarray(np.any([_has_part(table, part) for part in METRICS[metric].terms], axis=0))


def _have_same_parts(table: ProfileTable, metric: str) -> bool:
    """Whether all profiles, or none, have tokens of each part that the metric reads."""
    counted = (_has_part(table, part) for part in METRICS[metric].terms)
    return all(has.all() or not has.any() for has in counted)


def _has_part(table: ProfileTable, part: Part) -> NDArray[np.bool_]:
    """(N,) which profiles hold any token of a part."""
    counted = [np.diff(table.arrays[f"{half}.indptr"]) > 0 for half in PARTS[part]]
    return np.asarray(np.any(counted, axis=0))
