"""The remarks on a plan and its adapter, for every place that shows them."""

from collections.abc import Iterator, Mapping

from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.index import FAR_RATIO, Index
from hf_lorameta.bank.outliers import outliers, stated_norms
from hf_lorameta.cards.results import CheckResult, Outcome, Training
from hf_lorameta.data.columns.table_view import normalized
from hf_lorameta.data.instruction_and_cue import LABELED, TEXT, shares_instruction, states_task
from hf_lorameta.engines.scoring import ADAPTER_METHOD, BASE_METHOD, CHAT_METHOD
from hf_lorameta.errors import Option
from hf_lorameta.hub.base_model import find_at_hand
from hf_lorameta.pipeline.bank_prompts import expects_instructions
from hf_lorameta.pipeline.budget import more_time
from hf_lorameta.pipeline.coefficients import is_scaled_by_length
from hf_lorameta.pipeline.plan_data import PlanData
from hf_lorameta.pipeline.verdict import Verdict, verdict_on
from hf_lorameta.remarks import Remark
from hf_lorameta.tables import plural
from hf_lorameta.training.settings import MAX_TRAINED_TOKENS, most_of_output

_FEW_ROWS = 20
_MOST_NAMED = 3
_LOW_RETENTION = 0.9
"""Warn about a pack that retains less than this share of the updates' energy."""


def remarks_on(
    plan: PlanData, outcome: Outcome | None = None
) -> tuple[*tuple[Remark, ...], Verdict]:
    """Return all remarks on a plan and its adapter: those on the dataset first, the verdict last.

    A remark that still holds after training compares equal to the one before, so it is logged once.

    Args:
        plan: its values.
        outcome: of the adapter; None before it is made.
    """
    outcome = outcome or Outcome()
    of_plan = [*plan.dataset.remarks, *_of_dataset(plan, outcome), *_of_bank(plan, outcome)]
    remarks = [*of_plan, *_of_adapter(plan, outcome)]
    doubts = [remark.text for remark in remarks if remark.level == "doubt"]
    budget, untrained = outcome.budget, outcome.out_of_time
    return (*remarks, verdict_on(outcome.check, doubts, budget, untrained=untrained))


def _of_dataset(plan: PlanData, outcome: Outcome) -> Iterator[Remark]:
    profile, dataset = plan.profile, plan.dataset
    if plan.bank.has_datasets and profile.rows < _FEW_ROWS:
        count = "1 row was" if profile.rows == 1 else f"{profile.rows} rows were"
        yield Remark(
            "warning", f"Only {count} read: distances from so few are uncertain.", code="rows.few"
        )
    if profile.sampled:
        yield Remark(
            "note",
            f"{profile.rows_read}, evenly spread, are read, which is enough to decide.",
            Option("max_rows", 0),
            "To read all",
            code="rows.sampled",
        )
    elif profile.ended_early:
        yield Remark("note", f"Only the {profile.rows_read} are read.", code="rows.first")
    if profile.left_out:
        total = profile.rows + profile.left_out
        text = f"{profile.left_out} of {total} rows have no output and were left out."
        yield Remark("warning", text, code="outputs.some-missing")
    yield from profile.row_counts.remarks(profile.rows)
    # prompts for which no instruction can be proposed get a form with words that all rows share
    shared = dataset.columns.template not in (TEXT, LABELED[TEXT]) and shares_instruction(profile)
    untold = not (states_task(dataset) or shared) and expects_instructions(plan.bank)
    if untold and not outcome.training:  # rows that it is trained on show what to do
        output = normalized(dataset.columns.answer or "answer").replace("_", " ")
        yield Remark(
            "doubt",
            "The inputs do not say what to do, and no instruction was given.",
            code="instruction.none",
        )
        yield Remark(
            "warning",
            "The inputs contain no instruction, unlike those of most bank datasets, so the adapter "
            "may not know what to do with them.",
            Option("instruction", f"Write the {output}"),
            "To state the task, for example",
            code="instruction.unlike-bank",
        )
    if dataset.prompts_only:
        yield _on_missing_outputs(plan)
    elif dataset.columns.input is None and dataset.columns.messages is None:
        compared = ": only outputs were compared" if plan.bank.has_datasets else ""
        yield Remark(
            "warning", f"The dataset has no inputs, only text{compared}.", code="inputs.none"
        )


def _on_missing_outputs(plan: PlanData) -> Remark:
    text = "The dataset has no outputs."
    if plan.bank.has_datasets:
        text = (
            "The dataset has no outputs: only inputs were compared, which makes the coefficients "
            "less reliable."
        )
    if not is_scaled_by_length(plan.bank, plan.recipe):
        return Remark("warning", text, code="outputs.none")
    return Remark(
        "warning",
        f"{text} The adapter is not scaled for long outputs, since their length is unknown.",
        Option("scale", 0.5),
        "For outputs of a sentence or more",
        code="outputs.not-scaled",
    )


def _of_bank(plan: PlanData, outcome: Outcome) -> Iterator[Remark]:
    index, neighbors = plan.bank.index, plan.neighbors()
    if plan.bank.has_datasets:
        yield from _on_distance(plan, outcome)
    yield from _on_weights(index, outcome)
    if index.packing and index.packing.retained_whole < _LOW_RETENTION:
        yield Remark(
            "warning",
            f"The bank is a pack that retains {index.packing.retained_whole:.0%} of its adapters' "
            "updates: the unpacked bank would make a better adapter.",
            code="bank.lossy-pack",
        )
    combined = [entry for entry, _ in plan.combined if isinstance(entry, IndexEntry)]
    if odd := outliers(stated_norms(combined)):
        yield Remark(
            "warning",
            _on_outliers(odd),
            Option("bank", "none"),
            "To use none of them",
            code="bank.odd-adapters",
        )
    if len(neighbors) > 1 and plan.effective_number < 1.2:
        text = "Nearly all weight is on one adapter: the result is close to a copy of it."
        yield Remark("warning", text, code="bank.one-adapter")
    if any(n.license is None for n in neighbors):
        yield Remark(
            "warning", "Not all of the adapters used state a license.", code="license.some-unknown"
        )


def _on_distance(plan: PlanData, outcome: Outcome) -> Iterator[Remark]:
    """Warn if no dataset of the bank is near."""
    nearest, typical = float(plan.distances.min()), plan.nearest_in_bank
    if not nearest > FAR_RATIO * typical:  # typical may be NaN
        return
    yield Remark(
        "warning",
        "No dataset in the bank is near this one: the nearest is at distance "
        f"{nearest:.3f}; within the bank, {typical:.3f} is typical.",
        code="bank.far",
    )
    if outcome == Outcome():
        yield Remark(
            "warning",
            "Expect little from this adapter: train it on labeled rows, or compare it with "
            "the base model on them before you use it.",
            code="bank.expect-little",
        )


def _on_weights(index: Index, outcome: Outcome) -> Iterator[Remark]:
    """Warn if the base model was run with quantized weights."""
    if index.base_model.endswith(".gguf"):
        yield Remark(
            "warning",
            "The base model's weights were dequantized from a GGUF file: the adapter may do worse "
            "on the original weights.",
            code="base.dequantized",
        )
    elif runs_four_bit(index, outcome):
        yield Remark(
            "warning",
            f"4-bit weights were used in place of those of {index.base_model}, which were not "
            "on this machine: on the original weights, the adapter may give other answers.",
            code="base.four-bit",
        )


def runs_four_bit(index: Index, outcome: Outcome) -> bool:
    """Whether an adapter was trained or checked with 4-bit weights in place of the base model's."""
    if outcome.given_model or not (outcome.training or outcome.check):
        return False
    weights = find_at_hand(index.base_model, index.base_revision)
    return weights is not None and weights.suffix == ".gguf"


def _on_outliers(odd: Mapping[str, str]) -> str:
    """Return a warning of adapters that take part, by name with what is odd."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(odd.items())[:_MOST_NAMED])
    more = f"; and {len(odd) - _MOST_NAMED} more" if len(odd) > _MOST_NAMED else ""
    return f"The bank holds adapters that look odd beside the others. {shown}{more}."


# --- training and check ---------------------------------------------------------------------------


def _of_adapter(plan: PlanData, outcome: Outcome) -> Iterator[Remark]:
    training, check = outcome.training, outcome.check
    if training:
        yield _on_training(training, outcome)
    elif outcome.out_of_time:
        text = "Time ran out before the first training step."
        yield Remark(
            "warning", text, more_time(outcome.budget), "To allow more", code="budget.short"
        )
    if check:
        yield _on_losses(check, outcome.checked_in_folds)
        if check.rows < outcome.to_count and not outcome.interrupted:
            text = f"Time allowed counting on only {check.rows} of {outcome.to_count} rows."
            yield Remark(
                "note",
                text,
                more_time(outcome.budget),
                "To count on more of them",
                code="budget.few-counted",
            )
        if outcome.ungraded:
            text = "There was no time to grade answers that are not exactly right."
            yield Remark(
                "note", text, more_time(outcome.budget), "To grade them", code="budget.ungraded"
            )
    elif training and outcome.to_count and outcome.budget and not outcome.interrupted:
        text = "There was no time to count right answers."
        yield Remark(
            "note", text, more_time(outcome.budget), "To count them", code="budget.none-counted"
        )
    elif training:
        text = "Right answers were not counted."
        yield Remark(
            "note", text, Option("check", 16), "To count them on 16 other rows", code="check.none"
        )
    yield from _on_missing_rows(outcome)
    if outcome.interrupted:
        yield Remark("warning", outcome.interrupted.warning, code="stage.interrupted")
    if training and training.cut:
        yield Remark(
            "warning" if 10 * training.cut > training.rows else "note",
            f"{training.cut} of {training.rows} rows are longer than training reads, "
            f"{MAX_TRAINED_TOKENS} tokens with {most_of_output(MAX_TRAINED_TOKENS)} of the output: "
            "the beginning of their prompt or the end of their output was cut off.",
            code="rows.cut",
        )
    if training and training.outputs == 1:
        yield Remark(
            "warning",
            f"All {training.seen:,} rows that the adapter was trained on have the same output, "
            "so it cannot have learned which inputs have another one.",
            code="outputs.all-same",
        )


def _on_missing_rows(outcome: Outcome) -> Iterator[Remark]:
    """Warn if fewer rows were drawn than were asked for."""
    drawn, training, check = outcome.drawn, outcome.training, outcome.check
    asked = outcome.asked
    if drawn is None:
        return
    uses = (
        ("trained", training and training.rows, drawn.to_train, asked.get("train")),
        ("checked", check and check.rows, drawn.check, asked.get("check")),
    )
    for done, rows, available, requested in uses:
        if rows and requested not in (None, True, False) and available < requested:
            yield Remark(
                "warning",
                f"The adapter was {done} on {rows} labeled rows, not {requested}: no more distinct "
                "ones were read, or the others are for another purpose, such as the check.",
                code="rows.fewer-than-asked",
            )


def _on_training(training: Training, outcome: Outcome) -> Remark:
    """Return a remark on how much was trained, and how fast."""
    budget, pace = outcome.budget, f", {outcome.pace}" if outcome.pace else ""
    text = f"Trained on {training.seen_rows}, in {plural(training.steps, 'step')}{pace}."
    more = (more_time(budget), "To use more of them") if budget and not training.saw_all else ()
    code = "training.all-rows" if training.saw_all else "training.some-rows"
    return Remark("note", text, *more, code=code)


def _on_losses(check: CheckResult, in_folds: bool) -> Remark:
    """Return a remark with the losses of a check, of rows of folds or other ones."""
    names = {BASE_METHOD: "base model", CHAT_METHOD: "with its chat template"}
    losses = ", ".join(
        f"{names.get(method, f'with a {method} prompt')} {loss:.3f}"
        for method, loss in check.losses.items()
        if method != ADAPTER_METHOD
    )
    rows = f"{check.rows} other rows"
    if in_folds:
        rows = f"{check.rows} rows, each with an adapter that was not trained on it"
    return Remark(
        "note",
        f"Checked on {rows}: loss of the {losses}, of this adapter {check.adapter.loss:.3f}.",
        code="check.losses",
    )
