"""What is known of a loss from a few points, and where it may be least.

The loss of a text under a mixture of adapters is far from linear in the coefficients, but its log
odds ``m = log p / (1 − p)``, with p the mean probability of its tokens, nearly are: the model's
logits are, for small steps. So a few points, each with the log odds of all texts and their slopes,
make a model of the loss that costs nothing to minimise.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LEAST_LOSS = 1e-4
_FAR_ODDS = 500.0
_FALL = 1.5
"""Exponent with which a point's weight falls with the square of its distance."""
_TOUCHING = 1e-3
"""Square of the distance at which a point is taken to be met."""


def log_odds(losses: Array, slopes: Array) -> tuple[Array, Array]:
    """Losses ``ℓ = −log p`` and their gradients as ``m = log p / (1 − p)`` and its gradients.

    Args:
        losses: (R,) mean loss of each text's tokens, in nats.
        slopes: (R, K) their gradients.

    Returns:
        (R,) and (R, K).

    Example:
        >>> m, slopes = log_odds(np.log([4.0]), np.array([[0.75]]))
        >>> m.round(4), slopes.round(4)  # odds of 1 to 3
        (array([-1.0986]), array([[-1.]]))
    """
    losses = np.maximum(losses, _LEAST_LOSS)
    against = np.expm1(-losses)  # p − 1
    return -losses - np.log(-against), slopes / against[:, None]


class LossModel:
    """The mean loss of R texts as a function of u, from log odds and their slopes at a few points.

    Between the points, log odds are linear in u, each point counting by its nearness.

    Args:
        sizes: number of tokens of each text.
        folds: which fold each is in; texts of one fold are held out together in `choose`.

    Example:
        >>> model = LossModel([1, 1], folds=[0, 1])
        >>> model.add(np.zeros(1), np.zeros(2), np.array([[1.0], [-0.5]]))
        >>> model.minimum(stiffness=0.0).round(2)
        array([0.84])
    """

    def __init__(self, sizes: Sequence[int], folds: Sequence[int]) -> None:
        self._share = np.array(sizes) / sum(sizes)
        self._folds = np.array(folds)
        self._points: list[tuple[Array, Array, Array]] = []

    def add(self, u: Array, odds: Array, slopes: Array) -> None:
        """What was found at a point.

        Args:
            u: (K,) the point.
            odds: (R,) log odds of the texts.
            slopes: (R, K) their gradients.
        """
        self._points.append((u, odds, slopes))

    def at(self, u: Array, texts: NDArray[np.bool_] | None = None) -> tuple[float, Array]:
        """The modelled loss, in nats a token, and its (K,) gradient.

        Args:
            u: (K,) where.
            texts: (R,) those that count, each with its share of the whole; None is all.
        """
        U, odds, slopes = (np.stack(of) for of in zip(*self._points, strict=True))
        away = u - U
        near = (away**2).sum(1) + _TOUCHING
        weights = near**-_FALL
        weights /= weights.sum()
        by_weight = -2 * _FALL * away / near[:, None]
        by_weight = weights[:, None] * (by_weight - weights @ by_weight)
        lines = odds + np.einsum("prk,pk->pr", slopes, away)  # each point's own guess
        m = weights @ lines
        share = self._share if texts is None else self._share * texts
        wrong = share / (1 + np.exp(np.clip(m, -_FAR_ODDS, _FAR_ODDS)))
        slope = np.einsum("p,prk,r->k", weights, slopes, wrong) + (lines @ wrong) @ by_weight
        return float(share @ np.logaddexp(0, -m)), -slope

    def minimum(self, stiffness: float, texts: NDArray[np.bool_] | None = None) -> Array:
        """(K,) the u at which loss + stiffness |u|² is least, found from the last point on."""
        from scipy.optimize import minimize

        def stiff(u: Array) -> tuple[float, Array]:
            loss, slope = self.at(u, texts)
            return loss + stiffness * float(u @ u), slope + 2 * stiffness * u

        options = {"maxiter": 300}
        found = minimize(stiff, self._points[-1][0], jac=True, method="L-BFGS-B", options=options)
        return np.asarray(found.x, np.float64)

    def choose(self, stiffnesses: Sequence[float]) -> tuple[float, float]:
        """How stiff to be, by cross-validation: each fold is held out once.

        Returns:
            The stiffness with which texts that were held out lost least, infinite where they lose
            least at u = 0; and that loss, as modelled.
        """
        held_out = [self._folds == fold for fold in np.unique(self._folds)]
        origin = np.zeros_like(self._points[0][0])
        best = (np.inf, self.at(origin)[0])
        for stiffness in stiffnesses:
            ends = [(fold, self.minimum(stiffness, ~fold)) for fold in held_out]
            loss = sum(self.at(end, fold)[0] for fold, end in ends)
            best = min(best, (stiffness, loss), key=lambda found: found[1])
        return best
