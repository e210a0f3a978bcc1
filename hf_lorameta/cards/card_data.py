"""Data for the model card and the coefficient chart."""

from dataclasses import dataclass
from typing import Any

from hf_lorameta.cards.markdown import is_hub_id
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.recipe import Recipe
from hf_lorameta.refine.results import Refinement, Validation


@dataclass(frozen=True)
class WeightedAdapter:
    """One adapter with a non-zero coefficient.

    Attributes:
        adapter: Hub id of the adapter.
        adapter_revision: commit read.
        dataset: Hub id of its training dataset.
        dataset_revision: commit read.
        license: license that the adapter's authors state; None if they state none.
        distance: from the user's dataset to this one, in the recipe's metric.
        coefficient: weight in the combination; may be negative.
        by_module: weight in each adapted module, in the order of the bank's layout, if modules
            differ; `coefficient` is then their mean.
    """

    adapter: str
    adapter_revision: str
    dataset: str
    dataset_revision: str
    license: str | None
    distance: float
    coefficient: float
    by_module: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {name: value for name, value in vars(self).items() if name != "by_module" or value}


def public_name(dataset_id: str | None, private: bool) -> str | None:
    """Return a dataset's id if it is a public dataset of the Hub."""
    return dataset_id if dataset_id and not private and is_hub_id(dataset_id) else None


@dataclass(frozen=True)
class CardData:
    """Data of one run for its card.

    Attributes:
        base_model: Hub id of the base model.
        base_revision: commit of the base model, if known.
        base_license: license that the base model's authors state; None if they state none.
        dataset_id: Hub id of the user's dataset; None for a local file.
        dataset_revision: commit read.
        dataset_config: configuration read.
        dataset_split: split read.
        columns: columns read, e.g. ``input=question, output=answer``.
        rows: number of rows read.
        tokens: number of tokens in them.
        dataset_license: license that the dataset's authors state; None if they state none.
        dataset_private: the card shows neither id nor revision nor configuration.
        bank_id: repo id, or `EMBEDDED_BANK`.
        bank_revision: commit of the bank.
        bank_size: number of usable adapters in the bank.
        bank_published: the bank's adapters and datasets are on the Hub, so the card links to them.
        neighbors: adapters used, by falling coefficient; at least one.
        effective_number: of adapters, see `hf_lorameta.method.coefficients.effective_number`.
        nearest_in_bank: median over the bank's datasets of the distance to the nearest other one.
        rank: r of the generated adapter.
        dtype: of the tensors written.
        warnings: warnings of the run.
        recipe: settings of the run.
        library_version: of hf-lorameta.
        refinement: fit of the coefficients on rows of the dataset; None if they were not fitted.
        check: validation on other rows of the dataset; None if there was none.
        gguf: the adapter is exported as GGUF too.
    """

    base_model: str
    base_revision: str | None
    base_license: str | None
    dataset_id: str | None
    dataset_revision: str | None
    dataset_config: str | None
    dataset_split: str | None
    columns: str
    rows: int
    tokens: int
    dataset_license: str | None
    dataset_private: bool
    bank_id: str
    bank_revision: str | None
    bank_size: int
    bank_published: bool
    neighbors: tuple[WeightedAdapter, ...]
    effective_number: float
    nearest_in_bank: float
    rank: int
    dtype: str
    warnings: tuple[str, ...]
    recipe: Recipe
    library_version: str
    refinement: Refinement | None = None
    check: Validation | None = None
    gguf: bool = False

    def __post_init__(self) -> None:
        if not self.neighbors:
            raise LoraMetaError("a card needs at least one adapter used, got none")

    @property
    def nearest(self) -> WeightedAdapter:
        """The adapter whose dataset is nearest; of equals, the one with the larger coefficient."""
        return min(self.neighbors, key=lambda n: n.distance)

    @property
    def public_dataset(self) -> str | None:
        """The dataset's id if it is public."""
        return public_name(self.dataset_id, self.dataset_private)
