"""How few rows are divided into folds, and for how many steps each fold is trained."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from hf_lorameta.engines.row_tokens import Tokens

LEAST = 0.5
"""Least share of its steps that a fold, or the training on all rows, is given."""
_MOST = 4
"""Most folds."""
_SPARE = 1.1
"""Time for slower steps, as a factor of that of all steps."""


class FoldPlan(NamedTuple):
    """A training of few rows.

    Attributes:
        folds: number of folds.
        steps: of each fold, and likely of the training on all rows.
    """

    folds: int
    steps: int

    @property
    def total(self) -> int:
        """Number of all steps."""
        return (self.folds + 1) * self.steps


def fold_plan(steps: int, affordable: float) -> FoldPlan | None:
    """Return how to train on few rows: as many folds as fit in, up to 4; None if no two do.

    Args:
        steps: of a training on all of them.
        affordable: steps that there is time for.

    Example:
        >>> fold_plan(24, 200), fold_plan(48, 200), fold_plan(48, 100)
        (FoldPlan(folds=4, steps=24), FoldPlan(folds=2, steps=48), FoldPlan(folds=2, steps=30))
        >>> fold_plan(24, 36)
    """
    planned = int(min(affordable / _SPARE, (_MOST + 1) * steps))
    folds = max(planned // steps - 1, 2)
    fitting = min(steps, planned // (folds + 1))
    return FoldPlan(folds, fitting) if fitting >= LEAST * steps else None


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
