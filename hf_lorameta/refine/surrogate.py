"""What is known of a loss from a few points, and where it may be least.

The loss of a text under a mixture of adapters is far from linear in the coefficients, but its log
odds ``m = log p / (1 − p)``, with p the mean probability of its tokens, nearly are for small steps.
Further away they fall short of the line, whatever the direction, by about the square of the way. So
a few points, each with the log odds of all texts and their slopes, make a model of the loss that
costs nothing to minimize, and how far short they fell so far says how far the next step may go.
"""

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.types import Array

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


class SurrogateLoss:
    """The mean loss of R texts as a function of u, from log odds and their slopes at a few points.

    The guess from one point is ``m + slopes (u − point) − bend |u − point|²``; guesses of several
    points count by their nearness.

    Args:
        sizes: number of tokens of each text.
        bend: how far log odds fall short of the line, at most; estimated anew with every further
            point, each time no further than by a factor of 4.

    Attributes:
        bend: the estimate so far.

    Example:
        >>> model = SurrogateLoss([1, 1], bend=0.25)
        >>> model.add(np.zeros(1), np.zeros(2), np.array([[1.0], [-0.5]]))
        >>> model.minimum(stiffness=0.0).round(2)
        array([0.32])
    """

    def __init__(self, sizes: Sequence[int], bend: float) -> None:
        self.bend = self._most = bend
        self._share = np.array(sizes) / sum(sizes)
        self._points: tuple[Array, Array, Array] | None = None

    def add(self, u: Array, odds: Array, slopes: Array) -> None:
        """What was found at a point.

        Args:
            u: (K,) the point.
            odds: (R,) log odds of the texts.
            slopes: (R, K) their gradients.
        """
        if self._points is None:
            self._points = u[None], odds[None], slopes[None]
            return
        away, _, weights, lines = self._guesses(u)
        square = float(weights @ (away**2).sum(1))
        short = float(self._share @ (weights @ lines - odds))
        # of a step of no length nothing is learned
        found = (short + _TOUCHING * self.bend) / (square + _TOUCHING)
        self.bend = min(max(found, self.bend / 4), self.bend * 4, self._most)
        U, all_odds, all_slopes = self._points
        self._points = (
            np.concatenate([U, u[None]]),
            np.concatenate([all_odds, odds[None]]),
            np.concatenate([all_slopes, slopes[None]]),
        )

    def _guesses(self, u: Array) -> tuple[Array, Array, Array, Array]:
        """Of P points: (P, K) the ways from them, (P,) squares of their lengths and a little,
        (P,) weights, and (P, R) log odds that follow from each by its slopes alone."""
        assert self._points
        U, odds, slopes = self._points
        away = u - U
        near = (away**2).sum(1) + _TOUCHING
        weights = near**-_FALL
        weights /= weights.sum()
        return away, near, weights, odds + np.einsum("prk,pk->pr", slopes, away)

    def at(self, u: Array, texts: NDArray[np.bool_] | None = None) -> tuple[float, Array]:
        """The modeled loss, in nats a token, and its (K,) gradient.

        Args:
            u: (K,) where.
            texts: (R,) those that count, each with its share of the whole; None is all.
        """
        assert self._points
        slopes = self._points[2]
        away, near, weights, lines = self._guesses(u)
        lines = lines - self.bend * (away**2).sum(1)[:, None]
        by_weight = -2 * _FALL * away / near[:, None]
        by_weight = weights[:, None] * (by_weight - weights @ by_weight)
        m = weights @ lines
        share = self._share if texts is None else self._share * texts
        wrong = share / (1 + np.exp(np.clip(m, -_FAR_ODDS, _FAR_ODDS)))
        slope = np.einsum("p,prk,r->k", weights, slopes, wrong) + (lines @ wrong) @ by_weight
        slope -= 2 * self.bend * float(wrong.sum()) * (weights @ away)
        return float(share @ np.logaddexp(0, -m)), -slope

    def minimum(self, stiffness: float, texts: NDArray[np.bool_] | None = None) -> Array:
        """(K,) the u at which loss + stiffness |u|² is least, found from the best point on.

        It is sought in the span of points and slopes, as all gradients lie in it: a descent that
        begins at a point never leaves it. So few points and texts make a small problem of any K.
        """
        from scipy.optimize import minimize

        small, span = self._within_its_span()

        def stiff(u: Array) -> tuple[float, Array]:
            loss, slope = small.at(u, texts)
            return loss + stiffness * float(u @ u), slope + 2 * stiffness * u

        assert small._points
        best = min(small._points[0], key=lambda u: stiff(u)[0])
        found = minimize(stiff, best, jac=True, method="L-BFGS-B", options={"maxiter": 300})
        return np.asarray(span @ found.x, np.float64)

    def _within_its_span(self) -> tuple["SurrogateLoss", Array]:
        """The same in D orthonormal coordinates that hold all points and slopes, and these (K, D).

        They are u's own where there are no more of these, or where a slope is no number.
        """
        assert self._points
        U, odds, slopes = self._points
        known = np.concatenate([U, slopes.reshape(-1, U.shape[1])])
        smaller = len(known) < U.shape[1] and np.isfinite(known).all()
        span = np.linalg.qr(known.T)[0] if smaller else np.eye(U.shape[1])
        small = copy(self)
        small._points = U @ span, odds, slopes @ span
        return small, span
