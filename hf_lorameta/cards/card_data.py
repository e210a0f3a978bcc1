"""The values that a model card states."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hf_lorameta.bank.index import NO_BANK
from hf_lorameta.cards.results import Outcome
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.hub.repo import is_hub_id
from hf_lorameta.recipe import Recipe
from hf_lorameta.remarks import Remark
from hf_lorameta.types import Row

MAX_DATASETS = 50
"""Source datasets in the card's metadata."""


@dataclass(frozen=True)
class WeightedAdapter:
    """One adapter with a non-zero coefficient, which may be negative.

    `distance` is from the user's dataset to the adapter's.
    """

    adapter: str  # Hub id
    adapter_revision: str
    dataset: str  # Hub id of its training dataset
    dataset_revision: str
    license: str | None  # stated by the adapter's authors
    distance: float
    coefficient: float
    title: str | None = None  # name of the dataset for people, if the bank states one

    @property
    def label(self) -> str:
        """Readable name of the dataset: its title, or else its id."""
        return self.title or self.dataset

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {name: value for name, value in vars(self).items() if value or name != "title"}


@dataclass(frozen=True)
class Card:
    """What the card of a generated adapter states.

    Attributes:
        base_model: Hub id or folder.
        base_revision: its commit; None if it is not known.
        base_license: None if none is stated.
        dataset: that the adapter was made for.
        rows: number of rows whose tokens were counted.
        tokens: number of these.
        bank_id: of the bank; `hf_lorameta.bank.index.NO_BANK` without one.
        bank_revision: its commit; None if it is not on the Hub.
        bank_size: number of its adapters.
        bank_published: whether its adapters and datasets have pages on the Hub.
        neighbors: the adapters that are combined, those with the largest coefficients first.
        effective_number: of these.
        nearest_in_bank: median distance from a bank dataset to its nearest other; may be NaN.
        rank: of the adapter.
        remarks: on the adapter; the last is the verdict.
        recipe: how the bank's adapters were combined.
        command: the words of the command that makes the adapter again, with the same weights.
            ``DATASET``, ``CONFIG`` and ``BANK`` stand for those without a public name.
        outcome: what was done with the base model.
        library_version: of this package.
        general: coefficient of the bank's general adapter; None if it has none.
        general_licenses: of the datasets that it was trained on.
        output_prior: coefficient of the output prior; None if it does not take part.
        scale: factor by which all coefficients were multiplied.
        example: a row of a public dataset; None for others.
        gguf: whether the folder has the adapter as GGUF as well.
    """

    base_model: str
    base_revision: str | None
    base_license: str | None
    dataset: DatasetInfo
    rows: int
    tokens: int
    bank_id: str
    bank_revision: str | None
    bank_size: int
    bank_published: bool
    neighbors: tuple[WeightedAdapter, ...]
    effective_number: float
    nearest_in_bank: float
    rank: int
    remarks: tuple[Remark, ...]
    recipe: Recipe
    command: Sequence[str]
    outcome: Outcome
    library_version: str
    general: float | None = None
    general_licenses: tuple[str | None, ...] = ()
    output_prior: float | None = None
    scale: float = 1.0
    example: Row | None = None
    gguf: bool = False

    @property
    def has_bank(self) -> bool:
        """Whether a bank was used."""
        return self.bank_id != NO_BANK

    @property
    def is_conditioned(self) -> bool:
        """Whether the combination depends on the dataset."""
        return bool(self.neighbors or self.output_prior)

    @property
    def licenses(self) -> list[str | None]:
        """Licenses of the source adapters, and of the general adapter's datasets.

        The general adapter is a part of each other one, so it counts whatever its own coefficient.
        """
        return [*(adapter.license for adapter in self.neighbors), *self.general_licenses]

    @cached_property
    def nearest(self) -> WeightedAdapter | None:
        """The adapter whose dataset is closest."""
        return min(self.neighbors, key=lambda adapter: adapter.distance, default=None)

    @property
    def relative_distance(self) -> float | None:
        """The distance to the nearest dataset as a multiple of the bank's typical one."""
        typical = self.nearest_in_bank
        known = self.nearest and math.isfinite(typical) and typical
        return self.nearest.distance / typical if self.nearest and known else None

    @cached_property
    def source_datasets(self) -> list[str]:
        """Datasets on the Hub that the source adapters were trained on, each once."""
        published = self.neighbors if self.bank_published else ()
        ids = (adapter.dataset for adapter in published if is_hub_id(adapter.dataset))
        return list(dict.fromkeys(ids))[:MAX_DATASETS]
