"""Choose the labeled rows that a recipe fits on and checks on.

Rows are drawn with the recipe's seed from the labeled ones among the first `POOL_ROWS` rows of the
dataset. No row is used for both purposes.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from hf_lorameta.data.dataset import Dataset
from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Row

POOL_ROWS = 1000
MIN_ROWS = 4


def labeled_pool(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with an output among the first `POOL_ROWS`."""
    return [row for row in islice(rows, POOL_ROWS) if row[1].strip()]


def rows_to_fit(recipe: Recipe, pool: Sequence[Row]) -> list[Row]:
    """Draw ``recipe.refine`` rows to fit on.

    Args:
        recipe: its `refine` and `seed` count.
        pool: labeled rows, see `labeled_pool`.

    Raises:
        EmptyDatasetError: fewer than 4 rows.
    """
    to_fit = _draw(recipe, len(pool))[0]
    if recipe.refine is not None and len(to_fit) < MIN_ROWS:
        raise EmptyDatasetError(
            f"{len(to_fit)} labeled rows to refine on, expected at least {MIN_ROWS}",
            hint="leave out --refine, or name a dataset with more rows",
        )
    return [pool[i] for i in to_fit]


def rows_to_check(recipe: Recipe, pool: Sequence[Row]) -> list[Row]:
    """Draw ``recipe.check`` rows to check on, none of them fitted on.

    Args:
        recipe: its `refine`, `check` and `seed` count.
        pool: labeled rows, see `labeled_pool`.

    Raises:
        EmptyDatasetError: fewer than 4 rows are left.
    """
    to_fit, to_check = _draw(recipe, len(pool))
    if len(to_check) < MIN_ROWS:
        left = f" left by --refine {recipe.refine}" if to_fit else ""
        raise EmptyDatasetError(
            f"{len(to_check)} of {len(pool)} labeled rows{left} to check on, expected at least "
            f"{MIN_ROWS}",
            hint="leave out --check, lower --refine, or name a dataset with more rows",
        )
    return [pool[i] for i in to_check]


def rows_used(provenance: Mapping[str, Any], dataset: Dataset) -> list[Row]:
    """Return the rows of a dataset that an adapter was fitted or checked on.

    They say nothing about how good the adapter is. A private dataset's name is not stored with
    an adapter, so it is recognized by its split, columns and number of rows.

    Args:
        provenance: of the adapter, as `read_provenance` returns it.
        dataset: to be scored.

    Raises:
        RecipeError: the adapter's recipe is not one of this version.
    """
    stored = provenance["dataset"]
    settings = ("refine", "check", "seed", "max_rows")
    recipe = Recipe.of(**{k: v for k, v in provenance["recipe"].items() if k in settings})
    if not (recipe.refine or recipe.check):
        return []
    name = None if stored["private"] else dataset.id
    columns = dataset.columns.model_dump(exclude_none=True)
    config = None if stored["private"] else dataset.config
    same = (name, config, dataset.split, columns)
    if tuple(stored.get(key) for key in ("id", "config", "split", "columns")) != same:
        return []
    if stored["private"] and stored.get("rows") != _count_labeled(dataset, recipe.max_rows):
        return []
    pool = labeled_pool(dataset.rows())
    to_fit, to_check = _draw(recipe, len(pool))
    return [pool[i] for i in (*to_fit, *to_check)]


def _count_labeled(dataset: Dataset, limit: int | None) -> int:
    return sum(1 for _, output in islice(dataset.rows(), limit) if output)


def _draw(recipe: Recipe, size: int) -> tuple[list[int], list[int]]:
    """Indices of the rows to fit on and of those to check on, among `size` rows."""

    def sample(indices: Sequence[int], count: int | None) -> list[int]:
        return random.Random(recipe.seed).sample(indices, min(count or 0, len(indices)))

    to_fit = sample(range(size), recipe.refine)
    taken = set(to_fit)
    return to_fit, sample([i for i in range(size) if i not in taken], recipe.check)
