"""Distances among the datasets of a bank: what is near and what is far."""

from collections.abc import Mapping

import numpy as np

from hf_lorameta.bank.large_profiles import CANDIDATES, LargeProfiles
from hf_lorameta.data.counts.profile import ProfileTable
from hf_lorameta.method.metrics import DEFAULT_METRIC, METRICS, between, distances, stored_name
from hf_lorameta.types import Array

FAR_RATIO = 1.5
"""A nearest distance above this many times the bank's typical one is called far."""
_MAX_SAMPLED = 32
_MAX_OTHERS = 64


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
    sampled = _evenly_spaced(len(profiles), _MAX_SAMPLED)

    def nearest(i: int, metric: str) -> float:
        D = computed.get(metric)
        row = distances(profiles[i], profiles, vocab_size, metric) if D is None else D[i]
        return float(np.delete(row, i).min())

    return {m: float(np.median([nearest(i, m) for i in sampled])) for m in METRICS}


def sampled_distances(
    profiles: LargeProfiles, vocab_size: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Estimate the typical and the median distance inside a large bank, by `metrics.stored_name`.

    Up to 32 evenly spaced datasets are compared with their candidates, among which the nearest one
    is found, and with 64 evenly spaced ones, over which the median is taken. Distances are those of
    the default metric, of all texts and of inputs or outputs alone.
    """
    typical: dict[str, float] = {}
    median: dict[str, float] = {}
    others = _evenly_spaced(len(profiles), _MAX_OTHERS)
    for part in (None, "input", "output"):
        nearest: list[float] = []
        sample: list[float] = []
        for i in _evenly_spaced(len(profiles), _MAX_SAMPLED):
            query = profiles.take([i])
            query = query.only(part) if part else query
            if not (query[0].input.total or query[0].output.total):
                continue
            near = profiles.sketches.nearest(query[0], CANDIDATES + 1).tolist()
            chosen = [j for j in dict.fromkeys([*others, *near]) if j != i]
            table = profiles.take(chosen)
            table = table.only(part) if part else table
            row = distances(query[0], table, vocab_size, DEFAULT_METRIC)
            nearest.append(float(row.min()))
            sample.extend(row[: len(set(others) - {i})].tolist())
        if nearest:
            name = stored_name(DEFAULT_METRIC, part)
            typical[name], median[name] = float(np.median(nearest)), float(np.median(sample))
    return typical, median


def _evenly_spaced(number: int, most: int) -> list[int]:
    spaced = np.unique(np.linspace(0, number - 1, most).round().astype(int))
    return [int(i) for i in spaced]
