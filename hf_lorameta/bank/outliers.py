"""Find the adapters of a bank whose updates are far larger than those of the others.

A combination is a weighted sum, so one adapter with a huge update outweighs all others, whatever
its coefficient: a training that diverged, a wrong ``lora_alpha``, or a poisoned adapter.
"""

import math
from collections.abc import Mapping

import numpy as np

from hf_lorameta.formats.lora_file import AdapterFile
from hf_lorameta.method.low_rank import LowRankSum

LEAST_RATIO = 4.0
"""An outlier's norm is at least this many times the median of the bank."""
_DEVIATIONS = 5.0
"""Standard deviations of the log norm, estimated as 1.4826 times the median absolute deviation,
that are still normal in a bank whose adapters were trained in many ways."""


def update_norm(file: AdapterFile, scaling: float) -> float:
    """Return the Frobenius norm of an adapter's whole update, √Σ‖s B A‖² over its modules."""
    ones = np.ones(file.rank)
    updates = (LowRankSum(*file.factors(module.name), ones) for module in file.layout)
    squared = sum(update.squared_norm() for update in updates)
    return abs(scaling) * math.sqrt(max(squared, 0.0))


def outliers(norms: Mapping[str, float]) -> dict[str, str]:
    """Return the adapters whose updates are unusually large, each with an explanation.

    Args:
        norms: of the updates, see `update_norm`, by adapter.

    Example:
        >>> outliers({"a": 1.0, "b": 1.5, "c": 0.8, "d": 30.0})
        {'d': 'its update has norm 30, 24 times the median of the bank, and would outweigh others'}
        >>> outliers({"a": 1.0, "b": 1.5, "c": 0.8, "d": 3.0})
        {}
    """
    positive = {name: norm for name, norm in norms.items() if norm > 0}
    if not positive:
        return {}
    logs = np.log(list(positive.values()))
    median = float(np.median(logs))
    spread = 1.4826 * float(np.median(abs(logs - median)))
    limit = median + max(math.log(LEAST_RATIO), _DEVIATIONS * spread)
    return {
        name: f"its update has norm {norm:.3g}, {norm / math.exp(median):,.0f} times the median of "
        "the bank, and would outweigh others"
        for name, norm in positive.items()
        if math.log(norm) > limit
    }
