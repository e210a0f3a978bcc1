"""Plan and generate: the steps from a dataset to an adapter, for Python and the command line."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.dataset import Dataset, ReadingOptions
from hf_lorameta.pipeline.budget import budget_seconds
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.plan import Plan, plan_from_reading
from hf_lorameta.pipeline.progress import bars_unless
from hf_lorameta.pipeline.read import read_dataset, token_counting
from hf_lorameta.pipeline.resolve import Resolved, require_compatible, resolve
from hf_lorameta.pipeline.rows import POOL_ROWS, Rows, rows_for
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import LoadedModel, Session
from hf_lorameta.recipe import Recipe, as_recipe
from hf_lorameta.remarks import log_remarks
from hf_lorameta.types import StageProgress

logger = logging.getLogger(__name__)


def generate(
    dataset: Any,
    bank: Bank | str | Path | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    *,
    base: str | Path | None = None,
    base_revision: str | None = None,
    model: LoadedModel | None = None,
    token: str | None = None,
    budget: float | str | None = None,
    check: bool = True,
    progress: StageProgress | None = None,
    **reading: Unpack[ReadingOptions],
) -> Generation:
    """Generate an adapter for a dataset, and train it if the base model is on this machine.

    Warnings, losses and right answers are logged.

    Args:
        dataset: Hub id, local file, opened `Dataset`, list of dictionaries, `pandas.DataFrame`,
            or dataset of the library `datasets`.
        bank: an opened bank, a folder, a Hub id, or ``none`` for no bank. None is the default bank
            if it fits `base`, else the embedded one for it, else no bank.
        recipe: the settings, or a dictionary of them; None is ``Recipe()``.
        base: the base model: Hub id, folder or GGUF file; None is the bank's. Without a bank, the
            adapter is trained from scratch.
        base_revision: branch, tag or commit of the base model, if no bank is used.
        model: the base model in transformers, on the CPU, and its tokenizer; the model is left
            unchanged. None loads it if it is needed.
        token: of the Hub; None uses the saved one.
        budget: how long to train the adapter, in seconds or as a time such as ``"5m"``; training
            stops earlier if all steps are taken. 0 only combines adapters. None is two minutes if
            the extra ``eval`` is installed, the base model is on this machine and
            ``HF_LORAMETA_NO_BASE`` is not set, unless the recipe says how many rows to train on.
        check: count right answers on rows that the adapter was not trained on, if the base model
            is on this machine or there is a budget.
        progress: called with (stage, done, total), where total is 0 if unknown; None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`.

    Returns:
        The adapter.

    Raises:
        DatasetError: as `plan` raises.
        BankError: as `plan` raises.
        UsageError: the budget is not a time; or as `hf_lorameta.pipeline.resolve.resolve` raises.
        LoraMetaError: as `hf_lorameta.pipeline.make.make_adapter` raises.
        KeyboardInterrupt: Ctrl-C, unless in a training after its first steps, or in the check after
            it: then the adapter so far is returned, with a warning.

    Example:
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> generate(TRAIN_FILE, recipe=Recipe(top_k=2), budget=0)
        Generation(rank 16 for a local dataset, of 2 adapters of embedded bank)
    """
    recipe, seconds = as_recipe(recipe), budget_seconds(budget)
    with (
        bars_unless(progress) as shown,
        Session(
            bank, base=base, base_revision=base_revision, token=token, model=model, progress=shown
        ) as session,
    ):
        opened = session.open_dataset(dataset, **reading)
        resolved = resolve(opened, session, recipe, budget=seconds, check=check)
        return make(opened, session, resolved)


def plan(
    dataset: Any,
    bank: Bank | str | Path | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    *,
    base: str | Path | None = None,
    base_revision: str | None = None,
    token: str | None = None,
    progress: StageProgress | None = None,
    **reading: Unpack[ReadingOptions],
) -> Plan:
    """Read a dataset, measure its distances to the bank, and choose coefficients.

    Args:
        dataset: Hub id, local file, opened `Dataset`, list of dictionaries, `pandas.DataFrame`,
            or dataset of the library `datasets`.
        bank: an opened bank, a folder, a Hub id, or ``none`` for no bank. None is the default bank
            if it fits `base`, else the embedded one for it, else no bank.
        recipe: the settings, or a dictionary of them; None is ``Recipe()``.
        base: the base model, a Hub id or a folder; None is the bank's.
        base_revision: branch, tag or commit of the base model, if no bank is used.
        token: of the Hub; None uses the saved one.
        progress: called with (stage, done, total), where total is 0 if unknown; None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`.

    Raises:
        DatasetError: the dataset cannot be read as labeled rows.
        BankError: the bank is empty or damaged, or lacks the neural rule that was asked for.
        UsageError: the base model cannot be used, or `base_revision` is given for a bank's base
            model.
        HubError: a repo is missing, private or gated, or the Hub cannot be reached.
    """
    recipe = as_recipe(recipe)
    with (
        bars_unless(progress) as shown,
        Session(
            bank, base=base, base_revision=base_revision, token=token, progress=shown
        ) as session,
    ):
        opened = session.open_dataset(dataset, **reading)
        require_compatible(recipe, session.bank, opened)
        return plan_dataset(opened, session.bank, recipe)


def plan_dataset(dataset: Dataset, bank: Bank, recipe: Recipe) -> Plan:
    """Plan an adapter for an opened dataset, with settings that suit it.

    Args:
        dataset: an opened dataset.
        bank: the bank.
        recipe: settings that `resolve` or `require_compatible` has checked.

    Raises:
        LoraMetaError: as `plan` raises.
    """
    return plan_from_reading(read_dataset(dataset, recipe, token_counting(bank)), bank)


def plan_with_rows(dataset: Dataset, session: Session, resolved: Resolved) -> tuple[Plan, Rows]:
    """Read a dataset once, plan, and draw the rows to train and check on.

    Raises:
        LoraMetaError: as `plan` and `hf_lorameta.pipeline.rows.rows_for` raise.
    """
    collect = POOL_ROWS if resolved.stages else 0
    counting = token_counting(session.bank)
    reading = read_dataset(dataset, resolved.recipe, counting, collect=collect)
    plan = plan_from_reading(reading, session.bank)
    all_rows = resolved.trains_on_all
    rows = rows_for(resolved.recipe, reading.pool, all_rows=all_rows, count=resolved.counts)
    return plan, rows


@contextmanager
def _said_that_nothing_is_kept() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note("Interrupted before an adapter was made: nothing was saved. Run it again")
        raise


@_said_that_nothing_is_kept()
def make(dataset: Dataset, session: Session, resolved: Resolved) -> Generation:
    """Read a dataset, plan, draw rows, and make the adapter; log what was done, and warnings.

    Args:
        dataset: an opened dataset.
        session: as for `hf_lorameta.pipeline.resolve.resolve`.
        resolved: what to do.

    Raises:
        LoraMetaError: as `plan` and `hf_lorameta.pipeline.make.make_adapter` raise.
    """
    log_remarks(dataset.remarks)
    plan, rows = plan_with_rows(dataset, session, resolved)
    told = plan.remarks[:-1]  # the verdict is that on the adapter, at the end
    log_remarks(told, without=dataset.remarks)
    if not rows.held_out:  # a recipe with steps may train on all of them
        resolved = resolved.uncounted
    if rows.train and (resolved.seconds or resolved.counts):
        sentences = [f"With the base model: {resolved}"]
        if resolved.seconds and not session.bank.is_empty:
            sentences.append("To skip this: --budget 0, in Python budget=0")
        if resolved.counts:
            sentences.append("To skip the count alone: --no-check, in Python check=False")
        logger.info(". ".join(sentences))
    if missed := resolved.obstacle:
        logger.warning("Not trained on your rows: %s. Next: %s", missed, missed.hint)
    adapter = make_adapter(plan, rows, session, resolved.stages, seconds=resolved.seconds)
    log_remarks(adapter.remarks, without=told)
    return adapter
