"""Step 2 as HTML: whether an adapter helps, and the details of the plan."""

from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.recipe import REGISTRIES
from hf_lorameta.remarks import Remark
from views.blocks import render

LARGE_SHARE = 0.1
BARS = 10
_COUNTING = Remark(
    "unsure",
    "Unsure until right answers are counted. The bar at the bottom shows how far this is.",
)


def verdict_html(shown: Plan | Generation, name: str, *, counting: bool = False) -> str:
    """Return the verdict and the warnings; right answers may be being counted for it."""
    *remarks, verdict = shown.remarks
    found = _COUNTING if counting else verdict
    warnings = [remark.text for remark in remarks if remark.level == "warning"]
    return render("plan.verdict", name=name, found=found, warnings=warnings)


def details_html(plan: Plan) -> str:
    """Return what an adapter is made of, the licenses, and how it is computed."""
    neighbors = plan.neighbors()
    if not neighbors:
        licenses = sorted({name or "not stated" for name in plan.bank.index.licenses})
        return render("plan.general", licenses=licenses, plan=plan)
    large = [n for n in neighbors if n.coefficient >= LARGE_SHARE] or list(neighbors[:2])
    return render(
        "plan.details",
        shares=large[:3],
        licenses=sorted({n.license or "not stated" for n in neighbors}),
        bars=neighbors[:BARS],
        rest=neighbors[BARS:],
        largest=max(abs(n.coefficient) for n in neighbors) or 1.0,
        method=_method(plan),
        plan=plan,
    )


def _method(plan: Plan) -> str:
    """Return how the plan was computed, in words."""
    recipe = plan.recipe
    parts = [methods[getattr(recipe, name)].title for name, methods in REGISTRIES.items()]
    if recipe.top_k:
        parts.append(f"top {recipe.top_k}")
    if recipe.temperature != 1:
        parts.append(f"temperature {recipe.temperature:g}")
    text = f"Computed with: {' · '.join(parts)}."
    if plan.general_coefficient is not None:
        text += (
            f" The bank's general adapter takes the rest, {100 * plan.general_coefficient:.0f} %."
        )
    if plan.output_strength is not None:
        text += " An update computed from your outputs' token counts makes these tokens likelier."
    if plan.scale != 1:
        text += f" Your outputs are long, so all of this is scaled by {plan.scale:.2f}."
    return text
