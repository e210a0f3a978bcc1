"""Fit a plan's coefficients on a few labeled rows, and check a finished adapter on others."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.errors import Option, UsageError
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.pipeline.generation import Generation
from hf_lorameta.pipeline.held_out_rows import rows_for_prompt, rows_to_check, rows_to_fit
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.refine.fit import refine
from hf_lorameta.refine.shrink import validate
from hf_lorameta.types import FactorPair, LossProgress, Row, no_progress


def refine_plan(
    plan: Plan,
    pool: Sequence[Row],
    runner: BaseModelRunner,
    *,
    progress: LossProgress = no_progress,
) -> Plan:
    """Fit a plan's coefficients as its recipe says.

    Args:
        plan: its recipe has `refine`, the number of rows.
        pool: labeled rows of the dataset, from which the rows are drawn.
        runner: runs the base model.
        progress: called with (step, steps, loss of the rows).

    Returns:
        The plan with the fitted coefficients and its `refinement`.

    Raises:
        UsageError: the recipe asks for no refinement.
        EmptyDatasetError: fewer than 4 labeled rows, or, where the recipe asks for a check, fewer
            than 4 others.
    """
    recipe = plan.recipe
    if recipe.refine is None:
        raise UsageError("the recipe asks for no refinement", hint=Option("refine", 16))
    if recipe.check is not None:
        rows_to_check(recipe, pool)  # refuses too few rows before the fit, not after it
    active = plan.active_indices
    coefficients, refinement = refine(
        plan.coefficients.shared[active],
        WeightedSum(plan.bank, active, plan.output_prior()),
        rows_to_fit(recipe, pool),
        runner,
        progress=progress,
    )
    coefficients = coefficients.expand(active, len(plan.coefficients))
    return replace(plan, coefficients=coefficients, refinement=refinement)


def validate_adapter(
    generation: Generation,
    pool: Sequence[Row],
    runner: BaseModelRunner,
    *,
    shrink: bool = True,
) -> Generation:
    """Score a finished adapter as its recipe says, and scale it down if the base model is better.

    The adapter is scored as it would be written, on rows that it was not fitted on.

    Args:
        generation: its recipe has `check`, the number of rows.
        pool: labeled rows of the dataset, from which the rows are drawn.
        runner: runs the base model.
        shrink: whether to scale it down.

    Returns:
        The adapter with its plan's `check`; all coefficients are zero if no scale helps.

    Raises:
        UsageError: the recipe asks for no check.
        EmptyDatasetError: fewer than 4 labeled rows that were not fitted on.
    """
    plan = generation.plan
    if plan.recipe.check is None:
        raise UsageError("the recipe asks for no check", hint=Option("check", 16))
    scaled = ScaledAdapter(generation)
    rows, shots = rows_to_check(plan.recipe, pool), rows_for_prompt(plan.recipe, pool)
    check = validate(scaled, runner, rows, shots, shrink=shrink)
    pairs = tuple(scaled.pairs(Coefficients(np.array([check.scale]))))
    plan = replace(plan, coefficients=plan.coefficients.scaled(check.scale), check=check)
    return replace(generation, plan=plan, pairs=pairs)


class ScaledAdapter(NamedTuple):
    """A finished adapter as a function of one coefficient that scales all of its own."""

    generation: Generation

    @property
    def layout(self) -> Layout:
        """The modules that the adapter changes."""
        return self.generation.layout

    def pairs(self, coefficients: Coefficients) -> Iterator[FactorPair]:
        """Yield (lora_A, lora_B) of every module; of a nonlinear combiner both are scaled."""
        scale = np.float32(coefficients.shared[0])
        plan = self.generation.plan
        linear = COMBINERS[plan.recipe.combine].linear or plan.training is not None
        scale_A = np.float32(1) if linear else scale
        return ((A * scale_A, B * scale) for A, B in self.generation.pairs)
