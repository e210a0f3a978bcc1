"""Generate an adapter from Python, as ``hf-lorameta generate`` does."""

import logging
from pathlib import Path
from typing import Any, Unpack

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.dataset import ReadingOptions
from hf_lorameta.pipeline.budget import budget_seconds
from hf_lorameta.pipeline.generation import Generation
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.mixture import Mixture
from hf_lorameta.pipeline.prepare import prepare
from hf_lorameta.pipeline.progress import bars_unless, with_progress
from hf_lorameta.pipeline.session import LoadedModel, Session
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import StageProgress

logger = logging.getLogger(__name__)


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
