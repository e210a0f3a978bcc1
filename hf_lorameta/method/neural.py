"""Training of the network of the rule ``neural`` on a bank.

Each dataset of the bank takes the role of the new one: its adapter θ_i is predicted from all
others, ``Σ_{j≠i} c_j θ_j``, and the network that turns distances into coefficients is trained on
the squared error in weight space (arXiv 2507.01806). With G = ΘΘᵀ that error is
``cᵀGc − 2 cᵀG_i + G_ii``, so a step reads no adapter. Needs the extra ``eval`` for torch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.environment import require_extra
from hf_lorameta.errors import BankError
from hf_lorameta.method.coefficients import softmin, standardize
from hf_lorameta.method.neural_model import NeuralModel
from hf_lorameta.types import Array, Progress, no_progress

_COLUMNS = 1 << 14  # columns per product in float32, few enough for its precision
_PAIRS = 1 << 15  # (dataset, adapter) pairs per forward pass: 32 MB per activation at width 256
_VALIDATION = 0.2  # share of the datasets that the network is not trained on


class Losses(NamedTuple):
    """Mean errors over the datasets that a network is trained on, and over the held-out ones.

    In weight space, divided by the bank's mean ``‖θ_i‖²``: 0 is perfect, a zero adapter has about
    1.
    """

    train: float
    validation: float


@dataclass(frozen=True)
class FitReport:
    """Losses of a fit; those of other weights are for comparison.

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


def fit_neural(
    distances: Array,
    gram: Array,
    hidden: int = 256,
    steps: int = 40,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[NeuralModel, FitReport]:
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
        >>> model, report = fit_neural(d, gram([X]), hidden=8, steps=5)
        >>> model.hidden, report.end.train < report.start.train
        (8, True)
    """
    require_extra("torch")
    import torch

    distances, G = np.asarray(distances, np.float64), np.asarray(gram, np.float64)
    if not (np.isfinite(distances).all() and np.isfinite(G).all()):
        raise BankError(
            "the bank's distances or adapters are not finite: the rule cannot be fitted"
        )
    if not G.diagonal().mean() > 0:
        raise BankError("every adapter of the bank is zero: there is nothing to predict")
    G = G / G.diagonal().mean()
    X = _standardized(distances)
    train, held_out = _split(len(G), seed)

    def losses(score: Callable[[Array], Array]) -> Losses:
        errors = _errors(score, X, G)
        return Losses(float(errors[train].mean()), float(errors[held_out].mean()))

    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # the caller may have disabled it
        torch.manual_seed(seed)
        network = _network(hidden)
        start = losses(_model(network))
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        X_, G_ = torch.tensor(X, dtype=torch.float32), torch.tensor(G)
        at_once = max(1, _PAIRS // len(X))
        for step in range(steps):
            optimizer.zero_grad()
            for first in range(0, train.size, at_once):
                rows = torch.from_numpy(train[first : first + at_once])
                (_differentiable_errors(network, X_, G_, rows).sum() / train.size).backward()
            optimizer.step()
            progress(step + 1, steps)
    model = _model(network)
    return model, FitReport(start, losses(model), losses(lambda x: x), losses(np.zeros_like))


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


def _errors(score: Callable[[Array], Array], X: Array, G: Array) -> Array:
    """(N,) errors with softmin weights of scored distances to the others."""
    errors = np.empty(len(G))
    for i, row in enumerate(X):
        c = np.insert(softmin(score(np.delete(row, i))), i, 0.0)
        errors[i] = c @ G @ c - 2 * c @ G[i] + G[i, i]
    return errors


def _network(hidden: int) -> Any:
    from torch import nn

    return nn.Sequential(
        *(nn.Linear(1, hidden), nn.LayerNorm(hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU()),
        nn.Linear(hidden, 1),
    )


def _model(network: Any) -> NeuralModel:
    return NeuralModel.from_arrays({k: v.numpy() for k, v in network.state_dict().items()})


def _differentiable_errors(network: Any, X: Any, G: Any, rows: Any) -> Any:
    """What `_errors` computes, of some datasets, as a tensor."""
    scores = -network(X[rows].unsqueeze(-1)).squeeze(-1).double()
    own = rows.unsqueeze(-1) == rows.new_tensor(range(len(X)))
    c = scores.masked_fill(own, -float("inf")).softmax(dim=1)
    return ((c @ G) * c).sum(1) - 2 * (c * G[rows]).sum(1) + G.diagonal()[rows]
