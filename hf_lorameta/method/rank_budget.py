"""Ranks that differ by module: the largest singular values of all modules, for their size.

A rank of a module costs ``in_features + out_features`` values and brings the square of a singular
value of its update. Taken by descending energy per value, ranks are the best choice for their size:
within a module singular values fall, so each prefix of the order is a set of truncated SVDs, and it
has the most energy of all choices of at most its size (greedy for the fractional knapsack [1]).

References:
    [1] Dantzig, Operations Research 5, 1957.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.types import Array


def ranks_for_size(values: Sequence[Array], costs: Sequence[int], budget: int) -> list[int]:
    """Choose the rank of each module so that ``Σ rank · cost`` is at most the budget.

    Ranks that no longer fit are passed over in favor of cheaper ones.

    Args:
        values: singular values of each module, in descending order.
        costs: of one rank of each module, such as its bytes.
        budget: in the unit of the costs.

    Example:
        >>> ranks_for_size([np.array([3.0, 1.0]), np.array([2.0])], [10, 10], 20)
        [1, 1]
    """
    ranks = [0] * len(values)
    closed = [False] * len(values)
    for module in _by_density(values, costs):
        if closed[module] or costs[module] > budget:
            closed[module] = True
            continue
        budget -= costs[module]
        ranks[module] += 1
    return ranks


def ranks_for_energy(values: Sequence[Array], costs: Sequence[int], share: float) -> list[int]:
    """Choose the rank of each module so that all together keep a share of the squared norm.

    Args:
        values: singular values of each module, in descending order.
        costs: of one rank of each module, such as its bytes.
        share: of ``Σ s²`` over all modules, above 0 and at most 1.

    Example:
        >>> ranks_for_energy([np.array([3.0, 1.0]), np.array([2.0])], [10, 10], 0.9)
        [1, 1]
    """
    ranks = [0] * len(values)
    # the sum in the same order as below: the share 1 is reached exactly
    order = _by_density(values, costs)
    positions = [0] * len(values)
    energies = np.empty(len(order))
    for i, module in enumerate(order):
        energies[i] = float(values[module][positions[module]]) ** 2
        positions[module] += 1
    kept = np.cumsum(energies)
    enough = int(np.searchsorted(kept, share * kept[-1])) + 1 if kept.size else 0
    for module in order[:enough]:
        ranks[module] += 1
    return ranks


def _by_density(values: Sequence[Array], costs: Sequence[int]) -> NDArray[np.intp]:
    """Return the module of each nonzero singular value, by descending energy per cost."""
    modules = np.repeat(np.arange(len(values)), [len(v) for v in values])
    flat = np.concatenate([np.asarray(v, np.float64) for v in values])
    density = flat**2 / np.asarray(costs, np.float64)[modules]
    order = np.lexsort((modules, -density))
    return modules[order[density[order] > 0]]
