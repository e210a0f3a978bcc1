"""A bank drawn as a map: every dataset a point, near ones near each other.

Classical multidimensional scaling on up to 64 landmark datasets [1]; all other datasets, and a new
one, are placed by their distances to the landmarks [2], so that a plan's distances are all that it
takes to put the user's dataset on the map.

References:
    [1] Torgerson, Multidimensional scaling: I. Theory and method, Psychometrika 17, 1952.
    [2] de Silva, Tenenbaum, Sparse multidimensional scaling using landmark points, Stanford, 2004.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.bank import Bank
from hf_lorameta.errors import BankError
from hf_lorameta.method.distances import distances
from hf_lorameta.types import Array

LANDMARKS = 64
"""At most so many bank datasets are compared with all others."""


@dataclass(frozen=True)
class BankMap:
    """Where a bank's datasets lie on the plane.

    Attributes:
        points: (N, 2) float64, in the order of the bank; arbitrary units, centered on the landmarks.
        landmarks: (L,) indices of the datasets that were compared with all others.
        squares: (L,) mean over the landmarks of the squared length of each one's differences.
        axes: (2, L) the linear map from centered squared lengths to the plane.
        share: of the landmarks' spread, how much the plane shows, in [0, 1].
    """

    points: Array
    landmarks: NDArray[np.intp]
    squares: Array
    axes: Array
    share: float

    def place(self, d: Array) -> Array:
        """Put a dataset on the map.

        Args:
            d: (N,) distances to every dataset of the bank, in the metric of the map.

        Returns:
            (2,) float64; for a dataset of the bank, its own point.

        Raises:
            BankError: another number of distances than the bank has datasets.
        """
        if d.shape != (len(self.points),):
            raise BankError(f"{d.shape} distances, expected ({len(self.points)},)")
        return np.asarray(self.axes @ (self.squares - d[self.landmarks]))


def bank_map(bank: Bank, metric: str) -> BankMap:
    """Draw a bank.

    A distance counts as a *squared* length: token distances of this package, the Wasserstein one on
    a line as well as JS and MMD, are of negative type, so that their square roots are lengths in a
    Euclidean space and the scaling is exact but for what two dimensions cannot show. KL is made
    symmetric first.

    Args:
        bank: its profiles are read, no weights.
        metric: a key of `hf_lorameta.method.distances.METRICS`.

    Raises:
        BankError: the bank is empty.
        RecipeError: the metric is unknown.

    Example:
        >>> drawn = bank_map(Bank.from_pretrained(), "js")
        >>> drawn.points.shape
        (26, 2)
    """
    chosen = np.unique(np.linspace(0, len(bank) - 1, LANDMARKS).round().astype(np.intp))
    size = bank.index.vocab_size
    rows = [distances(bank.profiles[int(i)], bank.profiles, size, metric) for i in chosen]
    return from_distances(np.stack(rows), chosen)


def from_distances(D: Array, landmarks: NDArray[np.intp]) -> BankMap:
    """The map for distances (L, N) from L landmarks to all N datasets.

    Example:
        >>> x = np.array([0.0, 1.0, 3.0])
        >>> drawn = from_distances((x[:, None] - x) ** 2, np.arange(3))
        >>> drawn.points[:, 0].round(3).tolist()
        [-1.333, -0.333, 1.667]
    """
    among = D[:, landmarks]
    among = (among + among.T) / 2
    squares = among.mean(axis=0)
    centered = -0.5 * (among - squares[:, None] - squares[None, :] + among.mean())
    values, vectors = np.linalg.eigh(centered)
    largest = np.clip(values[::-1], 0, None)
    two = np.zeros((2, len(landmarks)))
    for k in range(min(2, len(landmarks))):
        if largest[k] > 1e-12 * max(largest[0], 1e-300):
            vector = vectors[:, -1 - k]
            sign = 1.0 if vector[np.argmax(np.abs(vector))] > 0 else -1.0
            two[k] = sign * vector / (2 * np.sqrt(largest[k]))
    share = float(largest[:2].sum() / largest.sum()) if largest.sum() else 1.0
    points = (two @ (squares[:, None] - D)).T
    return BankMap(points, landmarks, squares, two, share)
