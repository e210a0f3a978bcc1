"""What a bank is worth at a distance: its own datasets, each left out in turn and scored.

Measured once by whoever makes the bank (``bank fit --transfer``, extra ``eval``), kept in its index
as pairs of distance and losses, and read back before any work is done for a new dataset.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.index import Gain

_LEAST = 5
_SHARE = 3  # an estimate is over the nearest third of the gains


class Estimate(NamedTuple):
    """What to expect of a generated adapter, as a share of the base model's loss.

    Attributes:
        mean: (base − generated) / base, over datasets of the bank at about this distance.
        spread: their standard deviation.
        datasets: how many they are.
    """

    mean: float
    spread: float
    datasets: int


def estimate(gains: Sequence[Gain], nearest: float) -> Estimate | None:
    """Expect what the bank's datasets gained whose nearest other is about as far.

    Args:
        gains: of the bank, one a dataset.
        nearest: the new dataset's distance to the nearest of the bank.

    Returns:
        Mean and spread over the third of the gains that is closest in distance, five at least;
        None if there are fewer than five.

    Example:
        >>> known = [Gain(distance=d, base=2.0, generated=1.0 + d) for d in (0, 0.1, 0.2, 0.9, 1)]
        >>> estimate(known, 0.1).mean.__round__(2)
        0.28
    """
    if len(gains) < _LEAST:
        return None
    closest = sorted(gains, key=lambda gain: abs(gain.distance - nearest))
    kept = closest[: max(_LEAST, len(gains) // _SHARE)]
    shares = [(gain.base - gain.generated) / gain.base for gain in kept]
    return Estimate(float(np.mean(shares)), float(np.std(shares)), len(kept))
