"""The length scale: less of an adapter where outputs are longer than those of the bank.

An adapter that was trained on short outputs helps with the first tokens of a long output and harms
the later ones. All coefficients are therefore multiplied by ``s = min(1, √(l / L))``, L being the
mean length of the new dataset's outputs, and l the geometric mean of those of the bank's datasets.
How it was chosen: ``hf_lorameta/method/README.md``.
"""

import math

import numpy as np

from hf_lorameta.types import Array


def length_scale(length: float, bank_lengths: Array) -> float:
    """Return the factor of all coefficients for outputs of a mean length.

    Args:
        length: L, in tokens, positive.
        bank_lengths: mean length of the outputs of every dataset of the bank, in tokens.

    Returns:
        s, in (0, 1].

    Example:
        >>> bank = np.array([2, 32])
        >>> length_scale(4, bank), round(length_scale(32, bank), 3)
        (1.0, 0.5)
    """
    typical = math.exp(float(np.log(bank_lengths).mean()))
    return min(1.0, math.sqrt(typical / length))
