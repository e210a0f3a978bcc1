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

from hf_lorameta.engines.interfaces import AdapterUpdate, BaseModelRunner
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.refine.results import Validation
from hf_lorameta.types import Array


def backtrack_scale(
    c: Array,
    loss: float,
    base: float,
    mixture: AdapterUpdate,
    scored: BaseModelRunner,
    rows: Sequence[Tokens],
) -> tuple[float, float]:
    """Halve coefficients until rows are not worse than under the base model.

    Args:
        c: coefficients, of any shape that the mixture takes.
        loss: of the rows under c.
        base: of the rows under the base model.
        mixture: the K adapters.
        scored: holds the base model.
        rows: as token ids.

    Returns:
        What c is to be multiplied with, 1 to 1/8, or 0 where even that is worse; and its loss.
    """
    scale = 1.0
    while loss > base:
        scale /= 2
        if scale < 1 / 8:
            return 0.0, base
        scored.set(mixture, scale * c)
        loss = scored.loss(rows)
    return scale, loss


def validate(summed: AdapterUpdate, scored: BaseModelRunner, rows: Sequence[Tokens]) -> Validation:
    """Compare an adapter with its base model, and draw it back where it is worse.

    Args:
        summed: the adapter for a single coefficient, which is 1 as it was made.
        scored: holds the base model.
        rows: as token ids, at least one.
    """
    whole = np.ones(1)
    scored.clear()
    base = scored.loss(rows)
    scored.set(summed, whole)
    start = scored.loss(rows)
    scale, end = backtrack_scale(whole, start, base, summed, scored, rows)
    return Validation(len(rows), base, start, end, scale, scored.engine)
