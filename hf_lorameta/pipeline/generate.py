"""Generate an adapter: the steps from a dataset to it, as Python and the command line walk them."""

import logging
from dataclasses import replace
from os import environ
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.dataset import Dataset, DatasetInfo, ReadingOptions
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.errors import MissingExtraError
from hf_lorameta.hub.base_model import find_at_hand
from hf_lorameta.pipeline.budget import budget_seconds, most_rows, recipe_within
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.mixture import Mixture
from hf_lorameta.pipeline.plan import Plan, plan_from_reading
from hf_lorameta.pipeline.progress import bars_unless, with_progress
from hf_lorameta.pipeline.read import read_dataset, token_counting
from hf_lorameta.pipeline.rows import MIN_ROWS, Rows, draw_rows, pool_of, pool_size
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import LoadedModel, Session
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import StageProgress

logger = logging.getLogger(__name__)
CHECK_ROWS = 16
"""Number of rows that an adapter is checked on automatically."""
NO_CHECK = "HF_LORAMETA_NO_CHECK"
"""Environment variable that leaves the automatic check out, whatever its value."""
_LARGEST_CHECKED = 3e9
"""Larger base models take more than a minute on two cores, for loading and 16 rows."""


def generate(
    dataset: Any,
    bank: Bank | str | Path | None = None,
    recipe: Recipe | None = None,
    *,
    model: LoadedModel | None = None,
    token: str | None = None,
    budget: float | str | None = None,
    check: bool = True,
    progress: StageProgress | None = None,
    **reading: Unpack[ReadingOptions],
) -> Generation | Mixture:
    """Generate an adapter for a dataset, without training unless the recipe says so.

    Warnings and losses are logged.

    Args:
        dataset: Hub id, local file, opened `Dataset`, list of dictionaries, `pandas.DataFrame`,
            or dataset of the library `datasets`.
        bank: an opened bank, a folder or a Hub id; None opens the default bank.
        recipe: None is ``Recipe()``.
        model: the base model in transformers, on the CPU, and its tokenizer; the model is the same
            afterwards. None loads it if it is needed.
        token: of the Hub; None uses the saved one.
        budget: seconds, or a time such as ``"5m"``, to spend on training the adapter further, if
            that is possible; see `hf_lorameta.pipeline.budget.recipe_within`.
        check: score the adapter on 16 rows, unless the recipe says how many, if the base model is
            on this machine and small, and ``HF_LORAMETA_NO_CHECK`` is not set.
        progress: called with (stage, done, total, or 0 if it is not known); None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`.

    Returns:
        The adapter; or, if the recipe says so, a mixture of adapters.

    Raises:
        DatasetError: as `plan` raises.
        BankError: as `plan` raises.
        UsageError: the budget is no time, or does not go with the recipe.
        LoraMetaError: as `hf_lorameta.pipeline.make.make_adapter` raises.

    Example:
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> generate(TRAIN_FILE, recipe=Recipe(top_k=2), check=False)
        Generation(rank 16 for a local dataset, of 2 adapters of embedded bank)
    """
    recipe = recipe or Recipe()
    seconds = budget_seconds(budget, recipe)
    with bars_unless(progress) as show, Session(bank, token=token, model=model) as session:
        opened = session.open_dataset(dataset, **reading, limits=recipe.reading_limits)
        opened = with_progress(opened, show)
        prepared = prepare(opened, session, recipe, budget=seconds, check=check)
        plan = prepared.plan
        for reason in prepared.reasons:
            logger.log(logging.INFO if plan.recipe.train else logging.WARNING, reason)
        if plan.recipe.is_mixture:
            return Mixture(plan, show)
        generation = make_adapter(plan, prepared.rows, session, show)
    for line in generation.messages:
        logger.info(line)
    for warning in generation.plan.warnings:
        logger.warning(warning)
    return generation


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
            `with_check`.

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


# --- the automatic check --------------------------------------------------------------------------


def with_check(recipe: Recipe, dataset: DatasetInfo, session: Session) -> Recipe:
    """Add a check to a recipe if packages and base model are at hand and it takes under a minute.

    Such a check reports and warns. It neither scales nor refuses the adapter, so that the same
    recipe makes the same adapter on machines with and without the base model: the adapter's recipe
    has no check, only its rows have some to check on.

    Args:
        recipe: one with a check stays as it is, and so do one with training, which compares with
            the base model itself, one with a fit, which would get fewer rows because of the check,
            and one of a mixture.
        dataset: that will be read.
        session: runs the base model.

    Returns:
        The recipe to draw rows for.
    """
    if recipe.rows_asked or recipe.is_mixture or dataset.prompts_only:
        return recipe
    if environ.get(NO_CHECK) or not _is_ready(session):
        return recipe
    return recipe.model_copy(update={"check": CHECK_ROWS})


def _is_ready(session: Session) -> bool:
    """Whether packages and base model are on this machine, and the model is small."""
    index = session.bank.index
    try:
        require_eval()
    except MissingExtraError:
        return False
    if session.has_model:
        return True
    path = find_at_hand(index.base_model, index.base_revision)
    if path is None:
        return False
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) <= _LARGEST_CHECKED
