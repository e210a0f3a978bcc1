"""Plan an adapter: measure distances to the bank, and choose coefficients.

No adapter weights are read.
"""

import math
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from hf_lorameta._version import __version__
from hf_lorameta.bank.bank import Bank
from hf_lorameta.cards.card_data import CardData, WeightedAdapter
from hf_lorameta.cards.results import Check, Training
from hf_lorameta.cards.verdict import Verdict, verdict_of
from hf_lorameta.data.counts.output_counts import OutputCounts
from hf_lorameta.data.counts.profile import Profile
from hf_lorameta.data.dataset import DatasetInfo, ReadingOptions
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.coefficients import effective_number
from hf_lorameta.pipeline.coefficients import (
    choose_coefficients,
    compare_with_bank,
    scale_for,
)
from hf_lorameta.pipeline.plan_warnings import lacks_instruction, plan_warnings
from hf_lorameta.pipeline.progress import bars_unless, with_progress
from hf_lorameta.pipeline.read import Reading, read_dataset, require_outputs, token_counting
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.without_bank import refuse_without_adapters
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Array, FactorPair, Row, StageProgress

_REPR_ROWS = 5


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
        if lacks_instruction(self):
            doubts.append("The inputs do not say what to do, and no instruction was given.")
        return verdict_of(self.check, doubts)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before relying on the result, as sentences."""
        return tuple(plan_warnings(self))

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
        neighbors, number = self.neighbors(), f"effective number {self.effective_number:.1f}"
        source = f"{len(neighbors)} adapters of {self.bank.id}, {number}"
        if not len(self.bank):
            general = self.bank.index.general and f"the general adapter of {self.bank.id}"
            source = general or f"no bank, from {self.bank.index.base_model} alone"
        name = self.dataset.id or "a local dataset"
        lines = [f"Plan for {name} ({self.profile.rows} rows): {source}"]
        lines += [f'  read with columns="{self.dataset.columns}"']
        lines += [
            f"  {n.coefficient:7.1%}  {n.label}  (distance {n.distance:.4g})"
            for n in neighbors[:_REPR_ROWS]
        ]
        if len(neighbors) > _REPR_ROWS:
            lines.append(f"  … and {len(neighbors) - _REPR_ROWS} more")
        if self.check:
            lines.append(str(self.verdict))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(n.label)}</td><td>{n.distance:.4g}</td>"
            f"<td>{n.coefficient:.1%}</td><td>{escape(n.license or 'unknown')}</td></tr>"
            for n in self.neighbors()
        )
        notes = "".join(f"<li>{escape(text)}</li>" for text in self.warnings)
        head = "<tr><th>dataset</th><th>distance</th><th>coefficient</th><th>license</th></tr>"
        title = "".join(repr(self).splitlines()[:2])
        verdict = f"<p>{escape(str(self.verdict))}</p>"
        return f"<p>{escape(title)}</p>{verdict}<table>{head}{rows}</table><ul>{notes}</ul>"

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


def plan(
    dataset: Any,
    bank: Bank | str | Path | None = None,
    recipe: Recipe | None = None,
    *,
    base: str | Path | None = None,
    base_revision: str | None = None,
    token: str | None = None,
    progress: StageProgress | None = None,
    **reading: Unpack[ReadingOptions],
) -> Plan:
    """Read a dataset, measure its distances to the bank, and choose coefficients.

    Args:
        dataset: Hub id, local file, opened `Dataset`, list of dictionaries, `pandas.DataFrame`,
            or dataset of the library `datasets`.
        bank: an opened bank, a folder, a Hub id, or ``none``; None opens the default bank, or for
            another `base` model, if there is none for it, uses none.
        recipe: None is ``Recipe()``.
        base: the base model, a Hub id or a folder; None is the bank's.
        base_revision: branch, tag or commit of a base model without a bank.
        token: of the Hub; None uses the saved one.
        progress: called with (stage, done, total, or 0 if it is not known); None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`.

    Raises:
        DatasetError: the dataset cannot be read as labeled rows.
        BankError: the bank is empty or damaged, or lacks the neural rule that was asked for.
        UsageError: the base model cannot be used, or a revision is given for that of a bank.
        HubError: a repo is missing, private or gated, or the Hub cannot be reached.
    """
    recipe = recipe or Recipe()
    opening = Session(bank, base=base, base_revision=base_revision, token=token)
    with bars_unless(progress) as show, opening as session:
        opened = session.open_dataset(dataset, **reading)
        refuse_without_adapters(session.bank, recipe, opened)
        opened = with_progress(opened, show)
        read = read_dataset(opened, recipe, token_counting(session.bank))
        return plan_from_reading(read, session.bank)


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
