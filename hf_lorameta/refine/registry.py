"""The registry of refiners; command line, recipe and Space read it."""

from collections.abc import Callable
from typing import NamedTuple

from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.refine.finite_differences import search
from hf_lorameta.refine.gauss_newton import refine
from hf_lorameta.refine.results import Refinement


class Refiner(NamedTuple):
    """A row of `REFINERS`; its title is worded as inside a sentence.

    Attributes:
        function: from (K,) starting coefficients, a `WeightedSum`, rows, a runner and, by name,
            `progress` to coefficients and a `Refinement`.
        needs_gradients: whether the runner has to be a `GradientRunner`.
    """

    name: str
    title: str
    reference: str
    function: Callable[..., tuple[Coefficients, Refinement]]
    needs_gradients: bool


REFINERS: dict[str, Refiner] = {
    row.name: row
    for row in (
        Refiner(
            "gradient",
            "Gauss-Newton fit with gradients through the base model",
            "Yang et al., arXiv 2310.02575",
            refine,
            needs_gradients=True,
        ),
        Refiner(
            "search",
            "Gauss-Newton fit with finite differences, forward passes only",
            "Broyden 1965",
            search,
            needs_gradients=False,
        ),
    )
}
"""Every refiner, by the name a recipe uses."""
