"""Expected gain of a generated adapter, from the gains measured on other datasets.

``bank fit --transfer`` measures the gains of the bank's own datasets, each left out in turn, and
stores them in the index. The embedded bank holds those of datasets that it does not contain.
`tests.benchmarks.gains` compares what predicts a gain: of what a plan knows, the length of the
outputs does best, and the distance to the nearest dataset is no better than the mean. Short outputs
gain much where they are labels or are copied from the input, and little where each is new; few
measured datasets have short new outputs, so the length alone would predict too much for these.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.index import Gain

_MIN_GAINS = 5
_NOVELTY_WEIGHT = 2.0
"""Logarithm of the ratio of lengths that counts as much as all outputs being new instead of none.

The five kinds of random data in `tests/data/random_rows.py`, of 3 to 6 tokens, gain 0.06 to 0.41
(mean 0.26). The length alone predicts 0.41 to 0.75, with this weight 0.27 to 0.38. On the 48
measured datasets, each left out in turn, the error hardly changes: 0.202 instead of 0.187.
"""


class Estimate(NamedTuple):
    """Expected gain, (base − generated) / base, over datasets with similar outputs.

    Attributes:
        mean: over the datasets.
        spread: standard deviation over them.
        datasets: their number.
        prompted: mean gain of a 3-shot prompt on them; None if it was not measured.
    """

    mean: float
    spread: float
    datasets: int
    prompted: float | None


def estimate(gains: Sequence[Gain], length: float, novelty: float | None = None) -> Estimate | None:
    """Estimate the gain of a dataset from the length and the novelty of its outputs.

    The estimate is over the third of the gains, but at least five, for which the ratio of the
    lengths and the difference of the novelties are smallest. It is None if there are fewer than
    five gains.

    Args:
        gains: of other datasets.
        length: mean number of output tokens.
        novelty: see `hf_lorameta.data.counts.output_counts.OutputCounts`; None compares lengths
            alone.

    Example:
        >>> known = [Gain(distance=0, base=2, generated=g, length=n, prompted=1.5)
        ...          for g, n in ((0.2, 1), (0.4, 2), (0.6, 2), (1, 3), (1.3, 4), (1.9, 90))]
        >>> estimate(known, 2).mean.__round__(2), estimate(known, 2).prompted
        (0.65, 0.25)
    """
    if len(gains) < _MIN_GAINS:
        return None
    nearest = sorted(gains, key=lambda gain: _difference(gain, length, novelty))
    closest = nearest[: max(_MIN_GAINS, len(gains) // 3)]
    relative = [1 - gain.generated / gain.base for gain in closest]
    prompted = [1 - gain.prompted / gain.base for gain in closest if gain.prompted is not None]
    return Estimate(
        mean=float(np.mean(relative)),
        spread=float(np.std(relative)),
        datasets=len(closest),
        prompted=float(np.mean(prompted)) if len(prompted) == len(closest) else None,
    )


def _difference(gain: Gain, length: float, novelty: float | None) -> float:
    """Return how different the outputs of a measured dataset are."""
    difference = abs(math.log(gain.length / length))
    if gain.novelty is not None and novelty is not None:
        difference += _NOVELTY_WEIGHT * abs(gain.novelty - novelty)
    return difference
