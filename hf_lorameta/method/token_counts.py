"""Token counts of datasets, and quantities derived from them that the distances share.

A smoothed distribution has the same value for all tokens that a dataset lacks, so logarithms are
computed only for tokens that occur. What depends on the order of token ids needs dense rows: sums
of integers, and an FFT.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.data.counts.profile import Histogram
from hf_lorameta.types import Array

SMOOTHING = 1e-10
"""Added to every token's probability before a logarithm is taken; see `metrics.kl`."""
BANDWIDTHS = (0.2, 0.5, 0.9, 1.3)
"""Bandwidths of the kernel in `metrics.mmd`, in token ids."""


class Counts:
    """Token counts of R datasets; each derived array is computed once.

    A dataset without tokens is uniform once it is smoothed, and has all its mass at the last id
    if ids are positions on a line.

    Args:
        datasets: per dataset its histograms, at most two, whose sum counts.
        vocab_size: V, above every id.

    Example:
        >>> first = Histogram.from_dense(np.array([2, 0, 1]))
        >>> second = Histogram.from_dense(np.array([1, 1, 0]))
        >>> Counts([[first, second], [first]], 3).dense
        array([[3., 1., 1.],
               [2., 0., 1.]])
    """

    def __init__(self, datasets: Sequence[Sequence[Histogram]], vocab_size: int) -> None:
        self._datasets = [[h for h in dataset if h.ids.size] for dataset in datasets]
        self.vocab_size = vocab_size
        self.floor = SMOOTHING / (1 + vocab_size * SMOOTHING)
        """Smoothed probability of a token that a dataset lacks."""

    @cached_property
    def dense(self) -> Array:
        """(R, V) counts."""
        counts = np.empty((len(self._datasets), self.vocab_size))
        for row, dataset in zip(counts, self._datasets, strict=True):
            row[:] = _dense(dataset, self.vocab_size)
        return counts

    @cached_property
    def totals(self) -> Array:
        """(R,) numbers of tokens, at least 1."""
        totals = [sum(h.total for h in dataset) for dataset in self._datasets]
        return np.maximum(np.array(totals, np.float64), 1)

    @cached_property
    def cumulative(self) -> Array:
        """(R, V) share of the tokens up to each id."""
        sums = np.cumsum(self.dense, axis=1)  # exact: of integers
        sums /= self.totals[:, None]
        sums[:, -1] = 1
        return sums

    @cached_property
    def _sparse(self) -> tuple[NDArray[np.intp], Array, NDArray[np.intp]]:
        """ids (n,), ratios (n,), and the first index of each dataset in them (R,)."""
        ids, counts = zip(*(_merged(d, self.vocab_size) for d in self._datasets), strict=True)
        totals = [c.sum() for c in counts]
        ratios = [c / (total * SMOOTHING) for c, total in zip(counts, totals, strict=True)]
        starts = np.cumsum([0, *(i.size for i in ids)])[:-1]
        return np.concatenate(ids), np.concatenate(ratios) + 1, starts

    @property
    def ids(self) -> NDArray[np.intp]:
        """(n,) tokens counted, dataset after dataset, each once."""
        return self._sparse[0]

    @property
    def ratios(self) -> Array:
        """(n,) smoothed probabilities of `ids` in units of `floor`; 1 for any other token."""
        return self._sparse[1]

    @cached_property
    def logs(self) -> Array:
        """(n,) logarithms of `ratios`; 0 for any other token."""
        return np.asarray(np.log(self.ratios))

    @cached_property
    def information(self) -> Array:
        """(n,) x log x of `ratios` x; 0 for any other token."""
        return np.asarray(self.ratios * self.logs)

    @cached_property
    def energy(self) -> Array:
        """(R,) ``qᵀKq = Σ_f K(f) |Q(f)|² / L`` with the kernel K of `metrics.mmd`."""
        length, kernel = _kernel(self.vocab_size)
        weights = 2 * kernel / length
        weights[[0, -1]] /= 2  # all other frequencies stand for their mirror image, too
        Q = np.fft.rfft(self.dense, n=length).view(np.float64)  # real and imaginary parts
        return np.asarray(np.einsum("ij,ij,j->i", Q, Q, np.repeat(weights, 2)) / self.totals**2)

    def sum_by_dataset(self, values: Array) -> Array:
        """Sum an array parallel to `ids` over each dataset: (n,) → (R,)."""
        return np.add.reduceat(values, self._sparse[2])


class QueryCounts(Counts):
    """Token counts of the new dataset, which is not empty and is compared with others."""

    @cached_property
    def ratio(self) -> Array:
        """(V,) `ratios` of all tokens."""
        return np.asarray(self.dense[0] / (self.totals[0] * SMOOTHING) + 1)

    @cached_property
    def midpoint_xlogx(self) -> Array:
        """(V,) x log x of the midpoint between `ratio` and 1."""
        middle = (self.ratio + 1) / 2
        return np.asarray(middle * np.log(middle))

    @cached_property
    def js_to_floor(self) -> Array:
        """(1,) sum of `metrics.js` over the tokens if the other has `floor` in all of them."""
        return self.sum_by_dataset(self.information / 2 - self.midpoint_xlogx.take(self.ids))

    @cached_property
    def potential(self) -> Array:
        """(V,) Kp with the kernel K of `metrics.mmd`."""
        length, kernel = _kernel(self.vocab_size)
        spectrum = np.fft.rfft(self.dense[0] / self.totals[0], n=length) * kernel
        return np.asarray(np.fft.irfft(spectrum, n=length)[: self.vocab_size])


def _dense(dataset: Sequence[Histogram], vocab_size: int) -> Array:
    counts = np.zeros(vocab_size)
    for histogram in dataset:  # each id once in a histogram
        counts[histogram.ids] += histogram.counts
    return counts


def _merged(dataset: Sequence[Histogram], vocab_size: int) -> tuple[NDArray[np.intp], Array]:
    """Tokens, each once, and their counts over all histograms; one of each token if none."""
    if not dataset:
        return np.arange(vocab_size), np.ones(vocab_size)
    first, *others = dataset
    if not others:
        return first.ids.astype(np.intp), first.counts.astype(np.float64)
    dense = _dense(dataset, vocab_size)
    (second,) = others
    new = dense.take(second.ids) == second.counts  # tokens that the first one lacks
    ids = np.concatenate([first.ids, second.ids[new]]).astype(np.intp)
    return ids, dense.take(ids)


@lru_cache(maxsize=2)
def _kernel(vocab_size: int) -> tuple[int, Array]:
    """The kernel on a circle of L ids, a power of two and at least twice the vocabulary.

    Returns:
        L, and the transform K(f) of the kernel as a function of x − y: (L/2 + 1,).
    """
    length = 1 << (2 * vocab_size - 1).bit_length()
    lag = np.minimum(np.arange(length), length - np.arange(length)).astype(np.float64)
    return length, np.fft.rfft(sum(a**2 / (a**2 + lag**2) for a in BANDWIDTHS)).real
