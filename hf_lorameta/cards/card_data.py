"""Everything that is said of one run: what the card and the picture beside an adapter show."""

from dataclasses import dataclass
from typing import Any

from hf_lorameta.cards.markdown import is_hub_id
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.recipe import Recipe
from hf_lorameta.refine.results import Refinement, Validation


@dataclass(frozen=True)
class WeightedAdapter:
    """One adapter that takes part in the combination.

    Attributes:
        adapter: Hub id of the adapter.
        adapter_revision: commit read.
        dataset: Hub id of its training dataset.
        dataset_revision: commit read.
        license: of the adapter, as its authors state it; None if they do not.
        distance: from the user's dataset to this one, in the recipe's metric.
        coefficient: weight in the combination; may be negative.
        by_module: weight in each adapted module, in the order of the bank's layout, where they
            differ; `coefficient` is their mean then.
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
        """Plain values, for JSON."""
        return {name: value for name, value in vars(self).items() if name != "by_module" or value}


def public_name(dataset_id: str | None, private: bool) -> str | None:
    """A dataset's id if the world may know it."""
    return dataset_id if dataset_id and not private and is_hub_id(dataset_id) else None


@dataclass(frozen=True)
class CardData:
    """Everything a card says about one run.

    Attributes:
        base_model: Hub id of the base model.
        base_revision: commit of the base model, if known.
        base_license: as the base model's authors state it; None if they do not.
        dataset_id: Hub id of the dataset; None for a local file.
        dataset_revision: commit read.
        dataset_config: configuration read.
        dataset_split: split read.
        columns: what was read from the rows, e.g. ``input=question, output=answer``.
        rows: number of rows read.
        tokens: number of tokens in them.
        dataset_license: as the dataset's authors state it; None if they do not.
        dataset_private: then neither id nor revision nor configuration is shown.
        bank_id: repo id, or `EMBEDDED_BANK`.
        bank_revision: commit of the bank.
        bank_size: number of usable adapters in the bank.
        bank_published: the bank's entries can be found on the Hub: link to them.
        neighbors: every adapter used, by falling coefficient; at least one.
        effective_number: of adapters, see `hf_lorameta.method.coefficients.effective_number`.
        nearest_in_bank: median over the bank of the distance to the nearest other dataset.
        rank: r of the result.
        dtype: of the tensors written.
        warnings: shown to the user during the run.
        recipe: every setting.
        library_version: of hf-lorameta.
        refinement: how the coefficients were fitted on rows of the dataset; None if they were not.
        check: how it did on other rows of the dataset; None if it was not scored.
        gguf: the adapter lies beside the PEFT files for llama.cpp and Ollama too.
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
        """The dataset's id if the world may know it."""
        return public_name(self.dataset_id, self.dataset_private)
