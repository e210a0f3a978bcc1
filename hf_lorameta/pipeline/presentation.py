"""Show a plan as text, HTML and JSON, in ``recipe.json`` and on the card."""

import math
from dataclasses import asdict
from html import escape
from typing import Any

from hf_lorameta._version import __version__
from hf_lorameta.cards.card_data import CardData
from hf_lorameta.cards.results import Check, Training
from hf_lorameta.pipeline.plan_data import PlanData
from hf_lorameta.pipeline.remarks import remarks_on
from hf_lorameta.tables import coefficient_table, plural


def as_text(plan: PlanData) -> str:
    """Return all figures, with a table of the adapters, as ``hf-lorameta plan`` prints them."""
    read, index, neighbors = plan.profile.rows_read, plan.bank.index, plan.neighbors()
    if not index.number:
        return f"{read}; no bank: the adapter starts from {index.base_model} alone"
    lines = [read]
    if neighbors:
        rows = [
            [n.label, f"{n.distance:.4g}", f"{n.coefficient:.1%}", n.license or "unknown"]
            for n in neighbors
        ]
        head = ["bank dataset", "distance", "coefficient", "license"]
        typical = plan.nearest_in_bank
        lines = [
            coefficient_table(head, rows, [n.coefficient for n in neighbors]),
            "",
            f"{read}; {plural(len(neighbors), 'adapter')}, effective number "
            f"{plan.effective_number:.1f}; nearest bank dataset at distance "
            f"{plan.distances.min():.4g}, typical within the bank: "
            f"{'unknown' if math.isnan(typical) else f'{typical:.4g}'}",
        ]
    if plan.general_coefficient is not None:
        besides = ", in addition to its part in each adapter" if neighbors else ""
        lines.append(f"general adapter of the bank: {plan.general_coefficient:.1%}{besides}")
    if plan.output_strength is not None:
        strength = f"{plan.output_strength:.2g}"
        lines.append(f"output prior, from the dataset's output tokens: {strength}")
    if plan.scale != 1:
        length = f"{plan.profile.output_length:.0f} tokens are longer than the bank's"
        why = "" if plan.recipe.scale else f": outputs of {length}"
        lines.append(f"all coefficients are scaled by {plan.scale:.2f}{why}")
    return "\n".join([*lines, remarks_on(plan)[-1].text])


def as_html(plan: PlanData) -> str:
    """Return the adapters, the verdict and the warnings as HTML, for a notebook."""
    rows = "".join(
        f"<tr><td>{escape(n.label)}</td><td>{n.distance:.4g}</td>"
        f"<td>{n.coefficient:.1%}</td><td>{escape(n.license or 'unknown')}</td></tr>"
        for n in plan.neighbors()
    )
    *others, verdict = remarks_on(plan)
    warnings = "".join(f"<li>{escape(str(r))}</li>" for r in others if r.level == "warning")
    head = "<tr><th>dataset</th><th>distance</th><th>coefficient</th><th>license</th></tr>"
    texts = f"<p>{escape(repr(plan))}</p><p>{escape(verdict.text)}</p>"
    return f"{texts}<table>{head}{rows}</table><ul>{warnings}</ul>"


def card_data(plan: PlanData, rank: int) -> CardData:
    """Return the data of the model card."""
    index = plan.bank.index
    return CardData(
        base_model=plan.bank.public_base,
        base_revision=index.base_revision,
        base_license=index.base_license,
        dataset=plan.dataset,
        rows=plan.profile.rows,
        tokens=plan.profile.input.total + plan.profile.output.total,
        bank_id=plan.bank.id,
        bank_revision=plan.bank.revision,
        bank_size=len(plan.bank),
        bank_published=index.published,
        neighbors=plan.neighbors(),
        effective_number=plan.effective_number,
        nearest_in_bank=plan.nearest_in_bank,
        rank=rank,
        remarks=remarks_on(plan),
        recipe=plan.recipe,
        fit=plan.fit,
        training=plan.training,
        check=plan.check,
        library_version=__version__,
        general=plan.general_coefficient,
        general_licenses=tuple(t.license for t in index.general.tasks) if index.general else (),
        output_prior=plan.output_strength,
        scale=plan.scale,
        example=plan.example,
    )


def provenance(plan: PlanData) -> dict[str, Any]:
    """Return the content of ``recipe.json``, without a private dataset's name."""
    index, data = plan.bank.index, plan.dataset
    return {
        "schema_version": 1,
        "library": f"hf-lorameta {__version__}",
        "private": plan.private,
        "recipe": plan.recipe.model_dump(),
        "base_model": {"id": index.base_model, "revision": index.base_revision},
        "bank": plan.bank.reference,
        "dataset": {
            "id": None if data.private else data.id,
            "private": data.private,
            "proposed_instruction": data.proposed,
            "revision": None if data.private else data.revision,
            "config": None if data.private else data.config,
            "split": data.split,
            "columns": data.columns.model_dump(exclude_none=True),
            "rows": plan.profile.rows,
            "tokens": plan.profile.input.total + plan.profile.output.total,
        },
        "general_coefficient": plan.general_coefficient,
        "output_prior": plan.output_strength,
        "scale": plan.scale,
        "effective_number": plan.effective_number,
        "remarks": [r.to_dict() for r in remarks_on(plan) if r.level != "note"],
        "fit": _values(plan.fit),
        "training": _values(plan.training),
        "check": _values(plan.check),
    }


def as_json(plan: PlanData) -> dict[str, Any]:
    """Return everything as JSON values, as ``plan --json`` prints it."""
    data, typical, content = plan.dataset, plan.nearest_in_bank, provenance(plan)
    name = {"id": data.id, "revision": data.revision, "config": data.config}
    read = {"ended_early": plan.profile.ended_early, "total_rows": plan.profile.total}
    return content | {
        "dataset": content["dataset"] | name | read,
        "remarks": [remark.to_dict() for remark in remarks_on(plan)],
        "nearest_in_bank": None if math.isnan(typical) else typical,  # JSON has no NaN
        "neighbors": [neighbor.to_dict() for neighbor in plan.neighbors()],
    }


def _values(result: Training | Check | None) -> dict[str, Any] | None:
    """Return a result as JSON values: None for a loss that is not finite."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: finite(value) for name, value in asdict(result).items()} if result else None
