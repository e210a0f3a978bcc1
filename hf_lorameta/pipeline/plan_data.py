"""The values of a plan, and what is computed from them; `hf_lorameta.pipeline.plan` makes one."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.index import GeneralEntry
from hf_lorameta.cards.card_data import WeightedAdapter
from hf_lorameta.data.counts.output_counts import OutputCounts
from hf_lorameta.data.counts.profile import Profile
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.coefficients import effective_number
from hf_lorameta.pipeline.coefficients import compare_with_bank, scale_for
from hf_lorameta.recipe import Recipe
from hf_lorameta.tables import plural
from hf_lorameta.types import Array, FactorPair, Row

_SHOWN = {"adapter", "adapter_revision", "dataset", "dataset_revision", "license", "title"}
"""What a plan shows of a bank's entries."""


def has_private_source(dataset: DatasetInfo, bank: Bank) -> bool:
    """Whether a source of an adapter is private, so that its repo is private by default.

    Sources are the dataset, and the bank's adapters with their datasets, or its base model.
    """
    return dataset.public_id is None or bank.private


@dataclass(frozen=True, repr=False)
class PlanData:
    """Which adapters of a bank are combined for a dataset, and with which coefficients.

    It holds no rows of a dataset that is not public.

    Attributes:
        bank: the bank, of N adapters; N is 0 if no bank is used.
        dataset: the dataset that was read.
        recipe: the settings, as they were asked for.
        profile: of the dataset.
        distances: (N,) to every bank dataset; in a large bank, infinite for those not compared.
        coefficients: (N,) of the adapters; zero for those left out.
        general_coefficient: of the bank's general adapter; None if it has none. Together with
            `coefficients` it sums to `scale`.
        output_strength: coefficient of the output prior; None if it does not take part.
        output_counts: of the dataset, if its outputs are counted.
        example: a row of a public dataset, for the card; None for a private, gated or local one.
        stopped_after: number of rows after which a limit ended the reading; None if none did.
    """

    bank: Bank
    dataset: DatasetInfo
    recipe: Recipe
    profile: Profile
    distances: Array
    coefficients: Array
    general_coefficient: float | None = None
    output_strength: float | None = None
    output_counts: OutputCounts | None = None
    example: Row | None = None
    stopped_after: int | None = None

    @cached_property
    def replay(self) -> Recipe:
        """The settings that read the same rows again, and make the same plan."""
        limit = {} if self.stopped_after is None else {"max_rows": self.stopped_after}
        return self.recipe.model_copy(update=limit)

    @cached_property
    def active_indices(self) -> tuple[int, ...]:
        """Indices of the coefficients that are not zero, by descending coefficient."""
        active = np.flatnonzero(self.coefficients)
        order = np.argsort(-self.coefficients[active], kind="stable")
        return tuple(int(i) for i in active[order])

    @cached_property
    def combined(self) -> tuple[tuple[IndexEntry | GeneralEntry, float], ...]:
        """The adapters that are combined, the general one among them, by descending coefficient."""
        index = self.bank.index
        weighted: list[tuple[IndexEntry | GeneralEntry, float]] = [
            (index.entries[i], float(self.coefficients[i])) for i in self.active_indices
        ]
        if index.general and self.general_coefficient:
            weighted.append((index.general, self.general_coefficient))
        return tuple(sorted(weighted, key=lambda pair: -pair[1]))

    @cached_property
    def effective_number(self) -> float:
        """Effective number of adapters; see `hf_lorameta.method.coefficients.effective_number`."""
        return effective_number(self.coefficients)

    @cached_property
    def scale(self) -> float:
        """Factor by which all coefficients were multiplied."""
        return scale_for(self.bank, self.recipe, self.profile)

    @property
    def private(self) -> bool:
        """Whether a source of the adapter is private."""
        return has_private_source(self.dataset, self.bank)

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

    @cached_property
    def nearest_in_bank(self) -> float:
        """Median distance from a bank dataset to its nearest other; NaN for a bank of one.

        For a dataset without outputs, the distance between inputs.
        """
        return compare_with_bank(self.bank, self.profile, self.recipe.metric).typical_nearest()

    def neighbors(self) -> tuple[WeightedAdapter, ...]:
        """Return the adapters that take part, those with the largest coefficients first.

        A coefficient may be negative. ``pandas.DataFrame(plan.neighbors())`` is a table of them.
        """
        return self._neighbors

    @cached_property
    def _neighbors(self) -> tuple[WeightedAdapter, ...]:
        adapters = (
            WeightedAdapter(
                **self.bank.index.entries[i].model_dump(include=_SHOWN),
                distance=float(self.distances[i]),
                coefficient=float(self.coefficients[i]),
            )
            for i in self.active_indices
        )
        return tuple(sorted(adapters, key=lambda adapter: -abs(adapter.coefficient)))

    def __repr__(self) -> str:
        name = self.dataset.id or "a local dataset"
        source = f"{plural(len(self.neighbors()), 'adapter')} of {self.bank.id}"
        if not self.bank.has_datasets:
            general = self.bank.index.general and f"the general adapter of {self.bank.id}"
            source = general or f"no bank, from {self.bank.index.base_model} alone"
        return f'Plan({source} for {name}, read with columns="{self.dataset.columns}")'
