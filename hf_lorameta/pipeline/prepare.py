"""From an opened dataset to a plan and the rows to make the adapter with."""

from dataclasses import replace
from typing import NamedTuple

from hf_lorameta.data.dataset import Dataset
from hf_lorameta.pipeline.automatic_check import with_check
from hf_lorameta.pipeline.budget import most_rows, recipe_within
from hf_lorameta.pipeline.plan import Plan, plan_from_reading
from hf_lorameta.pipeline.read import read_dataset, token_counting
from hf_lorameta.pipeline.rows import MIN_ROWS, Rows, draw_rows, pool_of, pool_size
from hf_lorameta.pipeline.session import Session
from hf_lorameta.recipe import Recipe


class Prepared(NamedTuple):
    """What `hf_lorameta.pipeline.make.make_adapter` makes an adapter of.

    Attributes:
        plan: the plan.
        rows: to fit, train and check on.
        reasons: why so many rows are trained on, if a budget chose, as sentences for the user.
    """

    plan: Plan
    rows: Rows
    reasons: tuple[str, ...] = ()

    @property
    def checks_automatically(self) -> bool:
        """Whether the adapter is checked although its recipe does not say so."""
        return bool(self.rows.check) and self.plan.recipe.check is None


def prepare(
    dataset: Dataset,
    session: Session,
    recipe: Recipe,
    *,
    budget: float | None = None,
    check: bool = True,
) -> Prepared:
    """Read a dataset, plan, and draw rows.

    Args:
        dataset: an opened dataset.
        session: its bank is used, and its base model if there is a budget.
        recipe: the settings.
        budget: seconds to train in, which choose the number of rows to train on; see
            `hf_lorameta.pipeline.budget.budget_seconds`.
        check: check the adapter automatically where that is possible, and there is no budget; see
            `hf_lorameta.pipeline.automatic_check`.

    Raises:
        LoraMetaError: as `hf_lorameta.plan` raises.
    """
    bank, asked = session.bank, recipe
    if budget is not None:
        asked = most_rows(recipe, dataset)
    elif check:
        asked = with_check(recipe, dataset, session)
    collect = pool_size(asked) if asked.rows_asked else 0
    reading = read_dataset(dataset, recipe, token_counting(bank), bank.encode, collect=collect)
    plan = plan_from_reading(reading, bank)
    if budget is None:
        rows = draw_rows(asked, reading.pool)
        too_few = len(rows.check) < MIN_ROWS and recipe.check is None
        return Prepared(plan, draw_rows(recipe, reading.pool) if too_few else rows)
    choice = recipe_within(plan, reading.pool, session, budget)
    pool, recipe = reading.pool, choice.recipe
    if recipe.rows_asked and (recipe.max_rows is not None or len(pool) > pool_size(recipe)):
        pool = pool_of(dataset.rows(), recipe)  # the one that this recipe draws from
    return Prepared(replace(plan, recipe=recipe), draw_rows(recipe, pool), choice.reasons)
