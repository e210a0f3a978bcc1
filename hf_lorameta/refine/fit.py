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
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.refine.directions import NO_MODULE_DIRECTIONS, Directions
from hf_lorameta.refine.results import Refinement, Report
from hf_lorameta.refine.shrink import backtrack_scale
from hf_lorameta.refine.surrogate import SurrogateLoss, log_odds
from hf_lorameta.types import Array, Row

CONVERGENCE_TOL = 0.02
"""Nats a token: where no more is expected of another point, `refine` asks for none."""
FOLDS = 4
"""Every fourth row is held out together."""
MODULE_SCALE_SMALL, MODULE_SCALE_LARGE = 1.0, 4.0
"""How far modules may go apart, see `Directions`."""
MIN_GAIN_NATS, UNIMPROVED_RATIO = 0.4, 0.7
"""Nats a token, and a share of the base model's loss; see `select_module_scale`."""
INITIAL_CURVATURE = 2.0
"""Of `hf_lorameta.refine.surrogate.SurrogateLoss`, until there is a second point."""


class Fit:
    """What both ways to fit share: the rows, the coordinates, and what was seen on the way."""

    def __init__(
        self,
        start: Array,
        mixture: WeightedSum,
        rows: Sequence[Row],
        scored: BaseModelRunner,
        steps: int,
        stiffness: float,
        progress: Report,
    ) -> None:
        if len(rows) < FOLDS:
            raise EmptyDatasetError(
                f"{len(rows)} rows to refine on, expected at least {FOLDS}",
                hint="leave out --refine, or name a dataset with more rows",
            )
        self.tokens = scored.encode(rows)
        self.sizes = [len(row.output) for row in self.tokens]
        self.folds = np.arange(len(rows)) % FOLDS
        self.directions = Directions(
            np.zeros((len(start), 0)), NO_MODULE_DIRECTIONS
        )  # none but the start
        self._start, self._mixture, self._scored = start, mixture, scored
        self._steps, self._stiffness, self._progress = steps, stiffness, progress
        self._done = 0
        self._seen: list[tuple[float, Array]] = []

    def restrict_to(self, moved: NDArray[np.intp]) -> None:
        """Let only some of the coefficients move, the same way in all modules."""
        grams = self._mixture.grams(moved.tolist())
        together = np.zeros((len(self._start), len(moved)))
        together[moved] = Directions.of(grams.sum(0, keepdims=True)).together
        self.directions = Directions(together, NO_MODULE_DIRECTIONS)

    def choose_module_scale(self, losses: Array, slopes: Array) -> None:
        """Let modules go as far apart as serves held-out rows, by what is known at the start.

        Args:
            losses: (R,) of the rows at the start.
            slopes: (R, M, K) theirs.
        """
        directions = Directions.of(self._mixture.grams())
        start = float(losses @ self.sizes) / sum(self.sizes)
        held_out = [
            self._held_out(directions.with_module_scale(by), losses, slopes)
            for by in (0.0, MODULE_SCALE_SMALL, MODULE_SCALE_LARGE)
        ]
        self.directions = directions.with_module_scale(
            select_module_scale(self.base, start, *held_out)
        )

    def _held_out(self, directions: Directions, losses: Array, slopes: Array) -> float:
        """Mean loss of the rows, each fold with what a model from one point makes of the others."""
        model = SurrogateLoss(self.sizes, INITIAL_CURVATURE)
        model.add(np.zeros(directions.dimensions), *log_odds(losses, directions.slopes(slopes)))
        each = ((self.folds != fold, self.folds == fold) for fold in range(FOLDS))
        return sum(model.at(self.minimum(model, others), held)[0] for others, held in each)

    @cached_property
    def base(self) -> float:
        """Loss of all rows under the base model."""
        self._scored.clear()
        return self._scored.loss(self.tokens)

    @property
    def best(self) -> tuple[float, Array]:
        """Loss of all rows at the best point so far, and that point."""
        return min(self._seen, key=lambda seen: seen[0])

    def at(self, u: Array) -> Array:
        """The coefficients that belong to u: (K,), or (M, K) where modules go apart."""
        return self._start + self.directions.change(u)

    def minimum(self, model: SurrogateLoss, texts: NDArray[np.bool_] | None = None) -> Array:
        """Where to go next, as a model has it."""
        return model.minimum(self._stiffness, texts)

    def apply(self, u: Array) -> None:
        """Let the base model have the update that belongs to u."""
        self._scored.set(self._mixture, self.at(u))

    def record(self, u: Array, loss: float, probing: bool = False) -> None:
        """Note a loss of all rows, as a point of the way unless it was for a slope alone."""
        if not probing:
            self._seen.append((loss, u))
        self._done += 1
        self._progress(self._done, self._steps + 1, loss)  # a last point follows those asked for

    def result(
        self, method: str, u: Array, model: SurrogateLoss, folds: NDArray[np.intp]
    ) -> tuple[Array, Refinement]:
        """The best of all points, or of the way there; drawn back where the base is better.

        Args:
            method: for the report.
            u: the last point, not asked for yet.
            model: of the loss, as it led there.
            folds: of the texts of the model.
        """
        asked = self._done
        self.apply(u)
        self.record(u, self._scored.loss(self.tokens))
        loss, c, held_out = self._select_step(model, folds)
        scale, end = backtrack_scale(c, loss, self.base, self._mixture, self._scored, self.tokens)
        report = Refinement(
            method=method,
            rows=len(self.tokens),
            base=self.base,
            start=self._seen[0][0],
            end=end,
            held_out=held_out,
            steps=asked,
            history=tuple(loss for loss, _ in self._seen),
            engine=self._scored.engine,
            by_module=c.ndim > 1,
        )
        self._scored.clear()
        return scale * c, report

    def _select_step(
        self, model: SurrogateLoss, folds: NDArray[np.intp]
    ) -> tuple[float, Array, float]:
        """The most of the way to the best point that serves held-out rows, or the start.

        What the model says of a fold's minimum was never asked for, and can be too far away.

        Returns:
            Loss of the rows, coefficients, and loss of held-out rows.
        """
        start, (loss, u) = self._seen[0][0], self.best
        if loss < start:
            ways = [self.minimum(model, folds != fold) for fold in range(FOLDS)]
            for share in (1.0, 0.5, 0.25):
                held_out = self._cross_validated_loss([share * way for way in ways])
                if held_out < start and share < 1:
                    self.apply(share * u)
                    loss = self._scored.loss(self.tokens)
                if held_out < start and loss < start:
                    return loss, self.at(share * u), held_out
        return start, self._start, start

    def _cross_validated_loss(self, ways: Sequence[Array]) -> float:
        """Mean loss of the rows, each fold at a point of its own."""
        total = 0.0
        for fold, u in enumerate(ways):
            self.apply(u)
            held = np.flatnonzero(self.folds == fold)
            loss = self._scored.loss([self.tokens[i] for i in held])
            total += loss * sum(self.sizes[i] for i in held)
        return total / sum(self.sizes)


def select_module_scale(
    base: float, start: float, together: float, little: float, much: float
) -> float:
    """How far modules may go apart, by what held-out rows lose. Losses are in nats a token.

    A little costs nothing, so it need not gain. Far apart, 16 rows can be met that say nothing of
    others; it has to gain `MIN_GAIN_NATS`, or, where the bank has not brought much yet that could be lost,
    as much again as all before it.

    Args:
        base: of the base model.
        start: before any step.
        together: after one with modules together.
        little: with modules as far apart as `MODULE_SCALE_SMALL`.
        much: as `MODULE_SCALE_LARGE`.

    Example:
        >>> select_module_scale(4.0, 3.0, 2.8, 2.8, 2.5), select_module_scale(9.0, 3.0, 2.8, 2.8, 2.5)
        (4.0, 1.0)
    """
    before = min(start, together, little)
    again = (
        max(start - before, CONVERGENCE_TOL) if start > UNIMPROVED_RATIO * base else MIN_GAIN_NATS
    )
    if before - much >= min(again, MIN_GAIN_NATS):
        return MODULE_SCALE_LARGE
    return MODULE_SCALE_SMALL if little - together <= CONVERGENCE_TOL else 0.0
