"""Token counts of datasets, and quantities derived from them that the distances share.

A smoothed distribution is one and the same constant on all tokens that a dataset lacks, so
logarithms are taken only of tokens that were counted. What depends on the order of token ids needs
dense rows: sums of integers, and an FFT.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

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
        """(R,) qᵀKq with the kernel K of `metrics.mmd`."""
        return np.asarray(_spectrum(self.vocab_size).energy(self.dense) / self.totals**2)

    def sum_by_dataset(self, values: Array) -> Array:
        """Sum an array parallel to `ids` over each dataset: (n,) → (R,)."""
        return np.add.reduceat(values, self._sparse[2])


class QueryCounts(Counts):
    """Token counts of the one new dataset, not empty, which is compared with others."""

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
        return _spectrum(self.vocab_size).apply(self.dense[0] / self.totals[0])


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


# --- the kernel's quadratic form -----------------------------------------------------------------


def fast_length(least: int) -> int:
    """The smallest 2^a 3^b 5^c that is at least `least`: FFTs of such lengths are fast.

    Example:
        >>> [fast_length(n) for n in (1, 7, 31_999, 49_152)]
        [1, 8, 32000, 49152]
    """
    odd: list[int] = [3**b * 5**c for b in range(12) for c in range(8)]
    return min(x << (-(-least // x) - 1).bit_length() for x in odd)


def _kernel(length: int) -> Array:
    """K(x, y) on a circle of `length` ids, as a function of x − y: (length,)."""
    lag = np.minimum(np.arange(length), length - np.arange(length)).astype(np.float64)
    return np.asarray(sum(a**2 / (a**2 + lag**2) for a in BANDWIDTHS))


class _Spectrum(NamedTuple):
    """The kernel's transform on a circle of 4h ids, at least twice the vocabulary.

    With Q the transform of a q that ends before 2h, ``4h · qᵀKq = Σ_f K(f) |Q(f)|²``. Its even
    frequencies are the transform of length 2h; odd ones come in pairs of the same size, f and
    4h − f, of which one is 4j + 3: the transform of length h of (q_m + i q_{m+h}) turned by 3m.
    Together that is half the work of a transform of length 4h.
    """

    kernel: Array  # (2h + 1,) K(f)
    even: Array  # (2h + 2,) weight of each real number in the transform of length 2h
    odd: Array  # (2h,) the same for length h
    turn: NDArray[np.complex128]  # (h,)

    def energy(self, q: Array) -> Array:
        """qᵀKq of every row: (R, V) → (R,)."""
        half = self.turn.size
        z = np.zeros((len(q), half), np.complex128)
        z.real[:, : q.shape[1]] = q[:, :half]
        z.imag[:, : max(0, q.shape[1] - half)] = q[:, half:]
        z *= self.turn
        odd = np.fft.fft(z, axis=1, out=z).view(np.float64)
        even = np.fft.rfft(q, n=2 * half, axis=1).view(np.float64)
        return np.asarray(_weighted_squares(odd, self.odd) + _weighted_squares(even, self.even))

    def apply(self, p: Array) -> Array:
        """Kp: (V,) → (V,)."""
        length = 4 * self.turn.size
        spectrum = np.fft.rfft(p, n=length) * self.kernel
        return np.asarray(np.fft.irfft(spectrum, n=length)[: p.size])


def _weighted_squares(values: Array, weights: Array) -> Array:
    """Σ w x² of every row."""
    return np.asarray(np.einsum("ij,ij,j->i", values, values, weights))


@lru_cache(maxsize=2)
def _spectrum(vocab_size: int) -> _Spectrum:
    half = fast_length((vocab_size + 1) // 2)
    kernel = np.fft.rfft(_kernel(4 * half)).real
    even = kernel[::2] / (2 * half)
    even[[0, -1]] /= 2  # all other frequencies stand for their mirror image, too
    frequency = 4 * np.arange(half) + 3
    odd = kernel[np.minimum(frequency, 4 * half - frequency)] / (2 * half)
    turn = np.exp(-2j * np.pi * 3 / (4 * half) * np.arange(half))
    return _Spectrum(kernel, np.repeat(even, 2), np.repeat(odd, 2), turn)
