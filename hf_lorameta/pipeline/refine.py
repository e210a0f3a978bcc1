"""Fit a plan's coefficients on a few labeled rows."""

from dataclasses import replace

from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.refine.fit import refine
from hf_lorameta.types import LossProgress, no_progress


def refine_plan(
    plan: Plan, rows: Rows, runner: BaseModelRunner, *, progress: LossProgress = no_progress
) -> Plan:
    """Fit a plan's coefficients on rows.

    Args:
        plan: the plan.
        rows: its rows to fit on count.
        runner: runs the base model.
        progress: called with (step, steps, loss of the rows).

    Returns:
        The plan with the fitted coefficients and its `refinement`.

    Raises:
        EmptyDatasetError: fewer than 4 rows.
    """
    active = plan.active_indices
    coefficients, refinement = refine(
        plan.coefficients.shared[active],
        WeightedSum(plan.bank, active, plan.output_prior()),
        rows.fit,
        runner,
        progress=progress,
    )
    coefficients = coefficients.expand(active, len(plan.coefficients))
    return replace(plan, coefficients=coefficients, refinement=refinement)
