"""Show a plan as text, HTML and JSON, in ``recipe.json`` and on the card, with its warnings."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from html import escape
from typing import Any

from hf_lorameta._version import __version__
from hf_lorameta.bank.index import FAR_RATIO
from hf_lorameta.cards.card_data import CardData
from hf_lorameta.cards.results import Check, Training
from hf_lorameta.cards.verdict import Verdict, verdict_of
from hf_lorameta.data.prompt_form import TEXT, shares_instruction, states_task
from hf_lorameta.pipeline.coefficients import is_scaled_by_length
from hf_lorameta.pipeline.form import expects_instructions
from hf_lorameta.pipeline.plan_data import PlanData
from hf_lorameta.tables import coefficient_table, plural

_FEW_ROWS = 20
_LOW_RETENTION = 0.9
"""Warn about a pack that retains less than this share of the updates' energy."""


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
    return "\n".join([*lines, str(verdict_on(plan))])


def as_html(plan: PlanData) -> str:
    """Return the adapters, the verdict and the warnings as HTML, for a notebook."""
    rows = "".join(
        f"<tr><td>{escape(n.label)}</td><td>{n.distance:.4g}</td>"
        f"<td>{n.coefficient:.1%}</td><td>{escape(n.license or 'unknown')}</td></tr>"
        for n in plan.neighbors()
    )
    notes = "".join(f"<li>{escape(text)}</li>" for text in warnings_of(plan))
    head = "<tr><th>dataset</th><th>distance</th><th>coefficient</th><th>license</th></tr>"
    verdict = f"<p>{escape(str(verdict_on(plan)))}</p>"
    return f"<p>{escape(repr(plan))}</p>{verdict}<table>{head}{rows}</table><ul>{notes}</ul>"


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
        warnings=tuple(warnings_of(plan)),
        recipe=plan.recipe,
        fit=plan.fit,
        training=plan.training,
        check=plan.check,
        verdict=verdict_on(plan),
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
        "warnings": list(warnings_of(plan)),
        "verdict": verdict_on(plan)._asdict(),
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
        "nearest_in_bank": None if math.isnan(typical) else typical,  # JSON has no NaN
        "neighbors": [neighbor.to_dict() for neighbor in plan.neighbors()],
    }


def _values(result: Training | Check | None) -> dict[str, Any] | None:
    """Return a result as JSON values: None for a loss that is not finite."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: finite(value) for name, value in asdict(result).items()} if result else None


# --- what to know before relying on an adapter ----------------------------------------------------


def verdict_on(plan: PlanData) -> Verdict:
    """Return whether the adapter helps, in right answers if they were counted."""
    doubts = [*plan.dataset.doubts]
    if _lacks_instruction(plan):
        doubts.append("The inputs do not say what to do, and no instruction was given.")
    return verdict_of(plan.check, doubts)


def warnings_of(plan: PlanData) -> Iterator[str]:
    """Yield the warnings of a plan, as sentences.

    One that was true before the adapter was fitted or trained has the same text afterwards.
    """
    if len(plan.distances):
        yield from _distance_warnings(plan)
    if plan.bank.index.base_model.endswith(".gguf"):
        yield (
            "The base model's weights were dequantized from a GGUF file: the adapter may do worse "
            "on the original weights."
        )
    packing = plan.bank.index.packing
    if packing and packing.retained_whole < _LOW_RETENTION:
        yield (
            f"The bank is a pack that retains {packing.retained_whole:.0%} of its adapters' "
            "updates: the unpacked bank would make a better adapter."
        )
    if len(plan.distances) and plan.profile.rows < _FEW_ROWS:
        count = "1 row was" if plan.profile.rows == 1 else f"{plan.profile.rows} rows were"
        yield f"Only {count} read: distances from so few are uncertain."
    if plan.profile.left_out:
        total = plan.profile.rows + plan.profile.left_out
        yield f"{plan.profile.left_out} of {total} rows have no output and were left out."
    if plan.profile.cut:
        rows = plural(plan.profile.cut, "row")
        yield f"{rows} held a text above the limit of characters: only its beginning was counted."
    if _lacks_instruction(plan):
        yield (
            "The inputs contain no instruction, unlike those of most bank datasets: the adapter "
            "may not know what to do with them. State the task as an instruction."
        )
    yield from _loss_warnings(plan)
    neighbors = plan.neighbors()
    if len(neighbors) > 1 and plan.effective_number < 1.2 and not plan.recipe.is_mixture:
        yield "Nearly all weight is on one adapter: the result is close to a copy of it."
    if plan.dataset.prompts_only:
        yield _no_outputs_warning(plan)
    elif plan.dataset.columns.input is None and plan.dataset.columns.messages is None:
        compared = ": only outputs were compared" if len(plan.distances) else ""
        yield f"The dataset has no inputs, only text{compared}."
    if any(n.license is None for n in neighbors):
        yield "Not all of the adapters used state a license."


def _lacks_instruction(plan: PlanData) -> bool:
    """Whether the inputs contain no instruction, unlike those of most bank datasets.

    The form that prompts get where none can be proposed has words that all rows share, too.
    """
    shared = plan.dataset.columns.template != TEXT and shares_instruction(plan.profile)
    states = states_task(plan.dataset) or shared
    return not states and expects_instructions(plan.bank)


def _distance_warnings(plan: PlanData) -> Iterator[str]:
    measured = any((plan.fit, plan.training, plan.check, plan.recipe.rows_asked))
    nearest, typical = float(plan.distances.min()), plan.nearest_in_bank
    if nearest > FAR_RATIO * typical:
        yield (
            "No dataset in the bank is near this one: the nearest is at distance "
            f"{nearest:.3g}; within the bank, {typical:.3g} is typical."
        )
        if not measured:
            yield (
                "Expect little from this adapter: train it on labeled rows, or compare it with the "
                "base model on them before you use it."
            )


def _loss_warnings(plan: PlanData) -> Iterator[str]:
    if fit := plan.fit:
        yield from _fit_warnings(fit, trained=plan.training is not None)
    training, check = plan.training, plan.check
    used = (
        ("The adapter was fitted", fit and fit.used_rows, plan.recipe.fit),
        ("The adapter was trained", training and training.used_rows, plan.recipe.train),
        ("The adapter was checked", check and check.rows, plan.recipe.check),
    )
    for done, rows, requested in used:
        if rows and requested and rows < requested:
            yield (
                f"{done} on {rows} labeled rows, not {requested}: the "
                "dataset has no more distinct ones, or no more were read."
            )
    if stopped := plan.interrupted:
        yield (
            f"The training was interrupted after {plural(stopped.steps, 'step')}: this is the "
            "best adapter until then, and more steps might have made it better."
        )
    if check and check.scale < 1:
        yield (
            f"On {check.rows} rows this adapter was worse than the base model: its coefficients "
            f"were scaled by {check.scale:g} until it was not."
        )
    if check and check.scale == 1 and check.end > min(check.base, check.chat or math.inf):
        chat = " with its own chat template" if check.base >= check.end else ""
        yield (
            f"On {check.rows} rows this adapter is worse than the base model{chat}: do not use it "
            "as it is. Train it further (option budget, for example 5m), or let it be scaled down "
            "(option check, for example 16)."
        )


def _fit_warnings(fit: Training, *, trained: bool) -> Iterator[str]:
    """Warn if a fit cannot tell inputs apart, or is worse than the base model at the end."""
    if fit.outputs == 1:
        yield (
            f"All {fit.used_rows} rows that the adapter was fitted on have the same output, so it "
            "cannot have learned which inputs have another one."
        )
    if fit.end < fit.base and not trained:
        yield (
            f"On {fit.held_out} held-out rows, the adapter is worse than the base model: an output "
            f"token has a probability of {fit.end:.3f} and {fit.base:.3f}. Train it (option "
            "train), or fit it on more rows (option fit)."
        )


def _no_outputs_warning(plan: PlanData) -> str:
    """Say what a dataset without outputs costs, and what it leaves to the user."""
    text = "The dataset has no outputs."
    if len(plan.bank):
        text = (
            "The dataset has no outputs: only inputs were compared, which makes the coefficients "
            "less reliable."
        )
    if not is_scaled_by_length(plan.bank, plan.recipe):
        return text
    return (
        f"{text} For outputs of a sentence or more, lower the scale (option scale, for example "
        "0.5): the length of the outputs, on which it otherwise depends, is not known."
    )
