"""Distances among the datasets of a bank: what is near and far, and a two-dimensional map.

The map is classical multidimensional scaling [1] of up to 64 landmark datasets. All other datasets,
and new ones, are placed by their distances to the landmarks [2]; the distances of a plan suffice.

References:
    [1] Torgerson, Multidimensional scaling: I. Theory and method, Psychometrika 17, 1952.
    [2] de Silva, Tenenbaum, Sparse multidimensional scaling using landmark points, Stanford, 2004.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.large_profiles import CANDIDATES, LargeProfiles
from hf_lorameta.data.counts.profile import ProfileTable
from hf_lorameta.method.metrics import DEFAULT_METRIC, METRICS, between, distances, stored_name
from hf_lorameta.types import Array

FAR_RATIO = 1.5
"""A nearest distance above this many times the bank's typical one is called far."""
_MAX_SAMPLED = 32
_MAX_OTHERS = 64
LANDMARKS = 64
"""Maximum number of landmark datasets."""


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


# --- the map --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BankMap:
    """Positions of a bank's datasets in the plane.

    Attributes:
        points: (N, 2) float64 in the order of the bank, centered on the landmarks.
        landmarks: (L,) indices of the landmark datasets.
        squares: (L,) mean squared distance from each landmark to all landmarks.
        axes: (2, L) linear map from centered squared distances to the plane.
        share: fraction of the landmarks' variance that the plane shows, in [0, 1].
    """

    points: Array
    landmarks: NDArray[np.intp]
    squares: Array
    axes: Array
    share: float

    def place(self, d: Array) -> Array:
        """Return the position of a dataset.

        Args:
            d: (N,) distances to every dataset of the bank, in the metric of the map.

        Returns:
            (2,) float64; for a dataset of the bank, its own point.
        """
        return np.asarray(self.axes @ (self.squares - d[self.landmarks]))


def bank_map(bank: Bank, metric: str) -> BankMap:
    """Compute the map of a bank from its profiles.

    A distance is taken as a *squared* length: the 1-d Wasserstein distance, JS and MMD are of
    negative type, so that their square roots are distances in a Euclidean space. KL is symmetrized.

    Args:
        bank: with datasets, and not large.
        metric: a key of `hf_lorameta.method.metrics.METRICS`.

    Example:
        >>> bank_map(Bank.from_pretrained(), "js").points.shape
        (121, 2)
    """
    landmarks = _evenly_spaced(len(bank), LANDMARKS)
    size = bank.index.vocab_size
    rows = [distances(bank.profiles[i], bank.profiles, size, metric) for i in landmarks]
    return from_distances(np.stack(rows), np.array(landmarks))


def from_distances(D: Array, landmarks: NDArray[np.intp]) -> BankMap:
    """Compute the map from distances (L, N) of L landmarks to all N datasets.

    Example:
        >>> x = np.array([0.0, 1.0, 3.0])
        >>> bank_map = from_distances((x[:, None] - x) ** 2, np.arange(3))
        >>> bank_map.points[:, 0].round(3).tolist()
        [-1.333, -0.333, 1.667]
    """
    among = D[:, landmarks]
    among = (among + among.T) / 2
    squares = among.mean(axis=0)
    centered = -0.5 * (among - squares[:, None] - squares[None, :] + among.mean())
    values, vectors = np.linalg.eigh(centered)
    values = np.clip(values[::-1], 0, None)
    axes = np.zeros((2, len(landmarks)))
    for k in range(min(2, len(landmarks))):
        if values[k] > 1e-12 * max(values[0], 1e-300):
            vector = vectors[:, -1 - k]
            sign = 1.0 if vector[np.argmax(np.abs(vector))] > 0 else -1.0
            axes[k] = sign * vector / (2 * np.sqrt(values[k]))
    share = float(values[:2].sum() / values.sum()) if values.sum() else 1.0
    points = (axes @ (squares[:, None] - D)).T
    return BankMap(points, landmarks, squares, axes, share)
