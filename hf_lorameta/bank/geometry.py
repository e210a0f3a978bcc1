"""Where banks and adapters come from and go to: the embedded bank, folders, Hub repos, builds.

The default bank is ``HF_LORAMETA_BANK`` (a folder or a Hub dataset repo) if that is set, else the
bank embedded in this package.
"""

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.data.profile import ProfileTable
from hf_lorameta.method.distances import DEFAULT_METRIC, METRICS, between, distances, stored_name

_SAMPLED = 32


def geometry(
    profiles: ProfileTable, vocab_size: int
) -> tuple[dict[str, float], dict[str, NDArray[np.float32]]]:
    """How near bank datasets are to each other: the scale on which a new dataset is near or far.

    Args:
        profiles: of the bank, N of them.
        vocab_size: V.

    Returns:
        Per metric, the median over up to 32 evenly chosen bank datasets of the distance to their
        nearest other dataset (empty for a bank of one); and for the metric that the rule kernel
        has by default, all (N, N) distances: whole, and of inputs alone, for datasets that have
        nothing else.
    """
    default = DEFAULT_METRIC
    inside = between(profiles, vocab_size, default)
    apart = {default: inside.astype(np.float32)}
    inputs = profiles.only("input")
    if inputs.arrays["input.ids"].size:
        of_inputs = between(inputs, vocab_size, default)
        apart[stored_name(default, "input")] = of_inputs.astype(np.float32)
    if len(profiles) < 2:
        return {}, apart
    chosen = np.unique(np.linspace(0, len(profiles) - 1, _SAMPLED).round().astype(int))

    def row(i: int, metric: str) -> NDArray[np.float64]:
        if metric == default:
            return np.asarray(inside[i])
        return distances(profiles[i], profiles, vocab_size, metric)

    nearest = {
        metric: [np.delete(row(i, metric), i).min() for i in map(int, chosen)] for metric in METRICS
    }
    return {metric: float(np.median(found)) for metric, found in nearest.items()}, apart
