"""Plan and generate: the steps from a dataset to an adapter, for Python and the command line."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.dataset import Dataset, ReadingOptions
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.pipeline.adapter_folder import Export
from hf_lorameta.pipeline.automatic import NOTHING, Automatic, obstacle_to_running, possible
from hf_lorameta.pipeline.budget import (
    LEAST_UNASKED,
    ROWS,
    budget_seconds,
    holds_labels,
    recipe_within,
    rows_to_fit,
)
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.mixture import Mixture, refuse_mixture
from hf_lorameta.pipeline.plan import Plan, plan_from_reading
from hf_lorameta.pipeline.progress import bars_unless, with_progress
from hf_lorameta.pipeline.read import read_dataset, token_counting
from hf_lorameta.pipeline.rows import (
    CHECK_ROWS,
    MIN_ROWS,
    POOL_ROWS,
    Rows,
    draw_rows,
    pool_of,
    pool_size,
)
from hf_lorameta.pipeline.save import Generation, export_config
from hf_lorameta.pipeline.session import LoadedModel, Session
from hf_lorameta.pipeline.without_bank import refuse_without_adapters
from hf_lorameta.recipe import Recipe
from hf_lorameta.remarks import log_remarks
from hf_lorameta.types import Row, StageProgress, no_progress

logger = logging.getLogger(__name__)


def generate(
    dataset: Any,
    bank: Bank | str | Path | None = None,
    recipe: Recipe | None = None,
    *,
    base: str | Path | None = None,
    base_revision: str | None = None,
    model: LoadedModel | None = None,
    token: str | None = None,
    budget: float | str | None = None,
    fit: bool = True,
    check: bool = True,
    progress: StageProgress | None = None,
    **reading: Unpack[ReadingOptions],
) -> Generation | Mixture:
    """Generate an adapter for a dataset, without training unless the recipe says so.

    Warnings and losses are logged.

    Args:
        dataset: Hub id, local file, opened `Dataset`, list of dictionaries, `pandas.DataFrame`,
            or dataset of the library `datasets`.
        bank: an opened bank, a folder, a Hub id, or ``none``; None opens the default bank, or for
            another `base` model, if there is none for it, uses none.
        recipe: None is ``Recipe()``.
        base: the base model: Hub id, folder or GGUF file; None is the bank's. Without a bank, the
            recipe has to say that the adapter is fitted or trained.
        base_revision: branch, tag or commit of a base model without a bank.
        model: the base model in transformers, on the CPU, and its tokenizer; the model is the same
            afterwards. None loads it if it is needed.
        token: of the Hub; None uses the saved one.
        budget: seconds, or a time such as ``"5m"``, to spend on fitting or training the adapter;
            see `hf_lorameta.pipeline.budget.recipe_within`.
        fit: fit the adapter on up to 300 rows if the outputs are labels and the recipe is one of
            the default method without rows to fit, train or check on; see
            `hf_lorameta.pipeline.automatic`, also for what follows.
        check: score the adapter on 16 rows, unless the recipe says how many. As for the fit, the
            base model has to be on this machine and small, and ``HF_LORAMETA_NO_BASE`` not set.
        progress: called with (stage, done, total, or 0 if it is not known); None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`.

    Returns:
        The adapter; or, if the recipe says so, a mixture of adapters.

    Raises:
        DatasetError: as `plan` raises.
        BankError: as `plan` raises.
        UsageError: the budget is no time, is too short, or does not go with the recipe; or without
            a bank, the recipe says neither to fit nor to train; or as `plan` raises.
        LoraMetaError: as `hf_lorameta.pipeline.make.make_adapter` raises.
        KeyboardInterrupt: Ctrl-C, except in a training whose steps have helped: the result is then
            the best adapter until the interruption, with a warning.

    Example:
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> generate(TRAIN_FILE, recipe=Recipe(top_k=2), check=False)
        Generation(rank 16 for a local dataset, of 2 adapters of embedded bank)
    """
    recipe = recipe or Recipe()
    seconds = budget_seconds(budget, recipe)
    opening = Session(bank, base=base, base_revision=base_revision, token=token, model=model)
    with bars_unless(progress) as show, opening as session:
        require_possible(recipe, session)
        opened = with_progress(session.open_dataset(dataset, **reading), show)
        wanted = Automatic(fit, check)
        plan, rows = plan_with_rows(opened, session, recipe, budget=seconds, wanted=wanted)
        adapter = carry_out(plan, rows, session, show)
    return replace(adapter, progress=progress) if isinstance(adapter, Mixture) else adapter


def plan(
    dataset: Any,
    bank: Bank | str | Path | None = None,
    recipe: Recipe | None = None,
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
        bank: an opened bank, a folder, a Hub id, or ``none``; None opens the default bank, or for
            another `base` model, if there is none for it, uses none.
        recipe: None is ``Recipe()``.
        base: the base model, a Hub id or a folder; None is the bank's.
        base_revision: branch, tag or commit of a base model without a bank.
        token: of the Hub; None uses the saved one.
        progress: called with (stage, done, total, or 0 if it is not known); None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`.

    Raises:
        DatasetError: the dataset cannot be read as labeled rows.
        BankError: the bank is empty or damaged, or lacks the neural rule that was asked for.
        UsageError: the base model cannot be used, or a revision is given for that of a bank.
        HubError: a repo is missing, private or gated, or the Hub cannot be reached.
    """
    recipe = recipe or Recipe()
    opening = Session(bank, base=base, base_revision=base_revision, token=token)
    with bars_unless(progress) as show, opening as session:
        opened = with_progress(session.open_dataset(dataset, **reading), show)
        return _read_and_plan(opened, session.bank, recipe)[0]


def require_possible(recipe: Recipe, session: Session, export: Export | None = None) -> None:
    """Refuse what cannot be made here or exported, before any work.

    Args:
        recipe: the settings.
        session: its bank is opened if there is an export.
        export: as in `hf_lorameta.pipeline.save.SavableAdapter.save_pretrained`.

    Raises:
        UsageError: a mixture, or the base model's architecture, cannot be exported.
        HubError: the base model's ``config.json`` cannot be fetched for the export.
        MissingExtraError: the extra that the recipe or the export needs is not installed.
    """
    refuse_mixture(recipe.emit, export)
    if recipe.rows_asked:
        require_eval()
    if export is not None:
        index = session.bank.index
        export_config(index.base_model, index.base_revision, export, session.hub.token)


def plan_with_rows(
    dataset: Dataset,
    session: Session,
    recipe: Recipe,
    *,
    budget: float | None = None,
    wanted: Automatic = NOTHING,
) -> tuple[Plan, Rows]:
    """Read a dataset, plan, and draw rows; log what will be fitted or trained on, and warnings.

    Args:
        dataset: an opened dataset.
        session: its bank is used, and its base model if there is a budget.
        recipe: the settings.
        budget: seconds to fit or train in, which choose the number of rows for it; see
            `hf_lorameta.pipeline.budget.budget_seconds`.
        wanted: to be done where it is possible; of a budget, whether it may be spent on a fit. A
            fit is part of the plan's recipe then. A check only reports, so that the same recipe
            makes the same adapter on machines with and without the base model: it is not part of
            it.

    Returns:
        The plan, and the rows to fit, train and check on.

    Raises:
        BudgetError: the time is too short.
        LoraMetaError: as `hf_lorameta.plan` raises; or a budget cannot be spent here.
    """
    log_remarks(dataset.remarks)
    done, collect = NOTHING, 0
    if budget is not None:
        collect = pool_size(recipe.model_copy(update={"train": ROWS[-1]}))
    elif any(done := possible(wanted, recipe, dataset, session)):
        collect = POOL_ROWS
    plan, pool = _read_and_plan(dataset, session.bank, recipe, collect=collect)
    if budget is not None:
        recipe = recipe_within(plan, pool, session, budget, may_fit=wanted.fit)
        plan = replace(plan, recipe=recipe)
        if len(pool) > pool_size(recipe):
            pool = pool_of(dataset.rows(), recipe)  # the one that this recipe draws from
    elif done.fit:
        plan = _with_fit(plan, pool)
    if wanted.fit:
        _warn_of_missing_fit(plan, session)
    rows = draw_rows(plan.recipe, pool)
    if done.check:
        checked = draw_rows(plan.recipe.model_copy(update={"check": CHECK_ROWS}), pool)
        rows = checked if len(checked.check) >= MIN_ROWS else rows
    log_remarks(plan.remarks, said=(*dataset.remarks, plan.verdict))
    return plan, rows


def _read_and_plan(
    dataset: Dataset, bank: Bank, recipe: Recipe, *, collect: int = 0
) -> tuple[Plan, tuple[Row, ...]]:
    """Read a dataset once and plan; return the plan and the pool of rows to draw from."""
    refuse_without_adapters(bank, recipe, dataset)
    reading = read_dataset(dataset, recipe, token_counting(bank), collect=collect)
    return plan_from_reading(reading, bank), reading.pool


def _with_fit(plan: Plan, pool: Sequence[Row]) -> Plan:
    """Fit on rows although nobody asked for it, if the outputs are labels and the rows suffice."""
    if len({output for _, output in pool}) < 2 or not holds_labels(plan):
        return plan
    if count := rows_to_fit(plan, len(pool)):
        logger.info(
            "The adapter will be fitted on %d labeled rows, since the outputs are labels and the "
            "base model is on this machine, which may take a minute or two: --no-fit, in Python "
            "fit=False, skips it", count,
        )  # fmt: skip
        return replace(plan, recipe=plan.recipe.model_copy(update={"fit": count}))
    if len(pool) < LEAST_UNASKED:
        logger.warning(
            "Not fitted on the %d labeled rows, without which the adapter rarely gives the right "
            "label: fewer than %d are only fitted on if asked for", len(pool), LEAST_UNASKED,
        )  # fmt: skip
    return plan


def _warn_of_missing_fit(plan: Plan, session: Session) -> None:
    """Say what a plan lacks whose recipe leaves it open whether rows are fitted on."""
    if plan.recipe.rows_asked or not plan.recipe.is_default_method:
        return
    if not len(plan.bank) and plan.bank.index.general:
        logger.warning(
            "The adapter is the bank's general adapter, the same for every dataset until it is "
            "fitted or trained on labeled rows"
        )
    if holds_labels(plan) and (obstacle := obstacle_to_running(session)):
        logger.warning(
            "Not fitted on labeled rows, without which the adapter rarely gives the right label: "
            "%s. Next: %s", obstacle, obstacle.hint,
        )  # fmt: skip


def carry_out(
    plan: Plan, rows: Rows, session: Session, progress: StageProgress = no_progress
) -> Generation | Mixture:
    """Make the adapter of a plan, or choose those of a mixture; log results and warnings.

    Args:
        plan: the plan, as `rows` from `plan_with_rows`.
        rows: to fit, train and check on.
        session: runs the base model if it is needed.
        progress: called after each step with (stage, done, total), by a mixture when it is saved.

    Raises:
        LoraMetaError: as `hf_lorameta.pipeline.make.make_adapter` raises.
    """
    if plan.recipe.is_mixture:
        mixture = Mixture(plan, progress)
        logger.info("A mixture of %d adapters of rank %d", len(mixture.entries), mixture.rank)
        return mixture
    if rows.check and plan.recipe.check is None:
        logger.info(
            "The adapter will be compared with the base model, %s, and a few-shot prompt on %d "
            "rows, which may take most of the time: --no-check, in Python check=False, skips it",
            plan.bank.index.base_model, len(rows.check),
        )  # fmt: skip
    generation = make_adapter(plan, rows, session, progress)
    log_remarks(generation.plan.remarks, said=plan.remarks)
    return generation
