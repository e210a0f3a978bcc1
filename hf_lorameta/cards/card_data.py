"""Data for the model card and the coefficient chart."""

from dataclasses import dataclass
from typing import Any

from hf_lorameta.bank.index import NO_BANK
from hf_lorameta.cards.markdown import is_hub_id
from hf_lorameta.cards.results import Check, Training
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.recipe import Recipe
from hf_lorameta.remarks import Remark
from hf_lorameta.types import Row


def public_id(dataset: DatasetInfo) -> str | None:
    """Return a dataset's id if it is a public dataset of the Hub."""
    name = dataset.id
    return name if name and not dataset.private and is_hub_id(name) else None


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
        """What tells a reader which dataset it is: its title, or else its id."""
        return self.title or self.dataset

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {name: value for name, value in vars(self).items() if value or name != "title"}


@dataclass(frozen=True)
class Routing:
    """How PEFT's Arrow routes between the adapters of a mixture.

    Attributes:
        paths: folders of the adapters, in the order of the neighbors.
        top_k: adapters per token and module.
        shared: folder of the adapter that is added to the base model once, if there is one.
    """

    paths: tuple[str, ...]
    top_k: int
    shared: str | None


@dataclass(frozen=True)
class CardData:
    """Data of one run for its card; a license is None if its authors state none."""

    dataset: DatasetInfo  # the card shows neither id nor revision nor configuration if private
    base_model: str
    base_revision: str | None
    base_license: str | None
    rows: int
    tokens: int
    bank_id: str  # repo id, EMBEDDED_BANK or NO_BANK
    bank_revision: str | None
    bank_size: int  # number of usable adapters
    bank_published: bool  # its adapters and datasets are on the Hub, so the card links to them
    neighbors: tuple[WeightedAdapter, ...]  # by descending coefficient; none if the bank has none
    effective_number: float  # see `hf_lorameta.method.coefficients.effective_number`
    nearest_in_bank: float  # median over the bank's datasets of the distance to the nearest other
    rank: int  # of the generated adapter
    remarks: tuple[Remark, ...]  # the last is the verdict
    recipe: Recipe
    library_version: str
    fit: Training | None = None  # of the upper layers
    training: Training | None = None  # of the weights on rows of the dataset
    check: Check | None = None  # on other rows of the dataset
    gguf: bool = False  # the adapter is exported as GGUF too
    general: float | None = None  # coefficient of the bank's general adapter
    general_licenses: tuple[str | None, ...] = ()  # of the datasets it was trained on
    output_prior: float | None = None  # coefficient of the output prior
    scale: float = 1.0  # factor of all coefficients
    example: Row | None = None  # a row of a public dataset
    routing: Routing | None = None  # of a mixture

    @property
    def has_bank(self) -> bool:
        """Whether the adapter was made of a bank's adapters."""
        return self.bank_id != NO_BANK

    @property
    def public_dataset(self) -> str | None:
        """The dataset's id if it is a public dataset of the Hub."""
        return public_id(self.dataset)

    @property
    def trained(self) -> bool:
        """Whether training changed the weights."""
        return self.training is not None and self.training.steps > 0

    @property
    def fitted(self) -> bool:
        """Whether the fit changed the weights."""
        return self.fit is not None and self.fit.steps > 0

    @property
    def trainings(self) -> tuple[Training, ...]:
        """The fit and the training, as far as there were any."""
        return tuple(filter(None, (self.fit, self.training)))

    @property
    def fitted_rows(self) -> int:
        """Number of rows of the dataset that weights were fitted or trained on."""
        return sum(training.rows for training in self.trainings if training.steps)

    @property
    def source_licenses(self) -> list[str | None]:
        """The licenses of the adapters used, and of what the general adapter was trained on.

        The general adapter is a part of each other one, so it counts whatever its own coefficient.
        """
        return [*(n.license for n in self.neighbors), *self.general_licenses]

    @property
    def nearest(self) -> WeightedAdapter:
        """The adapter whose dataset is nearest; of equals, the one with the larger coefficient."""
        return min(self.neighbors, key=lambda n: n.distance)
