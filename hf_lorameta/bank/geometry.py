"""Distances among the datasets of a bank: the scale on which a new dataset is near or far."""

from collections.abc import Mapping

import numpy as np

from hf_lorameta.data.profile import ProfileTable
from hf_lorameta.method.distances import DEFAULT_METRIC, METRICS, between, distances, stored_name
from hf_lorameta.types import Array

_MAX_SAMPLED = 32


def bank_distances(profiles: ProfileTable, vocab_size: int) -> dict[str, Array]:
    """Compute the distances that the kernel rule needs, in its default metric.

    Args:
        profiles: N profiles.
        vocab_size: V.

    Returns:
        (N, N) distances by name: over inputs and outputs and, if there are inputs, over inputs
        alone, for datasets without outputs.
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
    """Compute how far a bank dataset usually is from its nearest other.

    Args:
        profiles: N profiles.
        vocab_size: V.
        computed: (N, N) distances that are known already, by metric.

    Returns:
        By metric, the median nearest distance of up to 32 evenly spaced datasets; empty if N < 2.
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
