"""Choose the labeled rows that a recipe fits on, trains on and checks on.

Many datasets are sorted by label, so a pool of distinct labeled rows (`POOL_ROWS`, or as many as
are needed if that is more) is first drawn from all rows that are read. The rows for each purpose
are then drawn from the pool, stratified by output. All draws use the recipe's seed, and no row is
used for two purposes. Of some rows, only the outputs are used, see `RowsToTrain`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from hf_lorameta.cards.prompt_code import is_example
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.data.sample import RowSample, draw_stratified
from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.hub.split_names import slice_bounds, split_name
from hf_lorameta.recipe import Recipe
from hf_lorameta.training.few_rows_settings import held_out_rows, other_outputs
from hf_lorameta.types import Row

POOL_ROWS = 1000
MIN_ROWS, MIN_TRAINING_ROWS, SHOTS = 4, 8, 3
_MISSING_SHARE = 0.5
"""Other rows decide if more of them, by this share of all, have an output of a row to train on than
rows to train on have that of another. Chosen on tasks that nothing is reported on, see
``hf_lorameta/training/README.md``."""


def pool_size(recipe: Recipe) -> int:
    """Return how many rows the pool of a recipe has, at most."""
    asked = sum(count or 0 for count in (recipe.refine, recipe.train, recipe.check))
    return max(POOL_ROWS, asked)


class PoolReader:
    """Reads rows once, for two purposes: the profile, and the pool to fit, train and check on.

    Args:
        rows: of a dataset.
        recipe: without `refine`, `train` and `check`, the pool is empty.

    Attributes:
        example: the first row so far that suits a card, see
            `hf_lorameta.cards.prompt_code.is_example`.
    """

    def __init__(self, rows: Iterable[Row], recipe: Recipe) -> None:
        self._rows, self._recipe = iter(rows), recipe
        self._size = pool_size(recipe)
        self._sample = RowSample(self._size, f"{recipe.seed} pool")
        self.example: Row | None = None

    def profiled(self) -> Iterator[Row]:
        """Yield at most ``recipe.max_rows`` rows."""
        rows = self._keeping_example(islice(self._rows, self._recipe.max_rows))
        return self._sample.of(rows) if self._recipe.uses_rows else rows

    def _keeping_example(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            if self.example is None and is_example(row):
                self.example = row
            yield row

    def pool(self) -> list[Row]:
        """Return the pool of the rows that were read, and of more if they are fewer than a pool."""
        limit = self._recipe.max_rows
        if self._recipe.uses_rows and limit is not None:
            self._sample.draw_from(islice(self._rows, max(self._size - limit, 0)))
        return self._sample.rows


def labeled_pool(rows: Iterable[Row], recipe: Recipe) -> list[Row]:
    """Return the pool of a dataset that was profiled with this recipe, by reading it again."""
    reader = PoolReader(rows, recipe)
    for _ in reader.profiled():
        pass
    return reader.pool()


def rows_to_fit(recipe: Recipe, pool: Sequence[Row]) -> list[Row]:
    """Draw ``recipe.refine`` rows to fit on.

    Args:
        recipe: its `refine` and `seed` count.
        pool: labeled rows, see `labeled_pool`.

    Raises:
        EmptyDatasetError: fewer than 4 rows.
    """
    to_fit = _draw(recipe, pool).fit
    if recipe.refine is not None:
        hint = "leave out --refine, or name a dataset with more rows"
        _require(to_fit, MIN_ROWS, "labeled rows to refine on", hint)
    return to_fit


class RowsToTrain(NamedTuple):
    """Rows to train an adapter on, and others of the dataset that take part, if there are enough.

    Attributes:
        train: to train on.
        outputs: their outputs alone take part in training on few rows, see
            `hf_lorameta.training.few_rows`.
        decide: as many rows as `train`, which decide how long to train where cross-validation
            cannot: where most labels have a single row in `train`, although most new rows have one
            of these labels. Else empty, see `_MISSING_SHARE`.
    """

    train: list[Row]
    outputs: list[Row]
    decide: list[Row]


def rows_to_train(recipe: Recipe, pool: Sequence[Row]) -> RowsToTrain:
    """Draw ``recipe.train`` rows to train on, none of them fitted on, and others that take part.

    Args:
        recipe: its `refine`, `train`, `check` and `seed` count.
        pool: labeled rows, see `labeled_pool`.

    Raises:
        EmptyDatasetError: fewer than 8 rows are left.
    """
    to_train = _draw(recipe, pool).train
    if recipe.train is not None:
        lower = " lower --refine," if recipe.refine else ""
        hint = f"leave out --train,{lower} or name a dataset with more rows"
        which = f"of {len(pool)} labeled rows to train on with --train {recipe.train}"
        _require(to_train.train, MIN_TRAINING_ROWS, which, hint)
    return to_train


def rows_to_check(recipe: Recipe, pool: Sequence[Row]) -> list[Row]:
    """Draw ``recipe.check`` rows to check on, none of them fitted or trained on.

    Args:
        recipe: its `refine`, `train`, `check` and `seed` count.
        pool: labeled rows, see `labeled_pool`.

    Raises:
        EmptyDatasetError: fewer than 4 rows are left.
    """
    drawn = _draw(recipe, pool)
    left = f" left by --refine {recipe.refine}" if drawn.fit else ""
    hint = "leave out --check, lower --refine or --train, or name a dataset with more rows"
    _require(drawn.check, MIN_ROWS, f"of {len(pool)} labeled rows{left} to check on", hint)
    return drawn.check


def _require(rows: Sequence[Row], least: int, which: str, hint: str) -> None:
    if len(rows) < least:
        raise EmptyDatasetError(f"{len(rows)} {which}, expected at least {least}", hint=hint)


def rows_for_prompt(recipe: Recipe, pool: Sequence[Row]) -> list[Row]:
    """Draw examples for a prompt, none of them checked on; possibly fewer than `SHOTS`.

    They may have been fitted or trained on: the prompt gets what the adapter had.
    """
    drawn = _draw(recipe, pool)
    return [*drawn.prompt, *drawn.train.train, *drawn.fit][:SHOTS]


def rows_used(provenance: Mapping[str, Any], dataset: Dataset) -> list[Row] | None:
    """Return the rows of a dataset that an adapter was fitted, trained or checked on.

    Scores on them say nothing about how good the adapter is. Rows whose outputs alone were trained
    on are among them.

    Args:
        provenance: of the adapter, as `read_provenance` returns it.
        dataset: to be scored.

    Returns:
        None if rows of this split were used but cannot be identified, because it is read at another
        revision, with other columns, or with another limit of a text, or the rows trained on were
        not drawn by the recipe.

    Raises:
        RecipeError: the adapter's recipe is not one of this version.
    """
    settings = ("refine", "train", "check", "seed", "max_rows", "max_text")
    recipe = Recipe.of(**{k: v for k, v in provenance["recipe"].items() if k in settings})
    if not recipe.uses_rows or not _is_adapted_split(provenance, dataset):
        return []
    stored = provenance["dataset"]
    read = dataset.columns.model_dump(exclude_none=True)
    if stored.get("columns") != read or stored["revision"] not in (None, dataset.revision):
        return None
    given = (provenance.get("training") or {}).get("given_rows", False)
    if given or recipe.reading_limits.text != dataset.limits.text:
        return None
    drawn = _draw(recipe, labeled_pool(_adapted_rows(provenance, dataset), recipe))
    return [*drawn.fit, *chain(*drawn.train), *drawn.check]


def is_adapted(provenance: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether an adapter was generated for rows of this split, or of a slice that overlaps it.

    A private dataset's name is not stored with an adapter, so it is recognized by its split,
    columns and number of rows.

    Args:
        provenance: of the adapter, as `read_provenance` returns it.
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
    if stored.get("columns") != dataset.columns.model_dump(exclude_none=True):
        return False
    limit = provenance["recipe"].get("max_rows")
    labeled = (output for _, output in islice(_adapted_rows(provenance, dataset), limit) if output)
    return bool(stored.get("rows") == sum(1 for _ in labeled))


def _adapted_rows(provenance: Mapping[str, Any], dataset: Dataset) -> Iterator[Row]:
    """Yield the rows of the slice that an adapter was generated for, of a dataset's whole split."""
    rows = (dataset.whole or dataset.rows)()
    return islice(rows, *slice_bounds(provenance["dataset"]["split"]))


class _Drawn(NamedTuple):
    """Rows to fit, to train and to check on, and others for a prompt."""

    fit: list[Row]
    train: RowsToTrain
    check: list[Row]
    prompt: list[Row]


def _draw(recipe: Recipe, pool: Sequence[Row]) -> _Drawn:
    """Draw from the pool. Rows to check on come before those to train on if there are few."""
    left = list(pool)

    def draw(count: int | None, keep: int = 0) -> list[Row]:
        nonlocal left
        drawn = draw_stratified(left, min(count or 0, max(len(left) - keep, 0)), recipe.seed)
        taken = set(drawn)
        left = [row for row in left if row not in taken]
        return drawn

    to_fit = draw(recipe.refine)
    to_train = draw(recipe.train, keep=recipe.check or 0)
    to_check = draw(recipe.check)
    examples = draw(SHOTS)
    undecided = len(to_train) <= len(left) and _share_too_few_outputs(to_train, left)
    to_decide = draw(len(to_train) if undecided else 0)
    count = other_outputs(len(to_train))
    outputs = draw(count if count <= len(left) else 0)
    return _Drawn(to_fit, RowsToTrain(to_train, outputs, to_decide), to_check, examples)


def _share_too_few_outputs(rows: Sequence[Row], others: Sequence[Row]) -> bool:
    """Whether rows share outputs much less among themselves than with others of the dataset."""
    if not rows or not others or held_out_rows(len(rows)):
        return False
    counts = Counter(output.strip() for _, output in rows)
    among = sum(count for count in counts.values() if count > 1) / len(rows)
    with_others = sum(output.strip() in counts for _, output in others) / len(others)
    return with_others - among >= _MISSING_SHARE
