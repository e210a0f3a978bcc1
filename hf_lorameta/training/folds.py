"""How few rows are divided into folds, and for how many steps each fold is trained."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from hf_lorameta.engines.row_tokens import Tokens

_PLANS = ((4, 1), (3, 1), (2, 1), (2, 2 / 3))
"""Folds, and steps as a share of all that a training has, best first."""
_SPARE = 1.1
"""Time for slower steps, as a factor of that of all steps."""


class FoldPlan(NamedTuple):
    """A training of few rows.

    Attributes:
        folds: number of folds.
        steps: of each fold, and of the training on all rows at most.
    """

    folds: int
    steps: int

    @property
    def total(self) -> int:
        """Number of all steps."""
        return (self.folds + 1) * self.steps


def fold_plan(steps: int, affordable: float) -> FoldPlan | None:
    """Return how to train on few rows; None if there is no time for two folds.

    Args:
        steps: of a training on all of them.
        affordable: steps that there is time for.

    Example:
        >>> fold_plan(24, 200), fold_plan(48, 200), fold_plan(48, 100)
        (FoldPlan(folds=4, steps=24), FoldPlan(folds=2, steps=48), None)
        >>> fold_plan(24, 60)
        FoldPlan(folds=2, steps=16)
    """
    plans = (FoldPlan(folds, round(share * steps)) for folds, share in _PLANS)
    return next((plan for plan in plans if _SPARE * plan.total <= affordable), None)


def divided(rows: Sequence[Tokens], folds: int, seed: int) -> list[list[int]]:
    """Divide rows into folds, each with the same share of every output.

    Returns:
        The indices of the rows of each fold, in increasing order.

    Example:
        >>> divided([Tokens([i], [i % 2]) for i in range(8)], 2, seed=0)
        [[0, 3, 4, 5], [1, 2, 6, 7]]
    """
    order = list(range(len(rows)))
    random.Random(f"{seed} folds").shuffle(order)
    order.sort(key=lambda index: tuple(rows[index].output))
    return [sorted(order[fold::folds]) for fold in range(folds)]
