"""What a user should know before relying on an adapter."""

import math
from collections.abc import Iterator
from typing import Protocol

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import FAR_RATIO
from hf_lorameta.cards.card_data import WeightedAdapter
from hf_lorameta.cards.results import Check, Training
from hf_lorameta.data.counts.profile import Profile
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.data.prompt_form import TEXT, shares_instruction, states_task
from hf_lorameta.pipeline.coefficients import is_scaled_by_length
from hf_lorameta.pipeline.form import expects_instructions
from hf_lorameta.recipe import Recipe
from hf_lorameta.tables import plural
from hf_lorameta.types import Array

FEW_ROWS = 20
LOW_RETENTION = 0.9
"""Warn about a pack that retains less than this share of the updates' energy."""


class PlanLike(Protocol):
    """The attributes of `hf_lorameta.Plan` that warnings depend on."""

    @property
    def bank(self) -> Bank: ...  # noqa: D102
    @property
    def dataset(self) -> DatasetInfo: ...  # noqa: D102
    @property
    def profile(self) -> Profile: ...  # noqa: D102
    @property
    def recipe(self) -> Recipe: ...  # noqa: D102
    @property
    def distances(self) -> Array: ...  # noqa: D102
    @property
    def fit(self) -> Training | None: ...  # noqa: D102
    @property
    def training(self) -> Training | None: ...  # noqa: D102
    @property
    def interrupted(self) -> Training | None: ...  # noqa: D102
    @property
    def check(self) -> Check | None: ...  # noqa: D102
    @property
    def nearest_in_bank(self) -> float: ...  # noqa: D102
    @property
    def effective_number(self) -> float: ...  # noqa: D102
    def neighbors(self) -> tuple[WeightedAdapter, ...]: ...  # noqa: D102


def plan_warnings(plan: PlanLike) -> Iterator[str]:
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
    if packing and packing.retained_whole < LOW_RETENTION:
        yield (
            f"The bank is a pack that retains {packing.retained_whole:.0%} of its adapters' "
            "updates: the unpacked bank would make a better adapter."
        )
    if len(plan.distances) and plan.profile.rows < FEW_ROWS:
        count = "1 row was" if plan.profile.rows == 1 else f"{plan.profile.rows} rows were"
        yield f"Only {count} read: distances from so few are uncertain."
    if plan.profile.left_out:
        total = plan.profile.rows + plan.profile.left_out
        yield f"{plan.profile.left_out} of {total} rows have no output and were left out."
    if plan.profile.cut:
        rows = plural(plan.profile.cut, "row")
        yield f"{rows} held a text above the limit of characters: only its beginning was counted."
    if lacks_instruction(plan):
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


def lacks_instruction(plan: PlanLike) -> bool:
    """Whether the inputs contain no instruction, unlike those of most bank datasets.

    The form that prompts get where none can be proposed has words that all rows share, too.
    """
    shared = plan.dataset.columns.template != TEXT and shares_instruction(plan.profile)
    states = states_task(plan.dataset) or shared
    return not states and expects_instructions(plan.bank)


def _distance_warnings(plan: PlanLike) -> Iterator[str]:
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


def _loss_warnings(plan: PlanLike) -> Iterator[str]:
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
            "as it is. Train it further, for example for 5 minutes, or let a check on 16 rows "
            "scale it down."
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
            f"On {fit.held_out} rows that it was not fitted on, the adapter is worse than the base "
            f"model: an output token has a probability of {fit.end:.3f} and {fit.base:.3f}. Train "
            "it, or fit it on more rows."
        )


def _no_outputs_warning(plan: PlanLike) -> str:
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
        f"{text} For outputs of a sentence or more, choose a scale of 0.5: the length of the "
        "outputs, which the scale otherwise depends on, is not known."
    )
