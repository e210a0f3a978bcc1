"""Draw the rows of a dataset that an adapter is made with.

Many datasets are sorted by label, so a pool of distinct labeled rows (`POOL_ROWS`, or as many as
are needed if that is more) is first drawn from all rows that are read. The rows for each purpose
are then drawn from the pool, stratified by output: first those to train on, so that a recipe with
their number draws the same ones. All draws use the recipe's seed, and no row is used for two
purposes. `rows_used` draws them again, for an adapter that is to be scored.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from hf_lorameta.cards.record import Made
from hf_lorameta.cards.results import Drawn
from hf_lorameta.data.counts.sample import RowSample, draw_stratified
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.data.sources.split_names import slice_bounds, split_name
from hf_lorameta.errors import EmptyDatasetError, Option
from hf_lorameta.training.settings import MOST_FEW_ROWS
from hf_lorameta.types import Row

logger = logging.getLogger(__name__)

POOL_ROWS = 2048
"""Rows of the pool, unless the recipe needs more."""
MOST_ROWS = 2000
"""How many rows are trained on within a budget, at most."""
MIN_ROWS, MIN_TRAINING_ROWS = 4, 8
"""Fewest rows to check on, and to train on or hold out."""
SHOTS = 3
"""Examples in a few-shot prompt."""
_HELD_OUT_SHARE, _MOST_HELD_OUT = 4, 48
"""One row in 4 is held out, at most 48."""


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset by purpose. No row is in two lists, except in `foldable` and `prompt`.

    Attributes:
        train: to train on.
        held_out: to count right answers on, unless `check` has rows.
        foldable: all rows to train on or to hold out, if they are so few that folds may replace
            held-out rows; the adapter is then trained on all of them.
        check: to check on, where the recipe asks for that.
        prompt: examples for a prompt, possibly fewer than `SHOTS`. The adapter may have been
            trained on them, too.
        pool: number of rows that all were drawn from.
    """

    train: tuple[Row, ...] = ()
    held_out: tuple[Row, ...] = ()
    foldable: tuple[Row, ...] = ()
    check: tuple[Row, ...] = ()
    prompt: tuple[Row, ...] = ()
    pool: int = 0

    @property
    def used(self) -> list[Row]:
        """All rows that shape the adapter or its report: scores on them are meaningless."""
        return [*self.train, *self.held_out, *self.check]

    @property
    def drawn(self) -> Drawn:
        """The numbers of rows by purpose, from which they can be drawn again."""
        return Drawn(self.pool, len(self.train), len(self.held_out), len(self.check))


@dataclass(frozen=True)
class RowsAsked:
    """For what, and how, rows are drawn.

    Attributes:
        train: how many to train on; None is none, or all.
        steps: whether the number of steps is stated, too, as of a training that is repeated.
        check: how many to check on.
        count: whether right answers are counted where there is no check.
        all_rows: whether all are trained on if `train` is None.
        seed: of drawing.
    """

    train: int | None = None
    steps: bool = False
    check: int = 0
    count: bool = True
    all_rows: bool = False
    seed: int = 0

    @property
    def numbers(self) -> dict[str, int]:
        """How many labeled rows are asked for, by the setting: `train` and `check`.

        Example:
            >>> RowsAsked(train=16).numbers
            {'train': 16}
        """
        return {name: n for name, n in (("train", self.train), ("check", self.check)) if n}

    @property
    def pool(self) -> int:
        """How many rows the pool has, at most; 0 if none are needed.

        The settings of an adapter that is trained state how many rows it was trained on, perhaps
        fewer than were asked for. Its pool must be the same.
        """
        if not (self.numbers or self.all_rows):
            return 0
        return max(POOL_ROWS, (self.train or 0) + _MOST_HELD_OUT) + self.check


def rows_for(asked: RowsAsked, pool: Sequence[Row]) -> Rows:
    """Draw the rows that a request needs.

    All rows are trained on except those to check on. Without a check, a quarter, at most 48, is
    held out if right answers are counted; where steps are stated, only rows that are not trained
    on.

    Args:
        asked: the numbers.
        pool: labeled rows, see `RowsAsked.pool`.

    Raises:
        EmptyDatasetError: fewer than 4 rows to check on, or fewer than 8 to train on or hold out,
            where some are asked for.

    Example:
        >>> pool = [(f"{i}", "a") for i in range(200)]
        >>> rows = rows_for(RowsAsked(all_rows=True), pool)
        >>> len(rows.train), len(rows.held_out), len(rows.foldable)
        (152, 48, 0)
        >>> rows = rows_for(RowsAsked(all_rows=True), pool[:16])
        >>> len(rows.train), len(rows.held_out), len(rows.foldable)
        (12, 4, 16)
    """
    all_rows, seed = asked.all_rows and asked.train is None, asked.seed
    check = min(asked.check, len(pool))
    others = len(pool) - check
    most = min(asked.train or (MOST_ROWS if all_rows else 0), others)
    held_out = min(others // _HELD_OUT_SHARE, _MOST_HELD_OUT)
    held_out = held_out if asked.count and not check else 0
    train = most if asked.steps else min(most, others - held_out)
    held_out = min(held_out, others - train) if most else 0
    rows = draw_rows(Drawn(len(pool), train, held_out, check), pool, seed)
    if train < most <= MOST_FEW_ROWS:
        rows = replace(rows, foldable=tuple(draw_stratified(pool, most, seed)))
    require_rows(rows, asked)
    if all_rows and (labeled := rows.drawn.to_train) < MIN_TRAINING_ROWS:
        uncounted = ", and no right answers are counted" if asked.count and not check else ""
        logger.warning(
            "Not trained%s: that takes at least %d labeled rows, got %d",
            uncounted, MIN_TRAINING_ROWS, labeled,
        )  # fmt: skip
        return draw_rows(Drawn(len(pool), 0, 0, check), pool, seed)
    return rows


def draw_rows(drawn: Drawn, pool: Sequence[Row], seed: int) -> Rows:
    """Draw so many rows for each purpose.

    Args:
        drawn: the numbers.
        pool: labeled rows, see `RowsAsked.pool`; if there are fewer than the numbers add up to, the
            last purposes get fewer.
        seed: of drawing.

    Example:
        >>> rows = draw_rows(Drawn(20, 8, 4, 0), [(f"{i}", "a") for i in range(20)], seed=0)
        >>> len(rows.train), len(rows.held_out), len(rows.prompt)
        (8, 4, 3)
    """
    left = list(pool)

    def draw(count: int) -> tuple[Row, ...]:
        nonlocal left
        rows = draw_stratified(left, count, seed)
        taken = set(rows)
        left = [row for row in left if row not in taken]
        return tuple(rows)

    train, held_out, check = draw(drawn.train), draw(drawn.held_out), draw(drawn.check)
    examples = draw(SHOTS)
    prompt = (*examples, *train)[:SHOTS]
    return Rows(train, held_out, (), check, prompt, len(pool))


def require_rows(rows: Rows, asked: RowsAsked) -> None:
    """Raise if there are too few labeled rows for a request; log if there are fewer than asked.

    Raises:
        EmptyDatasetError: fewer than 4 rows to check on, or fewer than 8 to train on or hold out.
    """
    # with steps, it may repeat a training of fewer rows: others were held out
    least = {"train": 1 if asked.steps else MIN_TRAINING_ROWS, "check": MIN_ROWS}
    counts = {"train": rows.drawn.to_train, "check": rows.drawn.check}
    for name, number in asked.numbers.items():
        if (drawn := counts[name]) < least[name]:
            others = [other for other in asked.numbers if other != name]
            raise EmptyDatasetError(
                f"{drawn} labeled rows left to {name} on, expected at least {least[name]}",
                code="rows.too-few",
                hint=[
                    Option(name, change="leave out"),
                    *(Option(other, change="lower") for other in others),
                    "name a dataset with more rows",
                ],
            )
        if drawn < number:
            logger.info("Only %d labeled rows are left to %s on, not %d", drawn, name, number)


# --- the pool ------------------------------------------------------------------------------------


def row_sample(seed: int, size: int) -> RowSample:
    """Return the sample that draws a pool of this size."""
    return RowSample(size, f"{seed} pool")


def is_sampled(dataset: Dataset, most: int | None) -> bool:
    """Whether a part of a large split is read, evenly spread.

    Args:
        dataset: an opened dataset.
        most: as `max_rows` of a recipe.
    """
    whole = split_name(dataset.split) == dataset.split and dataset.limits.rows is None
    return most is None and whole and dataset.sampled is not None


def rows_to_read(dataset: Dataset, most: int | None) -> Iterator[Row]:
    """Return the rows that are read for a plan; arguments as for `is_sampled`."""
    if is_sampled(dataset, most) and dataset.sampled:
        return dataset.sampled()
    return islice(dataset.rows(), most or None)


# --- the rows of a finished adapter --------------------------------------------------------------


def rows_used(made: Made, dataset: Dataset) -> list[Row] | None:
    """Return the rows of a dataset that an adapter was trained or checked on.

    Scores on them do not show how good the adapter is.

    Args:
        made: of the adapter's record.
        dataset: to be scored.

    Returns:
        None if rows of this split were used but cannot be identified, because it is read at another
        revision or with other columns, or the caller drew the rows.
    """
    ran = made.rows or made.training or made.check
    if not (ran and _is_adapted_split(made, dataset)):
        return []
    stored, drawn = made.dataset, made.rows
    if stored.columns != dataset.columns or stored.revision not in (None, dataset.revision):
        return None
    if not drawn:
        return None
    sample = row_sample(made.recipe["seed"], drawn.pool)
    sample.draw_from(_adapted_rows(made, dataset))
    return draw_rows(drawn, sample.rows, made.recipe["seed"]).used


_ROLES = ("instruction", "input", "choices", "messages", "output")
"""What says which columns are read; the text around them may differ, as between merged adapters."""


def is_adapted(made: Made, dataset: Dataset) -> bool:
    """Whether an adapter was generated for rows of this split, or of a slice that overlaps it.

    A private dataset's name is not stored with an adapter, so it is recognized by its split,
    columns and number of rows.

    Args:
        made: of the adapter's record.
        dataset: any dataset.
    """
    if not _is_adapted_split(made, dataset):
        return False
    (start, stop), (first, end) = map(slice_bounds, (made.dataset.split, dataset.split))
    return (stop is None or first < stop) and (end is None or start < end)


def _is_adapted_split(made: Made, dataset: Dataset) -> bool:
    stored = made.dataset
    if split_name(stored.split) != split_name(dataset.split):
        return False
    if not stored.private:
        return (stored.id, stored.config) == (dataset.id, dataset.config)
    if any(getattr(stored.columns, role) != getattr(dataset.columns, role) for role in _ROLES):
        return False
    return stored.rows == sum(1 for _, output in _adapted_rows(made, dataset) if output)


def _adapted_rows(made: Made, dataset: Dataset) -> Iterator[Row]:
    """Yield the rows of a dataset's split that were read for an adapter."""
    bounds, most = slice_bounds(made.dataset.split), made.recipe["max_rows"]
    whole = replace(dataset, rows=dataset.whole, split=made.dataset.split)
    if is_sampled(whole, most):
        return rows_to_read(whole, most)
    return islice(islice(dataset.whole(), *bounds), most or None)
