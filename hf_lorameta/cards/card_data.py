"""The adapters that a card lists."""

from dataclasses import dataclass
from typing import Any


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
