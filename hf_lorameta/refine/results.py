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

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Refinement:
    """What a fit did. Losses are means over the rows' output tokens, in nats.

    Attributes:
        method: ``gradient`` or ``search``.
        rows: number of rows it was fitted on.
        base: their loss under the base model.
        start: with the coefficients it started from.
        end: with those it returned.
        held_out: what rows lose with coefficients fitted on the others by the fit's last model of
            the loss, each row held out once, after as much of the way as was gone; the loss at the
            start if that is where it stayed. Hopeful: all rows had a say in where the model's
            points lie and in how much of the way is gone.
        steps: how many points were asked for, those for slopes alone included; the last point and
            held-out rows come on top.
        history: loss of the rows at the start, at every point on the way, and at the last.
        engine: what ran the base model.
        by_module: whether each adapted module has coefficients of its own.
    """

    method: str
    rows: int
    base: float
    start: float
    end: float
    held_out: float
    steps: int
    history: tuple[float, ...]
    engine: str = "transformers"
    by_module: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Validation:
    """How an adapter did on rows it was not fitted on. Losses are as in `Refinement`.

    Attributes:
        rows: number of rows.
        base: loss of the base model.
        start: of the adapter as it was made.
        end: of the one that was kept.
        scale: what its coefficients were multiplied with; 1 if it was not drawn back, 0 if there is
            nothing left of it.
        engine: what ran the base model.
    """

    rows: int
    base: float
    start: float
    end: float
    scale: float
    engine: str = "transformers"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


Report = Callable[[int, int, float], None]
