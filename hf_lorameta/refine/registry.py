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

from hf_lorameta.refine.gauss_newton import refine
from hf_lorameta.refine.results import Refinement
from hf_lorameta.refine.search import search
from hf_lorameta.types import Array

Refiner = Callable[..., tuple[Array, Refinement]]
REFINERS: dict[str, Refiner] = {"gradient": refine, "search": search}
"""Ways to fit, by the name a recipe uses."""
