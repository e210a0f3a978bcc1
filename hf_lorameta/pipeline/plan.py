"""Plan an adapter: measure distances to the bank, and choose coefficients.

No adapter weights are read.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import numpy as np

from hf_lorameta._version import __version__
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import FAR_RATIO
from hf_lorameta.cards.card_data import CardData, WeightedAdapter
from hf_lorameta.cards.results import Check, Training
from hf_lorameta.cards.verdict import Verdict, verdict_of
from hf_lorameta.data.counts.output_counts import OutputCounts
from hf_lorameta.data.counts.profile import Profile
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.data.prompt_form import TEXT, shares_instruction, states_task
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.coefficients import effective_number
from hf_lorameta.pipeline.coefficients import (
    choose_coefficients,
    compare_with_bank,
    is_scaled_by_length,
    scale_for,
)
from hf_lorameta.pipeline.form import expects_instructions
from hf_lorameta.pipeline.read import Reading, require_outputs
from hf_lorameta.pipeline.without_bank import refuse_without_adapters
from hf_lorameta.recipe import Recipe
from hf_lorameta.tables import coefficient_table, plural
from hf_lorameta.types import Array, FactorPair, Row

_FEW_ROWS = 20
_LOW_RETENTION = 0.9
"""Warn about a pack that retains less than this share of the updates' energy."""


@dataclass(frozen=True, repr=False)
class Plan:
    """Which adapters of a bank are combined for a dataset, and with which coefficients.

    A plan is a value: it can be printed and shown in a notebook. It holds no rows of a dataset that
    is not public.

    Attributes:
        bank: the bank, of N adapters; of none if no bank is used.
        dataset: the dataset that was read.
        recipe: the settings.
        profile: of the dataset.
        distances: (N,) to every bank dataset; of a large bank, infinite to those not compared.
        coefficients: of the N adapters, of the bank's general adapter if it has one, and of the
            output prior if it has one; zero for those left out. Those of adapters sum to `scale`,
            unless they were scaled down.
        fit: how it was fitted on rows of the dataset, if it was.
        training: how the adapter was trained on rows of the dataset, if it was.
        check: how the adapter scored on other rows of the dataset, if it was checked.
        output_counts: of the dataset, if its outputs are counted.
        example: a row of a public dataset, for the card; None for a private, gated or local one.

    Example:
        >>> import hf_lorameta
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> plan = hf_lorameta.plan(TRAIN_FILE)
        >>> plan.neighbors()[0].adapter
        'local/targetsentiment_newsmtsc'
    """

    bank: Bank
    dataset: DatasetInfo
    recipe: Recipe
    profile: Profile
    distances: Array
    coefficients: Array
    fit: Training | None = None
    training: Training | None = None
    check: Check | None = None
    output_counts: OutputCounts | None = None
    example: Row | None = None

    # --- derived values -------------------------------------------------------------------------

    @property
    def active_indices(self) -> list[int]:
        """Indices of the coefficients that are not zero, by descending coefficient.

        That of the output prior, if it takes part, is the last.
        """
        active = np.flatnonzero(self.coefficients)
        is_prior = active == self.bank.index.number
        order = np.lexsort((-self.coefficients[active], is_prior))
        return [int(i) for i in active[order]]

    @property
    def effective_number(self) -> float:
        """Effective number of adapters; see `hf_lorameta.method.coefficients.effective_number`."""
        return effective_number(self.coefficients[: len(self.bank)])

    @property
    def general_coefficient(self) -> float | None:
        """Coefficient of the bank's general adapter; None if it has none."""
        has_one = self.bank.index.general is not None
        return float(self.coefficients[len(self.bank)]) if has_one else None

    @property
    def output_strength(self) -> float | None:
        """Coefficient of the output prior; None if it does not take part."""
        size = self.bank.index.number
        return float(self.coefficients[size]) if len(self.coefficients) > size else None

    @property
    def trainings(self) -> tuple[Training, ...]:
        """The fit and the training, as far as there were any."""
        return tuple(filter(None, (self.fit, self.training)))

    @property
    def interrupted(self) -> Training | None:
        """The fit or training that the user ended; None without one."""
        return next((training for training in self.trainings if training.interrupted), None)

    @property
    def scale(self) -> float:
        """Factor by which all coefficients were multiplied."""
        return scale_for(self.bank, self.recipe, self.profile)

    @property
    def private(self) -> bool:
        """Whether the dataset is private, or an adapter or a dataset of the bank."""
        return self.dataset.private or self.bank.private

    @property
    def layout(self) -> Layout:
        """The modules that the adapter changes."""
        return self.bank.layout if self.output_strength is None else self.bank.adapted_layout

    def output_prior(self) -> FactorPair | None:
        """Return A (2, in) and B (out, 2) of the output prior; None if it does not take part."""
        if self.output_strength is None or self.output_counts is None:
            return None  # before the file is read
        prior = self.bank.output_prior
        return prior.factors(self.output_counts) if prior else None

    @property
    def nearest_in_bank(self) -> float:
        """Median distance from a bank dataset to its nearest other; NaN for a bank of one.

        For a dataset without outputs, the distance between inputs.
        """
        return compare_with_bank(self.bank, self.profile, self.recipe.metric).typical_nearest()

    @property
    def verdict(self) -> Verdict:
        """Whether the adapter helps, in right answers if they were counted."""
        doubts = [*self.dataset.doubts]
        if _lacks_instruction(self):
            doubts.append("The inputs do not say what to do, and no instruction was given.")
        return verdict_of(self.check, doubts)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before relying on the result, as sentences."""
        return tuple(_warnings(self))

    def neighbors(self) -> tuple[WeightedAdapter, ...]:
        """Return the adapters that take part, by descending coefficient.

        ``pandas.DataFrame(plan.neighbors())`` is a table of them.
        """
        result = []
        for i in self.active_indices:
            if i >= len(self.bank):
                continue
            entry = self.bank.index.entries[i]
            result.append(
                WeightedAdapter(
                    adapter=entry.adapter,
                    adapter_revision=entry.adapter_revision,
                    dataset=entry.dataset,
                    dataset_revision=entry.dataset_revision,
                    license=entry.license,
                    distance=float(self.distances[i]),
                    coefficient=float(self.coefficients[i]),
                    title=entry.title,
                )
            )
        return tuple(result)

    def with_recipe(self, recipe: Recipe) -> "Plan":
        """Plan again with other settings, without reading the dataset again.

        Args:
            recipe: its ``max_rows`` is taken to be the number of rows that was read.

        Raises:
            BankError: the bank lacks the neural rule that was asked for.
            RecipeError: a setting says how adapters are combined, and the bank has none, or one.
            UnlabeledDatasetError: the recipe needs outputs, and the dataset has none.
        """
        require_outputs(self.dataset, recipe)
        read = Reading(self.dataset, recipe, self.profile, self.output_counts, self.example)
        return plan_from_reading(read, self.bank)

    # --- display --------------------------------------------------------------------------------

    def __repr__(self) -> str:
        name = self.dataset.id or "a local dataset"
        source = f"{plural(len(self.neighbors()), 'adapter')} of {self.bank.id}"
        if not len(self.bank):
            general = self.bank.index.general and f"the general adapter of {self.bank.id}"
            source = general or f"no bank, from {self.bank.index.base_model} alone"
        return f'Plan({source} for {name}, read with columns="{self.dataset.columns}")'

    def __str__(self) -> str:
        """All figures, with a table of the adapters, as ``hf-lorameta plan`` prints them."""
        read, index, neighbors = self.profile.rows_read, self.bank.index, self.neighbors()
        if not index.number:
            return f"{read}; no bank: the adapter starts from {index.base_model} alone"
        lines = [read]
        if neighbors:
            rows = [
                [n.label, f"{n.distance:.4g}", f"{n.coefficient:.1%}", n.license or "unknown"]
                for n in neighbors
            ]
            head = ["bank dataset", "distance", "coefficient", "license"]
            typical = self.nearest_in_bank
            lines = [
                coefficient_table(head, rows, [n.coefficient for n in neighbors]),
                "",
                f"{read}; {plural(len(neighbors), 'adapter')}, effective number "
                f"{self.effective_number:.1f}; nearest bank dataset at distance "
                f"{self.distances.min():.4g}, typical within the bank: "
                f"{'unknown' if math.isnan(typical) else f'{typical:.4g}'}",
            ]
        if self.general_coefficient is not None:
            besides = ", in addition to its part in each adapter" if neighbors else ""
            lines.append(f"general adapter of the bank: {self.general_coefficient:.1%}{besides}")
        if self.output_strength is not None:
            strength = f"{self.output_strength:.2g}"
            lines.append(f"output prior, from the dataset's output tokens: {strength}")
        if self.scale != 1:
            length = f"{self.profile.output_length:.0f} tokens are longer than the bank's"
            why = "" if self.recipe.scale else f": outputs of {length}"
            lines.append(f"all coefficients are scaled by {self.scale:.2f}{why}")
        return "\n".join([*lines, str(self.verdict)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(n.label)}</td><td>{n.distance:.4g}</td>"
            f"<td>{n.coefficient:.1%}</td><td>{escape(n.license or 'unknown')}</td></tr>"
            for n in self.neighbors()
        )
        notes = "".join(f"<li>{escape(text)}</li>" for text in self.warnings)
        head = "<tr><th>dataset</th><th>distance</th><th>coefficient</th><th>license</th></tr>"
        verdict = f"<p>{escape(str(self.verdict))}</p>"
        return f"<p>{escape(repr(self))}</p>{verdict}<table>{head}{rows}</table><ul>{notes}</ul>"

    # --- output ---------------------------------------------------------------------------------

    def card_data(self, rank: int) -> CardData:
        """Return the data of the model card."""
        index = self.bank.index
        return CardData(
            base_model=self.bank.public_base,
            base_revision=index.base_revision,
            base_license=index.base_license,
            dataset=self.dataset,
            rows=self.profile.rows,
            tokens=self.profile.input.total + self.profile.output.total,
            bank_id=self.bank.id,
            bank_revision=self.bank.revision,
            bank_size=len(self.bank),
            bank_published=index.published,
            neighbors=self.neighbors(),
            effective_number=self.effective_number,
            nearest_in_bank=self.nearest_in_bank,
            rank=rank,
            warnings=self.warnings,
            recipe=self.recipe,
            fit=self.fit,
            training=self.training,
            check=self.check,
            verdict=self.verdict,
            library_version=__version__,
            general=self.general_coefficient,
            general_licenses=tuple(t.license for t in index.general.tasks) if index.general else (),
            output_prior=self.output_strength,
            scale=self.scale,
            example=self.example,
        )

    def provenance(self) -> dict[str, Any]:
        """Return the content of ``recipe.json``, without a private dataset's name."""
        index, data = self.bank.index, self.dataset
        return {
            "schema_version": 1,
            "library": f"hf-lorameta {__version__}",
            "private": self.private,
            "recipe": self.recipe.model_dump(),
            "base_model": {"id": index.base_model, "revision": index.base_revision},
            "bank": self.bank.reference,
            "dataset": {
                "id": None if data.private else data.id,
                "private": data.private,
                "proposed_instruction": data.proposed,
                "revision": None if data.private else data.revision,
                "config": None if data.private else data.config,
                "split": data.split,
                "columns": data.columns.model_dump(exclude_none=True),
                "rows": self.profile.rows,
                "tokens": self.profile.input.total + self.profile.output.total,
            },
            "general_coefficient": self.general_coefficient,
            "output_prior": self.output_strength,
            "scale": self.scale,
            "effective_number": self.effective_number,
            "warnings": list(self.warnings),
            "verdict": self.verdict._asdict(),
            "fit": _values(self.fit),
            "training": _values(self.training),
            "check": _values(self.check),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, as ``plan --json`` prints it."""
        data, typical, content = self.dataset, self.nearest_in_bank, self.provenance()
        name = {"id": data.id, "revision": data.revision, "config": data.config}
        read = {"ended_early": self.profile.ended_early, "total_rows": self.profile.total}
        return content | {
            "dataset": content["dataset"] | name | read,
            "nearest_in_bank": None if math.isnan(typical) else typical,  # JSON has no NaN
            "neighbors": [neighbor.to_dict() for neighbor in self.neighbors()],
        }


def _values(result: Training | Check | None) -> dict[str, Any] | None:
    """Return a result as JSON values: None for a loss that is not finite."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: finite(value) for name, value in asdict(result).items()} if result else None


def plan_from_reading(reading: Reading, bank: Bank) -> Plan:
    """Plan an adapter for a dataset that was read.

    Raises:
        BankError: the bank lacks the neural rule that was asked for.
        RecipeError: a setting says how adapters are combined, and the bank has none, or one.
        UnlabeledDatasetError: no bank is used, and the dataset has no outputs.
    """
    refuse_without_adapters(bank, reading.recipe, reading.dataset)
    distances, coefficients = choose_coefficients(
        bank, reading.recipe, reading.profile, reading.output_counts
    )
    return Plan(
        bank, reading.dataset, reading.recipe, reading.profile, distances, coefficients,
        output_counts=reading.output_counts, example=reading.example,
    )  # fmt: skip


# --- what to know before relying on an adapter ----------------------------------------------------


def _warnings(plan: Plan) -> Iterator[str]:
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


def _lacks_instruction(plan: Plan) -> bool:
    """Whether the inputs contain no instruction, unlike those of most bank datasets.

    The form that prompts get where none can be proposed has words that all rows share, too.
    """
    shared = plan.dataset.columns.template != TEXT and shares_instruction(plan.profile)
    states = states_task(plan.dataset) or shared
    return not states and expects_instructions(plan.bank)


def _distance_warnings(plan: Plan) -> Iterator[str]:
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


def _loss_warnings(plan: Plan) -> Iterator[str]:
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
            f"On {fit.scored_rows}, the adapter is worse than the base model: an output token has "
            f"a probability of {fit.end:.3f} and {fit.base:.3f}. Train it (option train), or fit "
            "it on more rows (option fit)."
        )


def _no_outputs_warning(plan: Plan) -> str:
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
