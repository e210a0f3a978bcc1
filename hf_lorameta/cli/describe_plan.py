"""A plan as readable text."""

import math
from typing import TYPE_CHECKING

from hf_lorameta.cli.output import coefficient_table
from hf_lorameta.tables import plural

if TYPE_CHECKING:
    from hf_lorameta.bank.expected_gain import Estimate
    from hf_lorameta.pipeline.plan import Plan

EFFECTIVE_NUMBER = (
    "effective number: how many adapters with equal coefficients would spread the weight as widely"
)


def describe_plan(plan: "Plan", advice: str | None) -> str:
    """Format a plan as readable text, with the advice at the end, if any."""
    neighbors = plan.neighbors()
    rows = [
        [n.dataset, f"{n.distance:.4g}", f"{100 * n.coefficient:.1f}%", n.license or "unknown"]
        for n in neighbors
    ]
    head = ["bank dataset", "distance", "coefficient", "license"]
    lines = [
        coefficient_table(head, rows, [n.coefficient for n in neighbors]),
        "",
        f"{plan.profile.rows_read}; {plural(len(neighbors), 'adapter')}, effective number "
        f"{plan.effective_number:.1f}; nearest bank dataset at distance "
        f"{plan.distances.min():.4g}, typical within the bank: "
        f"{_number(plan.nearest_in_bank)}",
    ]
    if plan.general_coefficient is not None:
        lines.append(
            f"general adapter of the bank: {plan.general_coefficient:.1%}, in addition to "
            "its part in each adapter"
        )
    if plan.output_strength is not None:
        lines.append(f"output prior, from the dataset's output tokens: {plan.output_strength:.2g}")
    if plan.scale != 1:
        lines.append(
            f"all coefficients are scaled by {plan.scale:.2f}"
            + f": outputs of {plan.profile.output_length:.0f} tokens are longer than the bank's"
            * (plan.recipe.scale is None)
        )
    if plan.expected:
        lines.append(_expected(plan.expected))
    if advice is not None:
        lines.append(f"advice: {advice}")
    return "\n".join(lines)


def _expected(expected: "Estimate") -> str:
    prompt = "" if expected.prompted is None else f", a 3-shot prompt {expected.prompted:.0%}"
    return (
        f"expected: {expected.mean:.0%} ± {expected.spread:.0%} less loss than the base model"
        f"{prompt} (mean and standard deviation over {expected.datasets} datasets left out of the "
        "bank, with similar outputs)"
    )


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.4g}"
