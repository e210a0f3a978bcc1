"""Draw the rows of a dataset that an adapter is made with.

Many datasets are sorted by label, so a pool of distinct labeled rows (`POOL_ROWS`, or as many as
are needed if that is more) is first drawn from all rows that are read. The rows for each purpose
are then drawn from the pool, stratified by output. All draws use the recipe's seed, and no row is
used for two purposes. `rows_used` draws them again, for an adapter that is to be scored.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from hf_lorameta.data.counts.sample import RowSample, draw_stratified
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.data.sources.split_names import slice_bounds, split_name
from hf_lorameta.errors import EmptyDatasetError, Option
from hf_lorameta.pipeline.resolve import CHECK_ROWS, Resolved
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Row

logger = logging.getLogger(__name__)

POOL_ROWS = 2048
MOST_ROWS = 2000
"""How many rows are trained on within a budget, at most."""
MIN_ROWS, MIN_TRAINING_ROWS, SHOTS = 4, 8, 3
_CHECKED_SHARE = 4
"""At most one row in this many is checked on by default."""


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset by purpose. No row is in two lists, except those of the prompt.

    Attributes:
        train: to train on.
        check: to check on.
        prompt: examples for a prompt, possibly fewer than `SHOTS`. The adapter may have been
            trained on them, too.
    """

    train: tuple[Row, ...] = ()
    check: tuple[Row, ...] = ()
    prompt: tuple[Row, ...] = ()

    @property
    def used(self) -> list[Row]:
        """All rows that shape the adapter or its report: scores on them are meaningless."""
        return [*self.train, *self.check]


def rows_for(resolved: Resolved, pool: Sequence[Row]) -> Rows:
    """Draw the rows that a resolved request needs.

    Within a budget, all rows are trained on except those checked on, at most a quarter. A recipe
    that says how many rows to train on draws the same ones with and without rows to check on.

    Args:
        resolved: what to do.
        pool: labeled rows, see `pool_of`.

    Raises:
        EmptyDatasetError: fewer than 4 rows to check on, or fewer than 8 to train on, where the
            recipe asks for some.

    Example:
        >>> pool = [(f"{i}", "a") for i in range(40)]
        >>> rows = rows_for(Resolved(Recipe(), seconds=60.0, check=16), pool)
        >>> len(rows.train), len(rows.check)
        (30, 10)
    """
    rows = _draw(resolved.recipe, pool, resolved.check, all_others=bool(resolved.seconds))
    require_rows(rows, resolved.recipe)
    if resolved.seconds and len(rows.train) < MIN_TRAINING_ROWS:
        logger.warning(
            "Not trained: %d labeled rows to train on, expected at least %d",
            len(rows.train), MIN_TRAINING_ROWS,
        )  # fmt: skip
        return replace(rows, train=())
    return rows


def _draw(recipe: Recipe, pool: Sequence[Row], check: int, *, all_others: bool) -> Rows:
    """Draw the rows of a recipe; with `all_others`, train on all that are not checked on."""
    check = min(check, len(pool) // _CHECKED_SHARE)
    check = check if check >= MIN_ROWS else 0
    if all_others:
        most = min(MOST_ROWS, len(pool) - (recipe.check or check))
        recipe = recipe.model_copy(update={"train": max(most, 0)})
    return draw_rows(recipe, pool, check)


def draw_rows(recipe: Recipe, pool: Sequence[Row], check: int = 0) -> Rows:
    """Draw the rows that a recipe asks for; possibly fewer, see `require_rows`.

    Args:
        recipe: only its numbers of rows and its seed are used.
        pool: labeled rows, see `pool_of`.
        check: rows to check on if the recipe asks for none.

    Example:
        >>> rows = draw_rows(Recipe(check=4), [(f"{i}", "a") for i in range(20)])
        >>> len(rows.check), len(rows.prompt), len(rows.train)
        (4, 3, 0)
    """
    left = list(pool)

    def draw(count: int | None, keep: int = 0) -> tuple[Row, ...]:
        nonlocal left
        drawn = draw_stratified(left, min(count or 0, max(len(left) - keep, 0)), recipe.seed)
        taken = set(drawn)
        left = [row for row in left if row not in taken]
        return tuple(drawn)

    train = draw(recipe.train, keep=recipe.check or 0)  # if rows are few, the check comes first
    checked = draw(recipe.check or check)
    examples = draw(SHOTS)
    prompt = (*examples, *train)[:SHOTS]
    return Rows(train, checked, prompt)


def require_rows(rows: Rows, recipe: Recipe) -> None:
    """Raise if there are too few labeled rows for a recipe; log if there are fewer than asked.

    Raises:
        EmptyDatasetError: fewer than 4 rows to check on, or fewer than 8 to train on.
    """
    least = {"train": MIN_TRAINING_ROWS, "check": MIN_ROWS}
    for name, asked in recipe.rows_asked.items():
        if (drawn := len(getattr(rows, name))) < least[name]:
            others = [other for other in recipe.rows_asked if other != name]
            raise EmptyDatasetError(
                f"{drawn} labeled rows left to {name} on, expected at least {least[name]}",
                hint=[
                    Option(name, change="leave out"),
                    *(Option(other, change="lower") for other in others),
                    "name a dataset with more rows",
                ],
            )
        if drawn < asked:
            logger.info("Only %d labeled rows are left to %s on, not %d", drawn, name, asked)


# --- the pool ------------------------------------------------------------------------------------


def pool_size(recipe: Recipe) -> int:
    """Return how many rows a recipe's pool has, at most."""
    return max(POOL_ROWS, sum(recipe.rows_asked.values()))


def row_sample(recipe: Recipe, size: int) -> RowSample:
    """Return the sample that draws a pool of this size."""
    return RowSample(size, f"{recipe.seed} pool")


def pool_of(rows: Iterable[Row], recipe: Recipe) -> tuple[Row, ...]:
    """Return a recipe's pool, drawn from the rows that it reads."""
    sample = row_sample(recipe, pool_size(recipe))
    sample.draw_from(islice(rows, recipe.max_rows))
    return tuple(sample.rows)


# --- the rows of a finished adapter --------------------------------------------------------------


_DRAWN_BY = ("seed", "max_rows", "train", "check")
"""Settings that decide which rows are drawn."""


def rows_used(provenance: Mapping[str, Any], dataset: Dataset) -> list[Row] | None:
    """Return the rows of a dataset that an adapter was trained or checked on.

    Scores on them do not show how good the adapter is.

    Args:
        provenance: content of the adapter's ``recipe.json``.
        dataset: to be scored.

    Returns:
        None if rows of this split were used but cannot be identified, because it is read at another
        revision or with other columns, or its rows were not drawn by the recipe, or an earlier
        version drew rows to fit the adapter on as well.

    Raises:
        RecipeError: the adapter's recipe states rows as no recipe of this version can.
    """
    stated = provenance["recipe"]
    recipe = Recipe.of(**{name: stated[name] for name in _DRAWN_BY if name in stated})
    checked = CHECK_ROWS if provenance.get("check") and recipe.check is None else 0
    fitted = stated.get("fit") is not None  # by a version that had such a setting
    asked = fitted or recipe.rows_asked or checked
    if not asked or not _is_adapted_split(provenance, dataset):
        return []
    stored = provenance["dataset"]
    read = dataset.columns.model_dump(exclude_none=True)
    if stored.get("columns") != read or stored["revision"] not in (None, dataset.revision):
        return None
    steps = (provenance.get(step) or {} for step in ("training", "check"))
    if fitted or any(step.get("given_rows", False) for step in steps):
        return None
    pool = pool_of(_adapted_rows(provenance, dataset), recipe)
    # a check that no recipe asked for goes with a training; one that did not help is not recorded
    rows = _draw(recipe, pool, checked, all_others=bool(checked) and not recipe.train)
    return (rows if recipe.train else replace(rows, train=())).used


_ROLES = ("instruction", "input", "choices", "messages", "output")
"""What says which columns are read; the text around them may differ, as between merged adapters."""


def is_adapted(provenance: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether an adapter was generated for rows of this split, or of a slice that overlaps it.

    A private dataset's name is not stored with an adapter, so it is recognized by its split,
    columns and number of rows.

    Args:
        provenance: content of the adapter's ``recipe.json``.
        dataset: any dataset.
    """
    if not _is_adapted_split(provenance, dataset):
        return False
    (start, stop), (first, end) = map(slice_bounds, (provenance["dataset"]["split"], dataset.split))
    return (stop is None or first < stop) and (end is None or start < end)


def _is_adapted_split(provenance: Mapping[str, Any], dataset: Dataset) -> bool:
    stored = provenance["dataset"]
    if split_name(stored.get("split") or "") != split_name(dataset.split):
        return False
    if not stored["private"]:
        return bool((stored["id"], stored.get("config")) == (dataset.id, dataset.config))
    columns, read = stored.get("columns") or {}, dataset.columns.model_dump(exclude_none=True)
    if any(columns.get(role) != read.get(role) for role in _ROLES):
        return False
    limit = provenance["recipe"].get("max_rows")
    labeled = (output for _, output in islice(_adapted_rows(provenance, dataset), limit) if output)
    return bool(stored.get("rows") == sum(1 for _ in labeled))


def _adapted_rows(provenance: Mapping[str, Any], dataset: Dataset) -> Iterator[Row]:
    """Yield the rows of a dataset's split, in the slice that an adapter was generated for."""
    return islice(dataset.whole(), *slice_bounds(provenance["dataset"]["split"]))
