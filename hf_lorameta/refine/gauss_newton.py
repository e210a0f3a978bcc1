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
from hf_lorameta.engines.interfaces import GradientRunner
from hf_lorameta.refine.fit import (
    CONVERGENCE_TOL,
    INITIAL_CURVATURE,
    Fit,
)
from hf_lorameta.refine.results import Refinement, Report
from hf_lorameta.refine.surrogate import SurrogateLoss, log_odds
from hf_lorameta.types import Array, Row

STEPS = 8
PENALTY = 0.01
"""What `refine` adds to the loss is this times |u|²."""


def refine(
    start: Array,
    mixture: WeightedSum,
    rows: Sequence[Row],
    scored: GradientRunner,
    *,
    steps: int = STEPS,
    progress: Report = lambda step, steps, loss: None,
) -> tuple[Array, Refinement]:
    """Fit coefficients by gradients through the base model, with few of them: a Gauss-Newton fit.

    The loss of each row and its gradient are asked for apart, which makes a model of the loss
    (`hf_lorameta.refine.surrogate`); its minimum is the next point to ask for, until less than 0.02 nats
    a token are expected of it. Coordinates u are those in which the adapters are alike in length
    and independent, see `Directions`, and ``0.01 |u|²`` is added, so that few rows do not move what
    they do not tell. How far modules may go apart is decided by what held-out rows lose, as far as
    the slopes at the start can tell, before any row was fitted; see `select_module_scale`. No randomness.
    Coefficients may become negative and need not sum to one. Where the result is worse than the
    start, on the rows or on rows that are held out, half of the way is gone, or a quarter, or none;
    where that is worse than the base model, it is drawn back toward zero.

    Args:
        start: (K,) coefficients to start from.
        mixture: the K adapters they belong to, of M modules.
        rows: at least 4 labeled rows of the user's.
        scored: holds the base model.
        steps: points that are asked for at most.
        progress: called at every point with (step, steps + 1 for the last, loss of the rows).

    Returns:
        (K,) coefficients, or (M, K) if modules went apart; and how the fit went.

    Raises:
        EmptyDatasetError: fewer than 4 rows.
    """
    fit = Fit(start, mixture, rows, scored, steps, PENALTY, progress)
    model, u = SurrogateLoss(fit.sizes, INITIAL_CURVATURE), np.zeros(0)
    for step in range(steps):
        fit.apply(u)
        losses, slopes = scored.gradient(fit.tokens, mixture)
        fit.record(u, float(losses @ fit.sizes / sum(fit.sizes)))
        if step == 0:
            fit.choose_module_scale(losses, slopes)
            u = np.zeros(fit.directions.dimensions)
        model.add(u, *log_odds(losses, fit.directions.slopes(slopes)))
        u = fit.minimum(model)
        if fit.best[0] - model.at(u)[0] < CONVERGENCE_TOL:
            break
    return fit.result("gradient", u, model, fit.folds)
