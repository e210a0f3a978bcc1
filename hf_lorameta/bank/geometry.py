"""Distances among the datasets of a bank: the scale on which a new dataset is near or far."""

from collections.abc import Mapping

import numpy as np

from hf_lorameta.data.counts.profile import ProfileTable
from hf_lorameta.method.metrics import DEFAULT_METRIC, METRICS, between, distances, stored_name
from hf_lorameta.types import Array

FAR_RATIO = 1.5
"""A nearest distance above this many times the bank's typical one is called far."""
_MAX_SAMPLED = 32


def bank_distances(profiles: ProfileTable, vocab_size: int) -> dict[str, Array]:
    """Compute the (N, N) distances that the kernel rule needs, in its default metric, by name.

    Those over inputs alone serve datasets without outputs; they are left out if no dataset has
    inputs.
    """
    found = {DEFAULT_METRIC: between(profiles, vocab_size, DEFAULT_METRIC)}
    inputs = profiles.only("input")
    if inputs.arrays["input.ids"].size:
        name = stored_name(DEFAULT_METRIC, "input")
        found[name] = between(inputs, vocab_size, DEFAULT_METRIC)
    return found


def typical_distances(
    profiles: ProfileTable, vocab_size: int, computed: Mapping[str, Array]
) -> dict[str, float]:
    """Compute the median distance from a bank dataset to its nearest other, by metric.

    The median is over up to 32 evenly spaced datasets; the result is empty if N < 2. `computed`
    holds (N, N) distances by metric, which are not computed again.
    """
    if len(profiles) < 2:
        return {}
    last = len(profiles) - 1
    sampled = np.unique(np.linspace(0, last, _MAX_SAMPLED).round().astype(int)).tolist()

    def nearest(i: int, metric: str) -> float:
        D = computed.get(metric)
        row = distances(profiles[i], profiles, vocab_size, metric) if D is None else D[i]
        return float(np.delete(row, i).min())

    return {m: float(np.median([nearest(i, m) for i in sampled])) for m in METRICS}
