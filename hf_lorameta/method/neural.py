"""The network of the rule ``neural``: evaluated without torch, and trained on a bank.

Each dataset of the bank takes the role of the new one: its adapter θ_i is predicted from all
others, ``Σ_{j≠i} c_j θ_j``, and the network that turns distances into coefficients is trained on
the squared error in weight space (arXiv 2507.01806). With G = ΘΘᵀ that error is
``cᵀGc − 2 cᵀG_i + G_ii``, so a step reads no adapter. Training needs the extra ``eval``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.environment import require_extra
from hf_lorameta.errors import BankError
from hf_lorameta.method.coefficients import standardize
from hf_lorameta.types import Array, Progress, no_progress

_COLUMNS = 1 << 14  # columns per product in float32, few enough for its precision
_PAIRS = 1 << 15  # (dataset, adapter) pairs per forward pass: 32 MB per activation at width 256
_VALIDATION = 0.2  # share of the datasets that the network is not trained on

_LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class NeuralModel:
    """The network g: ℝ → ℝ of the rule ``neural``.

    Linear(1, h), LayerNorm, ReLU, Linear(h, h), LayerNorm, ReLU, Linear(h, 1); arrays have the
    names they have in that ``torch.nn.Sequential``, and the shapes of `shapes`.

    Example:
        >>> zeros = {name: np.zeros(shape) for name, shape in NeuralModel.shapes(4).items()}
        >>> model = NeuralModel.from_arrays(zeros | {"6.bias": np.array([2.5])})
        >>> model(np.array([-1.0, 1.0])), model.hidden
        (array([2.5, 2.5]), 4)
    """

    arrays: Mapping[str, NDArray[np.float32]]

    @property
    def hidden(self) -> int:
        """h, the width."""
        return int(self.arrays["0.bias"].size)

    @staticmethod
    def shapes(hidden: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays of a network of width `hidden`, by name."""
        h = hidden
        weights = {"0": (h, 1), "1": (h,), "3": (h, h), "4": (h,), "6": (1, h)}
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, shape in weights.items():
            shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
        return shapes

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "NeuralModel":
        """Build a network from its arrays.

        Raises:
            BankError: a name is missing or unknown, a shape is wrong, or a value is not finite.
        """
        hidden = np.size(arrays.get("0.bias", ()))
        fits = hidden and {k: np.shape(v) for k, v in arrays.items()} == cls.shapes(hidden)
        if not fits or not all(np.isfinite(array).all() for array in arrays.values()):
            raise BankError(
                "the arrays of the bank's neural rule are not those of a network",
                code="bank.damaged-neural-rule",
                hint="hf-lorameta bank train-rule DIR",
            )
        return cls({name: np.array(array, np.float32) for name, array in arrays.items()})

    def __call__(self, x: Array) -> Array:
        """Apply g to every entry: (N,) → (N,) float64."""
        h = self._linear("0", np.asarray(x, np.float64)[:, None])
        h = self._linear("3", self._normalized_relu("1", h))
        return self._linear("6", self._normalized_relu("4", h))[:, 0]

    def _linear(self, layer: str, x: Array) -> Array:
        weight = self.arrays[f"{layer}.weight"].astype(np.float64)
        return np.asarray(x @ weight.T + self.arrays[f"{layer}.bias"])

    def _normalized_relu(self, layer: str, x: Array) -> Array:
        x = x - x.mean(axis=1, keepdims=True)
        x /= np.sqrt((x**2).mean(axis=1, keepdims=True) + _LAYER_NORM_EPS)
        x = x * self.arrays[f"{layer}.weight"] + self.arrays[f"{layer}.bias"]
        return np.maximum(x, 0.0, out=x)


class Losses(NamedTuple):
    """Mean errors over the datasets that a network is trained on, and over the held-out ones.

    In weight space, divided by the bank's mean ``‖θ_i‖²``: 0 is perfect, a zero adapter has about
    1.
    """

    train: float
    validation: float


@dataclass(frozen=True)
class TrainingReport:
    """Losses of a training, and those of simpler coefficients for comparison.

    Attributes:
        start: of the initial network.
        end: of the trained network.
        normalized: of the rule ``normalized`` at temperature 1.
        uniform: of equal weights.
    """

    start: Losses
    end: Losses
    normalized: Losses
    uniform: Losses


def gram(blocks: Iterable[NDArray[np.float32]]) -> Array:
    """Compute the Gram matrix ``G = X Xᵀ`` (N, N) of N adapters from blocks (N, m) of X's columns.

    Products are in float32 over 16,384 columns, their sums in float64.

    Example:
        >>> gram([np.eye(2, dtype=np.float32), np.ones((2, 3), np.float32)])
        array([[4., 3.],
               [3., 4.]])
    """
    total = np.zeros((1, 1))
    for block in blocks:
        for start in range(0, block.shape[1], _COLUMNS):
            part = block[:, start : start + _COLUMNS]
            total = total + part @ part.T
    return total


def train_neural(
    distances: Array,
    gram: Array,
    hidden: int = 256,
    steps: int = 40,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[NeuralModel, TrainingReport]:
    """Train the network of the rule ``neural`` on a bank.

    Row i is treated like a new dataset: its N − 1 distances to the others are standardized, and its
    own adapter is left out. Adam, full batch, temperature 1; the loss is divided by the mean of
    G_ii, so that it is near 1 for adapters of any size. The same arguments give the same network on
    the same machine; torch's global random state does not change.

    Args:
        distances: (N, N), N at least 3; row i holds those of dataset i, as the new one, to all.
        gram: (N, N) Gram matrix of the adapters, from `gram`.
        hidden: width h of the network; the paper's experiment has 4,000.
        seed: seed of the split and of the initial network.
        progress: called after each step with (done, steps).

    Raises:
        MissingExtraError: torch is not installed.
        BankError: a value is not finite, or every adapter is zero.

    Example:
        >>> X = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
        >>> d = np.abs(X[:, :1] - X[:, :1].T).astype(float)
        >>> model, report = train_neural(d, gram([X]), hidden=8, steps=5)
        >>> model.hidden, report.end.train < report.start.train
        (8, True)
    """
    require_extra("torch")
    import torch

    distances, G = np.asarray(distances, np.float64), np.asarray(gram, np.float64)
    if not (np.isfinite(distances).all() and np.isfinite(G).all()):
        raise BankError(
            "the bank's distances or adapters are not finite: the rule cannot be trained",
            code="bank.not-finite",
        )
    if not G.diagonal().mean() > 0:
        raise BankError(
            "every adapter of the bank is zero: there is nothing to predict", code="bank.all-zero"
        )
    G = G / G.diagonal().mean()
    X = _standardized(distances)
    train, held_out = _split(len(G), seed)

    X_, G_ = torch.tensor(X, dtype=torch.float32), torch.tensor(G)
    at_once = max(1, _PAIRS // len(X))

    def losses(score: Callable[[Any], Any]) -> Losses:
        with torch.no_grad():
            parts = torch.split(torch.arange(len(X)), at_once)
            errors = torch.cat([_errors(score, X_, G_, rows) for rows in parts])
        return Losses(float(errors[train].mean()), float(errors[held_out].mean()))

    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # the caller may have disabled it
        torch.manual_seed(seed)
        network = _network(hidden)
        start = losses(network)
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        for step in range(steps):
            optimizer.zero_grad()
            for first in range(0, train.size, at_once):
                rows = torch.from_numpy(train[first : first + at_once])
                (_errors(network, X_, G_, rows).sum() / train.size).backward()
            optimizer.step()
            progress(step + 1, steps)
    model = NeuralModel.from_arrays({k: v.numpy() for k, v in network.state_dict().items()})
    ends = losses(network), losses(lambda x: x), losses(torch.zeros_like)
    return model, TrainingReport(start, *ends)


def _standardized(distances: Array) -> Array:
    """Standardize every row over its N − 1 distances to others; the diagonal is 0 and unused."""
    X = np.zeros_like(distances)
    for i, row in enumerate(distances):
        X[i, np.arange(row.size) != i] = standardize(np.delete(row, i))
    return X


def _split(n: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Ascending rows for training and for validation, at least one of each."""
    order = np.random.default_rng(seed).permutation(n)
    held_out = min(max(1, round(n * _VALIDATION)), n - 1)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _network(hidden: int) -> Any:
    from torch import nn

    return nn.Sequential(
        *(nn.Linear(1, hidden), nn.LayerNorm(hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU()),
        nn.Linear(hidden, 1),
    )


def _errors(score: Callable[[Any], Any], X: Any, G: Any, rows: Any) -> Any:
    """Errors of some datasets, as a tensor, with softmin weights of scored distances to others."""
    scores = -score(X[rows].unsqueeze(-1)).squeeze(-1).double()
    own = rows.unsqueeze(-1) == rows.new_tensor(range(len(X)))
    c = scores.masked_fill(own, -float("inf")).softmax(dim=1)
    return ((c @ G) * c).sum(1) - 2 * (c * G[rows]).sum(1) + G.diagonal()[rows]
