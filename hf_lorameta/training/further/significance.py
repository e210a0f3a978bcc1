"""Whether the gain on held-out rows may be due to chance."""

import math
from collections.abc import Sequence

import numpy as np

from hf_lorameta.types import Array


def is_significant(gains: Array, sizes: Sequence[int]) -> bool:
    """Whether the mean gain per token exceeds its standard error.

    The standard error is that of a ratio of sums over rows (Cochran, Sampling Techniques, 1977,
    section 6.3).

    Args:
        gains: (R,) gain of each row, the sum over its tokens, in nats.
        sizes: R numbers of tokens.

    Example:
        >>> is_significant(np.array([1.0, 1.2, 0.8]), [1, 1, 1])
        True
        >>> is_significant(np.array([3.0, -1.0, -1.0]), [1, 1, 1])
        False
    """
    mean = gains.sum() / sum(sizes)
    residuals = gains - mean * np.array(sizes)
    count = len(gains)
    error = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / sum(sizes)
    return bool(mean > error)
