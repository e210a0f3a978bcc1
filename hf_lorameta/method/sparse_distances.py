"""The four distances of the paper, from sparse token counts.

`hf_lorameta.method.distances` has them as mathematics on whole distributions, p (V,) and Q (N, V). Here are
the same values from the counts of those tokens that a dataset has: a smoothed distribution is one
and the same constant on all others, so that logarithms need be taken only of what was counted. The
two that follow the line of ids are cheap otherwise: sums of whole numbers, and an FFT in halves.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.data.profile import Histogram
from hf_lorameta.types import Array

SMOOTHING = 1e-10
"""Added to every token's probability before a logarithm is taken; see `hf_lorameta.method.distances.kl`."""
BANDWIDTHS = (0.2, 0.5, 0.9, 1.3)
"""Of the kernel in `hf_lorameta.method.distances.mmd`, in token ids."""


class Counts:
    """How often each token was counted in some datasets; what is derived is derived once.

    Args:
        datasets: per dataset the histograms whose sum is meant: one or two of them, with a token.
        vocab_size: V, above every id.

    Example:
        >>> first = Histogram.from_dense(np.array([2, 0, 1]))
        >>> second = Histogram.from_dense(np.array([1, 1, 0]))
        >>> Counts([[first, second], [first]], 3).dense
        array([[3., 1., 1.],
               [2., 0., 1.]])
    """

    def __init__(self, datasets: Sequence[Sequence[Histogram]], vocab_size: int) -> None:
        self._datasets = datasets
        self.vocab_size = vocab_size
        self.floor = SMOOTHING / (1 + vocab_size * SMOOTHING)  # smoothed probability of the unseen

    @cached_property
    def dense(self) -> Array:
        """(R, V) counts."""
        counts = np.empty((len(self._datasets), self.vocab_size))
        for row, dataset in zip(counts, self._datasets, strict=True):
            row[:] = _dense(dataset, self.vocab_size)
        return counts

    @cached_property
    def totals(self) -> Array:
        """(R,) tokens."""
        return np.array([sum(h.total for h in dataset) for dataset in self._datasets], np.float64)

    @cached_property
    def cumulative(self) -> Array:
        """(R, V) share of the tokens up to each id."""
        sums = np.cumsum(self.dense, axis=1)  # of whole numbers: exact
        sums /= self.totals[:, None]
        return sums

    @cached_property
    def _sparse(self) -> tuple[NDArray[np.intp], Array, NDArray[np.intp]]:
        """ids (n,), ratios (n,), and where each dataset starts in them (R,)."""
        found = [_merged(dataset, self.vocab_size) for dataset in self._datasets]
        ratios = [
            counts / (total * SMOOTHING)
            for (_, counts), total in zip(found, self.totals, strict=True)
        ]
        starts = np.cumsum([0, *(ids.size for ids, _ in found)])[:-1]
        return np.concatenate([ids for ids, _ in found]), np.concatenate(ratios) + 1, starts

    @property
    def ids(self) -> NDArray[np.intp]:
        """(n,) the tokens seen, dataset after dataset, each once."""
        return self._sparse[0]

    @property
    def ratios(self) -> Array:
        """(n,) smoothed probabilities of `ids` in units of `floor`; unseen tokens have 1."""
        return self._sparse[1]

    @cached_property
    def logs(self) -> Array:
        """(n,) of `ratios`; unseen tokens have 0."""
        return np.asarray(np.log(self.ratios))

    @cached_property
    def information(self) -> Array:
        """(n,) x log x of the ratios x."""
        return np.asarray(self.ratios * self.logs)

    @cached_property
    def energy(self) -> Array:
        """(R,) qᵀKq with the kernel of `hf_lorameta.method.distances.mmd`."""
        return np.asarray(_spectrum(self.vocab_size).energy(self.dense) / self.totals**2)

    def summed(self, values: Array) -> Array:
        """Sums over each dataset's part of an array beside `ids`: (n,) → (R,)."""
        return np.add.reduceat(values, self._sparse[2])


class QueryCounts(Counts):
    """The counts of one dataset, as the other side of a distance."""

    @cached_property
    def ratio(self) -> Array:
        """(V,) `ratios` of all tokens."""
        return np.asarray(self.dense[0] / (self.totals[0] * SMOOTHING) + 1)

    @cached_property
    def midpoint_xlogx(self) -> Array:
        """(V,) x log x of the middle between `ratio` and 1."""
        middle = (self.ratio + 1) / 2
        return np.asarray(middle * np.log(middle))

    @cached_property
    def js_to_empty(self) -> Array:
        """(1,) what `js` sums up where the other dataset has no token, in units of `floor`."""
        return self.summed(self.information / 2 - self.midpoint_xlogx.take(self.ids))

    @cached_property
    def potential(self) -> Array:
        """(V,) Kp with the kernel of `hf_lorameta.method.distances.mmd`."""
        return _spectrum(self.vocab_size).applied(self.dense[0] / self.totals[0])


def _dense(dataset: Sequence[Histogram], vocab_size: int) -> Array:
    ids = np.concatenate([histogram.ids for histogram in dataset])
    counts = np.concatenate([histogram.counts for histogram in dataset])
    return np.asarray(np.bincount(ids, counts, vocab_size), np.float64)


def _merged(dataset: Sequence[Histogram], vocab_size: int) -> tuple[NDArray[np.intp], Array]:
    """Tokens, each once, and their counts over all histograms."""
    first, *others = dataset
    if not others:
        return first.ids.astype(np.intp), first.counts.astype(np.float64)
    dense = _dense(dataset, vocab_size)
    (second,) = others
    fresh = dense.take(second.ids) == second.counts  # the first one has no such token
    ids = np.concatenate([first.ids, second.ids[fresh]]).astype(np.intp)
    return ids, dense.take(ids)


# --- the distances -------------------------------------------------------------------------------


def wasserstein(new: QueryCounts, bank: Counts) -> Array:
    """`hf_lorameta.method.distances.wasserstein` of one dataset to R: (R,)."""
    gap = bank.cumulative - new.cumulative
    return np.asarray(np.abs(gap, out=gap).sum(axis=1))


def length_distance(new: QueryCounts, bank: Counts) -> Array:
    """`hf_lorameta.method.distances.length_distance` of one dataset to R: (R,)."""
    return wasserstein(new, bank) / 2


def kl(new: QueryCounts, bank: Counts) -> Array:
    """`hf_lorameta.method.distances.kl` of one dataset to R: (R,)."""
    weighed = new.ratio.take(bank.ids)
    weighed *= bank.logs
    return np.asarray(bank.floor * (new.summed(new.information) - bank.summed(weighed)))


def js(new: QueryCounts, bank: Counts) -> Array:
    """`hf_lorameta.method.distances.js` of one dataset to R: (R,).

    `New.js_to_empty` is the sum if the bank's dataset had no token at all: its own are put right.
    """
    middle = new.ratio.take(bank.ids)
    middle += bank.ratios
    middle /= 2
    middle *= np.log(middle)
    more = bank.information / 2
    more -= middle
    more += new.midpoint_xlogx.take(bank.ids)
    return np.asarray(bank.floor * (new.js_to_empty + bank.summed(more)))


def mmd(new: QueryCounts, bank: Counts) -> Array:
    """`hf_lorameta.method.distances.mmd` of one dataset to R: (R,)."""
    cross = np.einsum("ij,j->i", bank.dense, new.potential) / bank.totals
    return np.asarray(new.energy + bank.energy - 2 * cross)


# --- the kernel's quadratic form -----------------------------------------------------------------


def fast_length(least: int) -> int:
    """The smallest 2^a 3^b 5^c from `least` on: FFTs of such lengths are fast.

    Example:
        >>> [fast_length(n) for n in (1, 7, 31_999, 49_152)]
        [1, 8, 32000, 49152]
    """
    odd: list[int] = [3**b * 5**c for b in range(12) for c in range(8)]
    return min(x << (-(-least // x) - 1).bit_length() for x in odd)


def kernel(length: int) -> Array:
    """K(x, y) on a circle of that many ids, as a function of x − y: (length,)."""
    lag = np.minimum(np.arange(length), length - np.arange(length)).astype(np.float64)
    return np.asarray(sum(a**2 / (a**2 + lag**2) for a in BANDWIDTHS))


class _Spectrum(NamedTuple):
    """The kernel's transform on a circle of 4h ids, at least twice the vocabulary.

    With Q the transform of a q that ends before 2h, ``4h · qᵀKq = Σ_f K(f) |Q(f)|²``. Its even
    frequencies are the transform of length 2h; odd ones come in pairs of the same size, f and
    4h − f, of which one is 4j + 3: the transform of length h of (q_m + i q_{m+h}) turned by 3m.
    Together that is half the work of a transform of length 4h.
    """

    whole: Array  # (2h + 1,) K(f)
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
        return np.asarray(_weighed(odd, self.odd) + _weighed(even, self.even))

    def applied(self, p: Array) -> Array:
        """Kp: (V,) → (V,)."""
        length = 4 * self.turn.size
        spectrum = np.fft.rfft(p, n=length) * self.whole
        return np.asarray(np.fft.irfft(spectrum, n=length)[: p.size])


def _weighed(values: Array, weights: Array) -> Array:
    """Σ w x² of every row."""
    return np.asarray(np.einsum("ij,ij,j->i", values, values, weights))


@lru_cache(maxsize=2)
def _spectrum(vocab_size: int) -> _Spectrum:
    half = fast_length((vocab_size + 1) // 2)
    whole = np.fft.rfft(kernel(4 * half)).real
    even = whole[::2] / (2 * half)
    even[[0, -1]] /= 2  # all other frequencies stand for their mirror image, too
    frequency = 4 * np.arange(half) + 3
    odd = whole[np.minimum(frequency, 4 * half - frequency)] / (2 * half)
    turn = np.exp(-2j * np.pi * 3 / (4 * half) * np.arange(half))
    return _Spectrum(whole, np.repeat(even, 2), np.repeat(odd, 2), turn)
