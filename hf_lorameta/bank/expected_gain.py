"""Expected gain of a generated adapter, from the gains measured on other datasets.

``bank fit --transfer`` measures the gains of the bank's own datasets, each left out in turn, and
stores them in the index. The embedded bank holds those of datasets that it does not contain.
`tests.benchmarks.gains` compares what predicts a gain: of what a plan knows, the length of the
outputs does best, and the distance to the nearest dataset is no better than the mean.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.index import Gain

_MIN_GAINS = 5


class Estimate(NamedTuple):
    """Expected gain, (base − generated) / base, over datasets with outputs of similar length.

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


def estimate(gains: Sequence[Gain], length: float) -> Estimate | None:
    """Estimate the gain of a dataset from the mean number of its output tokens.

    The estimate is over the third of the gains, but at least five, whose lengths have the smallest
    ratio to `length`. It is None if there are fewer than five gains with a length.

    Example:
        >>> known = [Gain(distance=0, base=2, generated=g, length=n, prompted=1.5)
        ...          for g, n in ((0.2, 1), (0.4, 2), (0.6, 2), (1, 3), (1.3, 4), (1.9, 90))]
        >>> estimate(known, 2).mean.__round__(2), estimate(known, 2).prompted
        (0.65, 0.25)
    """
    measured = [(abs(math.log(g.length / length)), g) for g in gains if g.length]
    if len(measured) < _MIN_GAINS:
        return None
    measured.sort(key=lambda pair: pair[0])
    closest = [gain for _, gain in measured[: max(_MIN_GAINS, len(measured) // 3)]]
    relative = [1 - gain.generated / gain.base for gain in closest]
    prompted = [1 - gain.prompted / gain.base for gain in closest if gain.prompted is not None]
    return Estimate(
        mean=float(np.mean(relative)),
        spread=float(np.std(relative)),
        datasets=len(closest),
        prompted=float(np.mean(prompted)) if len(prompted) == len(closest) else None,
    )
