"""Choose the labeled rows that a recipe fits on, trains on and checks on.

Rows are drawn with the recipe's seed from the labeled ones among the first `POOL_ROWS` rows of the
dataset. No row is used for two purposes.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from hf_lorameta.data.dataset import Dataset
from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Row

POOL_ROWS = 1000
MIN_ROWS, MIN_TRAINING_ROWS = 4, 8


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
    to_fit = _draw(recipe, len(pool)).fit
    if recipe.refine is not None and len(to_fit) < MIN_ROWS:
        raise EmptyDatasetError(
            f"{len(to_fit)} labeled rows to refine on, expected at least {MIN_ROWS}",
            hint="leave out --refine, or name a dataset with more rows",
        )
    return [pool[i] for i in to_fit]


def rows_to_train(recipe: Recipe, pool: Sequence[Row]) -> list[Row]:
    """Draw ``recipe.train`` rows to train on, none of them fitted on.

    Args:
        recipe: its `refine`, `train`, `check` and `seed` count.
        pool: labeled rows, see `labeled_pool`.

    Raises:
        EmptyDatasetError: fewer than 8 rows are left.
    """
    to_train = _draw(recipe, len(pool)).train
    if recipe.train is not None and len(to_train) < MIN_TRAINING_ROWS:
        raise EmptyDatasetError(
            f"{len(to_train)} of {len(pool)} labeled rows to train on, expected at least "
            f"{MIN_TRAINING_ROWS}",
            hint="leave out --train, lower --refine, or name a dataset with more rows",
        )
    return [pool[i] for i in to_train]


def rows_to_check(recipe: Recipe, pool: Sequence[Row]) -> list[Row]:
    """Draw ``recipe.check`` rows to check on, none of them fitted or trained on.

    Args:
        recipe: its `refine`, `train`, `check` and `seed` count.
        pool: labeled rows, see `labeled_pool`.

    Raises:
        EmptyDatasetError: fewer than 4 rows are left.
    """
    drawn = _draw(recipe, len(pool))
    to_check = drawn.check
    if len(to_check) < MIN_ROWS:
        left = f" left by --refine {recipe.refine}" if drawn.fit else ""
        raise EmptyDatasetError(
            f"{len(to_check)} of {len(pool)} labeled rows{left} to check on, expected at least "
            f"{MIN_ROWS}",
            hint="leave out --check, lower --refine or --train, or name a dataset with more rows",
        )
    return [pool[i] for i in to_check]


def rows_used(provenance: Mapping[str, Any], dataset: Dataset) -> list[Row]:
    """Return the rows of a dataset that an adapter was fitted, trained or checked on.

    They say nothing about how good the adapter is. A private dataset's name is not stored with
    an adapter, so it is recognized by its split, columns and number of rows.

    Args:
        provenance: of the adapter, as `read_provenance` returns it.
        dataset: to be scored.

    Raises:
        RecipeError: the adapter's recipe is not one of this version.
    """
    stored = provenance["dataset"]
    settings = ("refine", "train", "check", "seed", "max_rows")
    recipe = Recipe.of(**{k: v for k, v in provenance["recipe"].items() if k in settings})
    if not recipe.uses_rows:
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
    return [pool[i] for indices in _draw(recipe, len(pool)) for i in indices]


def _count_labeled(dataset: Dataset, limit: int | None) -> int:
    return sum(1 for _, output in islice(dataset.rows(), limit) if output)


class _Drawn(NamedTuple):
    """Indices of the rows to fit, to train and to check on."""

    fit: list[int]
    train: list[int]
    check: list[int]


def _draw(recipe: Recipe, size: int) -> _Drawn:
    """Draw from `size` rows. Rows to check on come before those to train on if there are few."""
    left = list(range(size))

    def sample(count: int | None, keep: int = 0) -> list[int]:
        nonlocal left
        count = min(count or 0, max(len(left) - keep, 0))
        drawn = random.Random(recipe.seed).sample(left, count)
        taken = set(drawn)
        left = [i for i in left if i not in taken]
        return drawn

    to_fit = sample(recipe.refine)
    to_train = sample(recipe.train, keep=recipe.check or 0)
    return _Drawn(to_fit, to_train, sample(recipe.check))
