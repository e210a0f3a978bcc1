"""Expected gain of a generated adapter, from the leave-one-out gains of the bank's own datasets.

``bank fit --transfer`` measures these gains and stores them in the index.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.index import Gain

_MIN_GAINS = 5


class Estimate(NamedTuple):
    """Expected gain: mean and standard deviation of (base − generated) / base over datasets."""

    mean: float
    spread: float
    datasets: int


def estimate(gains: Sequence[Gain], nearest: float) -> Estimate | None:
    """Estimate the gain of a dataset from its distance to the nearest bank dataset.

    The estimate is over the third of the gains, but at least five, whose distances are closest to
    `nearest`; it is None if there are fewer than five gains.

    Example:
        >>> known = [Gain(distance=d, base=2.0, generated=1.0 + d) for d in (0, 0.1, 0.2, 0.9, 1)]
        >>> estimate(known, 0.1).mean.__round__(2)
        0.28
    """
    if len(gains) < _MIN_GAINS:
        return None
    closest = sorted(gains, key=lambda gain: abs(gain.distance - nearest))
    closest = closest[: max(_MIN_GAINS, len(gains) // 3)]
    relative = [(gain.base - gain.generated) / gain.base for gain in closest]
    return Estimate(float(np.mean(relative)), float(np.std(relative)), len(closest))
