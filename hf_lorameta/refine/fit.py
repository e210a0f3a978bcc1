"""A Gauss-Newton fit of coefficients with gradients through the base model."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.errors import EmptyDatasetError, Option
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.refine.directions import NO_MODULE_DIRECTIONS, Directions
from hf_lorameta.refine.results import Refinement
from hf_lorameta.refine.shrink import backtrack_scale
from hf_lorameta.refine.surrogate import SurrogateLoss, to_log_odds
from hf_lorameta.types import Array, LossProgress, Row, no_progress

if TYPE_CHECKING:
    from hf_lorameta.bank.weighted_sum import WeightedSum

STEPS = 8
"""Largest number of points with gradients."""
PENALTY = 0.01
"""Factor of |u|² in the objective."""
CONVERGENCE_TOL = 0.02
"""Stop when the predicted improvement is below this, in nats per token."""
FOLDS = 4
"""Number of folds of the cross-validation; row i is in fold i modulo this."""
MODULE_SCALE_SMALL, MODULE_SCALE_LARGE = 1.0, 4.0
"""Candidate scales of the directions per module, see `Directions`."""
MIN_GAIN_NATS, UNIMPROVED_RATIO = 0.4, 0.7
"""Nats per token, and a ratio to the base model's loss; see `select_module_scale`."""
INITIAL_CURVATURE = 2.0
"""Curvature of the surrogate loss before there is a second point."""


def refine(
    start: Array,
    weighted_sum: "WeightedSum",
    rows: Sequence[Row],
    runner: BaseModelRunner,
    *,
    steps: int = STEPS,
    progress: LossProgress = no_progress,
) -> tuple[Coefficients, Refinement]:
    """Fit coefficients on a few labeled rows.

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
        runner: runs the base model.
        steps: largest number of points with gradients.
        progress: called at every point with (step, steps + 1, loss).

    Returns:
        K coefficients, different in each module if cross-validation favors it; and the report.

    Raises:
        EmptyDatasetError: fewer than 4 rows.
    """
    fit = Fit(start, weighted_sum, rows, runner, steps, progress)
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
    return fit.finish(u, surrogate)


class Fit:
    """A fit in progress.

    Args:
        start: (K,) coefficients to start from.
        weighted_sum: the K adapters.
        rows: at least `FOLDS` labeled rows.
        steps: number of points that will be recorded before the last one, for `progress`.
        progress: called at every recorded point with (step, steps + 1, loss).

    Attributes:
        tokens: the R rows, tokenized.
        sizes: number of output tokens of each row.
        folds: (R,) fold of each row.
        directions: coordinates of the fit; without any dimension at first.
    """

    def __init__(
        self,
        start: Array,
        weighted_sum: "WeightedSum",
        rows: Sequence[Row],
        runner: BaseModelRunner,
        steps: int,
        progress: LossProgress,
    ) -> None:
        if len(rows) < FOLDS:
            raise EmptyDatasetError(
                f"{len(rows)} rows to refine on, expected at least {FOLDS}",
                hint=[Option("refine", change="leave out"), "name a dataset with more rows"],
            )
        self.tokens = runner.encode(rows)
        self.sizes = [len(row.output) for row in self.tokens]
        self.folds = np.arange(len(rows)) % FOLDS
        self.directions = Directions(np.zeros((len(start), 0)), NO_MODULE_DIRECTIONS)
        self._start, self._weighted_sum, self._runner = start, weighted_sum, runner
        self._steps, self._progress = steps, progress
        self._points: list[tuple[float, Array]] = []

    def choose_module_scale(self, losses: Array, slopes: Array) -> None:
        """Cross-validate how much modules may differ, by losses (R,) and slopes (R, M, K)."""
        directions = Directions.of(self._weighted_sum.grams())
        start = float(losses @ self.sizes) / sum(self.sizes)
        held_out = [
            self._predicted_held_out_loss(directions.with_module_scale(scale), losses, slopes)
            for scale in (0.0, MODULE_SCALE_SMALL, MODULE_SCALE_LARGE)
        ]
        scale = select_module_scale(self.base, start, *held_out)
        self.directions = directions.with_module_scale(scale)

    def _predicted_held_out_loss(
        self, directions: Directions, losses: Array, slopes: Array
    ) -> float:
        """Mean loss over folds, each predicted at the minimum of the others' surrogate."""
        surrogate = SurrogateLoss(self.sizes, INITIAL_CURVATURE)
        surrogate.add(
            np.zeros(directions.dimensions), *to_log_odds(losses, directions.slopes(slopes))
        )
        masks = [self.folds == fold for fold in range(FOLDS)]
        return sum(surrogate.evaluate(self.minimum(surrogate, ~m), m)[0] for m in masks)

    @cached_property
    def base(self) -> float:
        """Loss of all rows under the base model."""
        self._runner.clear()
        return self._runner.loss(self.tokens)

    @property
    def best(self) -> tuple[float, Array]:
        """Lowest loss so far, and its point."""
        return min(self._points, key=lambda point: point[0])

    def coefficients(self, u: Array) -> Coefficients:
        """The coefficients at u."""
        return self.directions.coefficients(self._start, u)

    def minimum(self, surrogate: SurrogateLoss, texts: NDArray[np.bool_] | None = None) -> Array:
        """Minimum of the objective, on all texts of the surrogate or some of them."""
        return surrogate.minimum(PENALTY, texts)

    def apply(self, u: Array) -> None:
        """Apply the update with the coefficients at u to the base model."""
        self._runner.set(self._weighted_sum, self.coefficients(u))

    def record(self, u: Array, loss: float) -> None:
        """Record the loss of all rows at a point."""
        loss = math.inf if math.isnan(loss) else loss
        self._points.append((loss, u))
        self._progress(len(self._points), self._steps + 1, loss)

    def finish(self, u: Array, surrogate: SurrogateLoss) -> tuple[Coefficients, Refinement]:
        """Evaluate the last point u, select the step, and shrink it if the base model is better."""
        steps = len(self._points)
        self.apply(u)
        self.record(u, self._runner.loss(self.tokens))
        loss, c, held_out = self._select_step(surrogate)
        scale, end = backtrack_scale(
            c, loss, self.base, self._weighted_sum, self._runner, self.tokens
        )
        report = Refinement(
            rows=len(self.tokens),
            base=self.base,
            start=self._points[0][0],
            end=end,
            held_out=held_out,
            steps=steps,
            history=tuple(loss for loss, _ in self._points),
            by_module=c.per_module is not None,
        )
        self._runner.clear()
        return c.scaled(scale), report

    def _select_step(self, surrogate: SurrogateLoss) -> tuple[float, Coefficients, float]:
        """Select the largest part of the step to the best point that cross-validation supports.

        It does if the held-out rows gain more than the standard error of their gain. The folds' own
        minima come from the surrogate alone, so their full steps can be too long. Returns the rows'
        loss, coefficients, and cross-validated loss; those of the start if no part of the step is
        supported.
        """
        start, (loss, u) = self._points[0][0], self.best
        if loss < start:
            minima = [self.minimum(surrogate, self.folds != fold) for fold in range(FOLDS)]
            for fraction in (1.0, 0.5, 0.25):
                held_out = self._held_out_losses([fraction * point for point in minima])
                if not is_significant(self._start_losses - held_out, self.sizes):
                    continue
                if fraction < 1:
                    self.apply(fraction * u)
                    loss = self._runner.loss(self.tokens)
                if loss < start:
                    mean = float(held_out.sum()) / sum(self.sizes)
                    return loss, self.coefficients(fraction * u), mean
        return start, Coefficients(self._start), start

    @cached_property
    def _start_losses(self) -> Array:
        """(R,) losses of the rows before any step, each the sum over its output tokens."""
        self.apply(np.zeros(self.directions.dimensions))
        return self._row_losses(range(len(self.tokens)))

    def _held_out_losses(self, points: Sequence[Array]) -> Array:
        """(R,) losses of the rows, each fold at its own point."""
        losses = np.empty(len(self.tokens))
        for fold, u in enumerate(points):
            self.apply(u)
            held_out = np.flatnonzero(self.folds == fold)
            losses[held_out] = self._row_losses(held_out.tolist())
        return losses

    def _row_losses(self, rows: Sequence[int]) -> Array:
        """Summed losses of some rows at the point that is applied."""
        return self._runner.row_losses([self.tokens[i] for i in rows])


def is_significant(gains: Array, sizes: Sequence[int]) -> bool:
    """Whether the mean gain per token exceeds its standard error.

    The standard error is that of a ratio of sums over rows (Cochran, Sampling Techniques, 1977,
    section 6.3).

    Args:
        gains: (R,) gain of each row, the sum over its tokens, in nats.
        sizes: R numbers of tokens.

    Example:
        >>> is_significant(np.array([1.0, 1.2, 0.8]), [1, 1, 1])
        True
        >>> is_significant(np.array([3.0, -1.0, -1.0]), [1, 1, 1])
        False
    """
    mean = gains.sum() / sum(sizes)
    residuals = gains - mean * np.array(sizes)
    count = len(gains)
    error = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / sum(sizes)
    return bool(mean > error)


def select_module_scale(
    base: float, start: float, shared: float, small: float, large: float
) -> float:
    """Select how much the coefficients of modules may differ, by held-out losses.

    The small scale has no cost, so it is used unless it is worse than shared coefficients. With the
    large one, 16 rows can be fitted in ways that do not generalize: it has to gain `MIN_GAIN_NATS`,
    or, if the bank has improved little on the base model so far, as much as all before it.

    Args:
        base: loss of the base model, in nats per token.
        start: loss before any step.
        shared: held-out loss after a step with shared coefficients; `small` and `large`: with
            `MODULE_SCALE_SMALL` and `MODULE_SCALE_LARGE`.

    Example:
        >>> select_module_scale(4.0, 3.0, shared=2.8, small=2.8, large=2.5)
        4.0
        >>> select_module_scale(9.0, 3.0, shared=2.8, small=2.8, large=2.5)
        1.0
    """
    best = min(start, shared, small)
    required = MIN_GAIN_NATS
    if start > UNIMPROVED_RATIO * base:
        required = min(max(start - best, CONVERGENCE_TOL), MIN_GAIN_NATS)
    if best - large >= required:
        return MODULE_SCALE_LARGE
    return MODULE_SCALE_SMALL if small - shared <= CONVERGENCE_TOL else 0.0
