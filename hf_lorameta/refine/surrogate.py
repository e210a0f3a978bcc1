"""Surrogate loss: first-order models of log odds with a quadratic penalty, blended by distance.

The loss of a text under a weighted sum of adapters is far from linear in the coefficients, but its
log odds ``m = log p / (1 − p)``, with p the mean probability of its tokens, nearly are for small
steps. For longer steps they fall short of the line, in any direction, by about the square of the
step. So a few points, each with the log odds of all texts and their slopes, give a model of the
loss that is cheap to minimize; the shortfalls observed so far limit the next step.
"""

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.types import Array

_MIN_LOSS = 1e-4
_MAX_ODDS = 500.0
_DECAY = 1.5  # exponent with which a point's weight decays with its squared distance
_EPSILON = 1e-3  # added to squared distances


def to_log_odds(losses: Array, slopes: Array) -> tuple[Array, Array]:
    """Convert losses ``ℓ = −log p`` and their gradients to ``m = log p / (1 − p)`` and its.

    The losses (R,) are means over each text's tokens, in nats; the gradients are (R, K).

    Example:
        >>> m, slopes = to_log_odds(np.log([4.0]), np.array([[0.75]]))
        >>> m.round(4), slopes.round(4)  # odds of 1 to 3
        (array([-1.0986]), array([[-1.]]))
    """
    losses = np.maximum(losses, _MIN_LOSS)
    p_minus_1 = np.expm1(-losses)
    return -losses - np.log(-p_minus_1), slopes / p_minus_1[:, None]


class SurrogateLoss:
    """The mean loss of R texts as a function of u, from log odds and their slopes at P points.

    One point predicts log odds of ``m + slopes (u − point) − curvature |u − point|²``; predictions
    of several points are weighted by their nearness.

    Args:
        sizes: number of tokens of each text.
        curvature: largest curvature. It is estimated again with every further point, each time
            changing by a factor of 4 at most.

    Example:
        >>> surrogate = SurrogateLoss([1, 1], curvature=0.25)
        >>> surrogate.add(np.zeros(1), np.zeros(2), np.array([[1.0], [-0.5]]))
        >>> surrogate.minimum(penalty=0.0).round(2)
        array([0.32])
    """

    def __init__(self, sizes: Sequence[int], curvature: float) -> None:
        self.curvature = self._max_curvature = curvature
        self._share = np.array(sizes) / sum(sizes)
        self._points: tuple[Array, Array, Array] | None = None

    def add(self, u: Array, odds: Array, slopes: Array) -> None:
        """Add a point u (K,) with the log odds (R,) of the texts and their gradients (R, K)."""
        new = u[None], odds[None], slopes[None]
        if self._points is None:
            self._points = new
            return
        steps, _, weights, linear = self._predict(u)
        square = float(weights @ (steps**2).sum(1))
        shortfall = float(self._share @ (weights @ linear - odds))
        # a step of length zero leaves the estimate as it is
        observed = (shortfall + _EPSILON * self.curvature) / (square + _EPSILON)
        highest = min(self.curvature * 4, self._max_curvature)
        self.curvature = min(max(observed, self.curvature / 4), highest)
        U, all_odds, all_slopes = map(np.concatenate, zip(self._points, new, strict=True))
        self._points = U, all_odds, all_slopes

    def _predict(self, u: Array) -> tuple[Array, Array, Array, Array]:
        """Predict log odds at u from each of P points, without curvature.

        Returns (P, K) steps from the points to u, (P,) their squared lengths + epsilon, (P,)
        weights of the points, and (P, R) predictions.
        """
        assert self._points
        U, odds, slopes = self._points
        steps = u - U
        squares = (steps**2).sum(1) + _EPSILON
        weights = squares**-_DECAY
        weights /= weights.sum()
        return steps, squares, weights, odds + np.einsum("prk,pk->pr", slopes, steps)

    def evaluate(self, u: Array, texts: NDArray[np.bool_] | None = None) -> tuple[float, Array]:
        """Return the surrogate loss at u, in nats per token, and its (K,) gradient.

        The mask (R,) selects the texts that count, each with its share of all texts.
        """
        assert self._points
        slopes = self._points[2]
        steps, squares, weights, predictions = self._predict(u)
        predictions = predictions - self.curvature * (steps**2).sum(1)[:, None]
        by_weight = -2 * _DECAY * steps / squares[:, None]
        by_weight = weights[:, None] * (by_weight - weights @ by_weight)
        m = weights @ predictions
        share = self._share if texts is None else self._share * texts
        sigma = share / (1 + np.exp(np.clip(m, -_MAX_ODDS, _MAX_ODDS)))
        ascent = np.einsum("p,prk,r->k", weights, slopes, sigma)
        ascent = ascent + (predictions @ sigma) @ by_weight
        ascent -= 2 * self.curvature * float(sigma.sum()) * (weights @ steps)
        return float(share @ np.logaddexp(0, -m)), -ascent

    def minimum(self, penalty: float, texts: NDArray[np.bool_] | None = None) -> Array:
        """Minimize loss + penalty |u|² by descent from the best point; returns u (K,).

        All gradients are in the span of points and slopes, so a descent that begins at a point
        never leaves it. Few points and texts therefore make a small problem for any K.
        """
        from scipy.optimize import minimize

        small, span = self._restrict_to_span()

        def objective(u: Array) -> tuple[float, Array]:
            loss, gradient = small.evaluate(u, texts)
            return loss + penalty * float(u @ u), gradient + 2 * penalty * u

        assert small._points
        best = min(small._points[0], key=lambda u: objective(u)[0])
        result = minimize(objective, best, jac=True, method="L-BFGS-B", options={"maxiter": 300})
        return np.asarray(span @ result.x, np.float64)

    def _restrict_to_span(self) -> tuple["SurrogateLoss", Array]:
        """Express the surrogate in D orthonormal coordinates that span all points and slopes.

        The coordinates (K, D) are the identity if the span is not smaller, or if a slope is not
        finite.
        """
        assert self._points
        U, odds, slopes = self._points
        vectors = np.concatenate([U, slopes.reshape(-1, U.shape[1])])
        smaller = len(vectors) < U.shape[1] and np.isfinite(vectors).all()
        span = np.linalg.qr(vectors.T)[0] if smaller else np.eye(U.shape[1])
        small = copy(self)
        small._points = U @ span, odds, slopes @ span
        return small, span
