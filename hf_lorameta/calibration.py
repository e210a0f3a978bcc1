"""What a bank is worth at a distance: its own datasets, each left out in turn and scored.

Measured once by whoever makes the bank (``bank fit --transfer``, extra ``eval``), kept in its index
as pairs of distance and losses, and read back before any work is done for a new dataset.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank import Bank, Gain
from hf_lorameta.coefficients import coefficients
from hf_lorameta.errors import BankError
from hf_lorameta.mixture import Mixture
from hf_lorameta.profile import Row
from hf_lorameta.recipe import Recipe
from hf_lorameta.refine import Scored

ROWS = 16
"""Rows of each dataset that are scored."""
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


def measure(
    bank: Bank,
    between: NDArray[np.float64],
    rows: Callable[[int], Sequence[Row]],
    scored: Scored,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Gain, ...]:
    """Leave every dataset out once, and score what the default recipe makes of the others.

    The sum of the adapters is scored whole, not cut to a rank.

    Args:
        bank: N adapters, at least 3.
        between: (N, N) distances inside the bank in the default recipe's metric.
        rows: the first rows of dataset i.
        scored: holds the base model.
        progress: called after each with (done, N).

    Raises:
        BankError: fewer than 3 adapters.
    """
    if len(bank) < 3:
        raise BankError(f"the bank holds {len(bank)} adapters, expected at least 3")
    rule, found = Recipe().coefficients, []
    for i in range(len(bank)):
        others = [j for j in range(len(bank)) if j != i]
        apart = between[np.ix_(others, others)]
        c = coefficients(between[i][others], rule, between=apart)
        tokens = scored.encode(rows(i))
        scored.clear()
        base = scored.loss(tokens)
        scored.set(Mixture(bank, others), c)
        nearest = float(between[i][others].min())
        found.append(Gain(distance=nearest, base=base, generated=scored.loss(tokens)))
        progress(i + 1, len(bank))
    return tuple(found)
