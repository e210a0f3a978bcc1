"""The refiner ``gradient``: a Gauss-Newton fit with gradients through the base model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_lorameta.engines.interfaces import GradientRunner
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.refine.fit import CONVERGENCE_TOL, INITIAL_CURVATURE, Fit
from hf_lorameta.refine.results import Refinement
from hf_lorameta.refine.surrogate import SurrogateLoss, to_log_odds
from hf_lorameta.types import Array, LossProgress, Row, no_progress

if TYPE_CHECKING:
    from hf_lorameta.bank.weighted_sum import WeightedSum

STEPS = 8
PENALTY = 0.01
"""Factor of |u|² in the objective."""


def refine(
    start: Array,
    weighted_sum: "WeightedSum",
    rows: Sequence[Row],
    runner: GradientRunner,
    *,
    steps: int = STEPS,
    progress: LossProgress = no_progress,
) -> tuple[Coefficients, Refinement]:
    """Fit coefficients with few gradients through the base model.

    The loss of each row and its gradient at a few points give a surrogate of the loss
    (`hf_lorameta.refine.surrogate`). Its minimum is the next point, until the predicted improvement
    is below 0.02 nats per token. Coordinates u are those of `Directions`; the penalty ``0.01 |u|²``
    keeps coefficients in place that the few rows do not determine. How much modules may differ is
    decided by cross-validation at the start; see `select_module_scale`. The fit is deterministic.
    Coefficients may become negative and need not sum to one. If the result is worse than the start
    on the rows, or in cross-validation not better by more than the standard error, half of the step
    is taken, or a quarter, or none; if it is worse than the base model, it is shrunk toward zero.

    Args:
        start: (K,) coefficients to start from.
        weighted_sum: the K adapters, of M modules.
        rows: at least 4 labeled rows of the user's dataset.
        steps: largest number of points with gradients.
        progress: called at every point with (step, steps + 1, loss).

    Returns:
        K coefficients, different in each module if cross-validation favors it; and the report.

    Raises:
        EmptyDatasetError: fewer than 4 rows.
    """
    fit = Fit(start, weighted_sum, rows, runner, steps, PENALTY, progress)
    surrogate, u = SurrogateLoss(fit.sizes, INITIAL_CURVATURE), np.zeros(0)
    for step in range(steps):
        fit.apply(u)
        losses, slopes = runner.gradient(fit.tokens, weighted_sum)
        fit.record(u, float(losses @ fit.sizes / sum(fit.sizes)))
        if step == 0:
            fit.choose_module_scale(losses, slopes)
            u = np.zeros(fit.directions.dimensions)
        surrogate.add(u, *to_log_odds(losses, fit.directions.slopes(slopes)))
        u = fit.minimum(surrogate)
        if fit.best[0] - surrogate.evaluate(u)[0] < CONVERGENCE_TOL:
            break
    return fit.finish("gradient", u, surrogate, fit.folds)
