"""Coefficients fitted on a few of the user's rows: no weight of the model or of any adapter moves.

A plan's coefficients c are where the fit starts. The loss of rows under ``ΔW = Σ c_i s_i B_i A_i``
has the gradient ``∂L/∂c_i = s_i ⟨∂L/∂ΔW, B_i A_i⟩`` in each module, so a backward pass gives those
of all adapters, while the bank is read module by module; a large one is never held in memory. As
the gradients of the modules come apart, each module may have coefficients of its own, as every
layer has in AdaMerging [1]. How far modules may go apart, and how much of the way is gone in the
end, is decided by cross-validation, each row held out once.

References:
    [1] Yang et al., AdaMerging: Adaptive Model Merging for Multi-Task Learning, arXiv 2310.02575.
"""

from collections.abc import Sequence

import numpy as np

from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines.interfaces import SEARCH_DIMENSIONS, BaseModelRunner
from hf_lorameta.method.coefficients import largest_indices
from hf_lorameta.refine.fit import (
    INITIAL_CURVATURE,
    Fit,
)
from hf_lorameta.refine.results import Refinement, Report
from hf_lorameta.refine.surrogate import SurrogateLoss
from hf_lorameta.types import Array, Row

SEARCH_STEPS = 6
SEARCH_PENALTY = 0.1
_MIN_SQUARED_STEP = 1e-12


def search(
    start: Array,
    mixture: WeightedSum,
    rows: Sequence[Row],
    scored: BaseModelRunner,
    *,
    dimensions: int = SEARCH_DIMENSIONS,
    steps: int = SEARCH_STEPS,
    progress: Report = lambda step, steps, loss: None,
) -> tuple[Array, Refinement]:
    """Fit coefficients where only a forward pass is to be had: a Gauss-Newton fit by differences.

    The same fit as `refine`, with the log odds of every single output token. Their slopes come from
    one forward pass an adapter, for the adapters with the largest coefficients at the start; the
    points that follow cost one each, and correct the slopes along the way they were reached [1].

    Args:
        start: (K,) coefficients to start from.
        mixture: the K adapters they belong to.
        rows: at least 4 labeled rows of the user's.
        scored: holds the base model.
        dimensions: number of adapters whose coefficients move, at most.
        steps: points after those.
        progress: called as in `refine`; its steps are forward passes over the rows, 1 + dimensions
            + steps of them and the last point.

    Returns:
        (K,) coefficients, and how the fit went.

    Raises:
        EmptyDatasetError: fewer than 4 rows.

    References:
        [1] Broyden, A Class of Methods for Solving Nonlinear Simultaneous Equations, Math. Comp.
            19, 1965.
    """
    moved = largest_indices(start, dimensions)
    steps_in_all = 1 + len(moved) + steps
    fit = Fit(start, mixture, rows, scored, steps_in_all, SEARCH_PENALTY, progress)
    fit.restrict_to(moved)

    def odds_at(u: Array, probing: bool = False) -> Array:
        fit.apply(u)
        odds = scored.log_odds(fit.tokens)
        fit.record(u, float(np.logaddexp(0, -odds).mean()), probing)
        return odds

    model = SurrogateLoss([1] * sum(fit.sizes), INITIAL_CURVATURE)
    u = np.zeros(len(moved))
    odds = odds_at(u)
    step = scored.finite_difference_step
    apart = [odds_at(step * axis, probing=True) - odds for axis in np.eye(len(moved))]
    slopes = np.stack(apart, axis=1) / step
    model.add(u, odds, slopes)
    for _ in range(steps):
        way = fit.minimum(model) - u
        there = odds_at(u + way)
        missed = there - odds - slopes @ way
        slopes = slopes + np.outer(missed, way) / max(float(way @ way), _MIN_SQUARED_STEP)
        u, odds = u + way, there
        model.add(u, odds, slopes)
    folds = np.repeat(fit.folds, fit.sizes)
    return fit.result("search", fit.minimum(model), model, folds)
