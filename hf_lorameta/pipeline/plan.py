"""Plan an adapter: measure distances to the bank, and choose coefficients.

No adapter weights are read.
"""

from typing import Any

from hf_lorameta.bank.bank import Bank
from hf_lorameta.cards.card_data import CardData
from hf_lorameta.pipeline import presentation
from hf_lorameta.pipeline.coefficients import choose_coefficients
from hf_lorameta.pipeline.plan_data import PlanData
from hf_lorameta.pipeline.read import Reading
from hf_lorameta.pipeline.remarks import remarks_on
from hf_lorameta.pipeline.resolve import require_compatible
from hf_lorameta.recipe import Recipe
from hf_lorameta.remarks import Remark


class Plan(PlanData):
    """A plan that can be printed, shown in a notebook and saved; its values are `PlanData`'s.

    Example:
        >>> import hf_lorameta
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> plan = hf_lorameta.plan(TRAIN_FILE)
        >>> plan.neighbors()[0].adapter
        'local/targetsentiment_newsmtsc'
    """

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What a user should know before relying on the result; the last is the verdict."""
        return remarks_on(self)

    @property
    def verdict(self) -> Remark:
        """Whether the adapter helps, in right answers if they were counted."""
        return self.remarks[-1]

    def __str__(self) -> str:
        """All figures, with a table of the adapters, as ``hf-lorameta plan`` prints them."""
        return presentation.as_text(self)

    def _repr_html_(self) -> str:
        return presentation.as_html(self)

    def card_data(self, rank: int) -> CardData:
        """Return the data of the model card."""
        return presentation.card_data(self, rank)

    def provenance(self) -> dict[str, Any]:
        """Return the content of ``recipe.json``, without a private dataset's name."""
        return presentation.provenance(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, as ``plan --json`` prints it."""
        return presentation.as_json(self)

    def with_recipe(self, recipe: Recipe) -> "Plan":
        """Plan again with other settings, without reading the dataset again.

        Args:
            recipe: its ``max_rows`` is taken to be the number of rows that was read.

        Raises:
            BankError: the bank lacks the neural rule that was asked for.
            RecipeError: a setting says how adapters are combined, and the bank has none, or one.
            UnlabeledDatasetError: the recipe needs outputs, and the dataset has none.
        """
        require_compatible(recipe, self.bank, self.dataset)
        read = Reading(self.dataset, recipe, self.profile, self.output_counts, self.example)
        return plan_from_reading(read, self.bank)


def plan_from_reading(reading: Reading, bank: Bank) -> Plan:
    """Plan an adapter for a dataset that was read.

    Raises:
        BankError: the bank lacks the neural rule that was asked for.
        RecipeError: the method would read all profiles of a large bank.
    """
    distances, coefficients = choose_coefficients(
        bank, reading.recipe, reading.profile, reading.output_counts
    )
    return Plan(
        bank, reading.dataset, reading.recipe, reading.profile, distances, coefficients,
        output_counts=reading.output_counts, example=reading.example,
    )  # fmt: skip
