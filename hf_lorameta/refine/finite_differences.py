"""The refiner ``search``: a Gauss-Newton fit with finite differences, forward passes only."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_lorameta.engines.interfaces import SEARCH_DIMENSIONS, BaseModelRunner
from hf_lorameta.method.coefficients import Coefficients, largest_indices
from hf_lorameta.refine.fit import INITIAL_CURVATURE, Fit
from hf_lorameta.refine.results import Refinement
from hf_lorameta.refine.surrogate import SurrogateLoss
from hf_lorameta.types import Array, LossProgress, Row, no_progress

if TYPE_CHECKING:
    from hf_lorameta.bank.weighted_sum import WeightedSum

SEARCH_STEPS = 6
SEARCH_PENALTY = 0.1
"""Factor of |u|² in the objective."""
_MIN_SQUARED_STEP = 1e-12


def search(
    start: Array,
    weighted_sum: "WeightedSum",
    rows: Sequence[Row],
    runner: BaseModelRunner,
    *,
    dimensions: int = SEARCH_DIMENSIONS,
    steps: int = SEARCH_STEPS,
    progress: LossProgress = no_progress,
) -> tuple[Coefficients, Refinement]:
    """Fit coefficients, the same in all modules, with forward passes only.

    The same fit as `hf_lorameta.refine.gauss_newton.refine`, with the log odds of every output
    token. Their slopes come from one forward pass per adapter, for the adapters with the largest
    coefficients at the start; each further point costs one pass and corrects the slopes along the
    step to it [1]. Other arguments, results and errors are those of `refine`.

    Args:
        dimensions: largest number of adapters whose coefficients change.
        steps: number of points after those for the slopes.
        progress: called at every point with (step, points, loss), points being at most
            2 + dimensions + steps.

    References:
        [1] Broyden, Mathematics of Computation 19, 1965.
    """
    moving = largest_indices(start, dimensions)
    passes = 1 + len(moving) + steps
    fit = Fit(start, weighted_sum, rows, runner, passes, SEARCH_PENALTY, progress)
    fit.restrict_to(moving)

    def odds_at(u: Array, probing: bool = False) -> Array:
        fit.apply(u)
        odds = runner.log_odds(fit.tokens)
        fit.record(u, float(np.logaddexp(0, -odds).mean()), probing)
        return odds

    surrogate = SurrogateLoss([1] * sum(fit.sizes), INITIAL_CURVATURE)
    u = np.zeros(len(moving))
    odds = odds_at(u)
    h = runner.finite_difference_step
    differences = [odds_at(h * axis, probing=True) - odds for axis in np.eye(len(moving))]
    slopes = np.stack(differences, axis=1) / h
    surrogate.add(u, odds, slopes)
    for _ in range(steps):
        step = fit.minimum(surrogate) - u
        new_odds = odds_at(u + step)
        residual = new_odds - odds - slopes @ step
        slopes = slopes + np.outer(residual, step) / max(float(step @ step), _MIN_SQUARED_STEP)
        u, odds = u + step, new_odds
        surrogate.add(u, odds, slopes)
    folds = np.repeat(fit.folds, fit.sizes)
    return fit.finish("search", fit.minimum(surrogate), surrogate, folds)
