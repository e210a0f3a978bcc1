"""Generate an adapter: plan, refine, combine, train, check."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.dataset import ReadingOptions
from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.pipeline.automatic_check import unchecked
from hf_lorameta.pipeline.budget import parse_seconds, plan_within
from hf_lorameta.pipeline.combine_adapters import combine_adapters
from hf_lorameta.pipeline.generation import Generation
from hf_lorameta.pipeline.held_out_rows import (
    labeled_pool,
    rows_to_check,
    rows_to_fit,
    rows_to_train,
)
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.progress import bars_unless, with_progress
from hf_lorameta.pipeline.python_errors import python_errors
from hf_lorameta.pipeline.refine_and_check import refine_plan, validate_adapter
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.train import train_adapter
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Progress, Row, StageProgress, no_progress

logger = logging.getLogger(__name__)


def generate(
    dataset: Any,
    bank: Bank | str | Path | None = None,
    recipe: Recipe | None = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
    token: str | None = None,
    budget: float | str | None = None,
    progress: StageProgress | None = None,
    **reading: Unpack[ReadingOptions],
) -> Generation:
    """Generate an adapter for a dataset, without training unless the recipe says so.

    Args:
        dataset: Hub id, local file, opened `Dataset`, list of dictionaries, `pandas.DataFrame`,
            or dataset of the library `datasets`.
        bank: an opened bank, a folder or a Hub id; None opens the default bank.
        recipe: None is ``Recipe()``.
        model: the base model in transformers, loaded on the CPU, if the recipe needs it; it is the
            same afterwards. None loads it.
        tokenizer: of `model`.
        token: of the Hub; None uses the saved one.
        budget: seconds, or a time such as ``"5m"``, to spend on training the adapter further, if
            that is possible; see `hf_lorameta.pipeline.budget.recipe_within`.
        progress: called with (stage, done, total, or 0 if it is not known); None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`.

    Raises:
        DatasetError: as `plan` raises.
        BankError: as `plan` raises.
        RecipeError: the combiner ``factors`` with differing ranks or another rank than the bank's.
        AdapterError: as `generate_from_plan` raises.
        HubError: as `plan` raises; adapters of a Hub bank are fetched here.
        MissingExtraError: the recipe needs the base model and the extra ``eval`` is missing.
    """
    recipe = recipe or Recipe()
    with (
        python_errors(),
        bars_unless(progress) as show,
        Session(bank, token=token, model=model, tokenizer=tokenizer) as session,
    ):
        opened = session.open_dataset(dataset, **reading, limits=recipe.reading_limits)
        opened = with_progress(opened, show)
        seconds = parse_seconds(budget) if isinstance(budget, str) else budget
        plan, rows, reasons = plan_within(opened, session, recipe, seconds)
        for reason in reasons:
            logger.log(logging.INFO if plan.recipe.train else logging.WARNING, reason)
        return generate_from_plan(plan, show, session=session, rows=rows)


def generate_from_plan(
    plan: Plan,
    progress: StageProgress = no_progress,
    *,
    session: Session | None = None,
    rows: Sequence[Row] | None = None,
    check_only_reports: bool = False,
) -> Generation:
    """Combine a plan's adapters, module by module.

    If the recipe says so, the coefficients are refined first, and the adapter is trained further
    and checked at the end.

    Args:
        plan: the plan.
        progress: called after each step with (stage, done, total).
        session: runs the base model if it is needed; None makes one.
        rows: labeled rows to draw from to fit, train and check. None reads the dataset again,
            which has to be on the Hub.
        check_only_reports: the check of the recipe neither scales nor refuses the adapter, and the
            recipe of the result has none.

    Raises:
        AdapterError: the adapter was refined or checked, and at no scale it is as good as the base
            model; or it was trained, and is worse.
        UsageError: rows are needed, and the dataset was a local file; or the recipe asks for a
            mixture.
        LoraMetaError: as `generate` raises.
    """
    session = session or Session(plan.bank)
    recipe = plan.recipe
    if recipe.is_mixture:
        raise UsageError(
            "the recipe asks for a mixture of adapters, not for one",
            hint="hf_lorameta.Mixture(plan).save_pretrained(FOLDER) writes it",
        )
    pool = rows if rows is not None or not recipe.uses_rows else _read_pool(plan, session, progress)
    check_possible(recipe, pool or ())
    _read_adapters(plan, partial(progress, "Reading adapters"))
    if recipe.refine is not None and plan.refinement is None:
        if recipe.train is not None:
            from hf_lorameta.engines.packing import check_row_attention

            check_row_attention(session.evaluator.model)  # not only after the fit
        plan = refine_plan(
            plan,
            pool or (),
            session.runner,
            progress=lambda step, steps, loss: progress(
                f"Fitting {recipe.refine} rows", step, steps
            ),
        )
    _check_gain(plan, "--refine")
    started = time.perf_counter()
    pairs = combine_adapters(plan, partial(progress, "Combining"))
    seconds = time.perf_counter() - started
    generation = Generation(plan, plan.layout, pairs[0][0].shape[0], tuple(pairs), seconds)
    if recipe.train is not None:
        title = f"Training on {recipe.train} rows"
        generation = train_adapter(
            generation,
            pool or (),
            session.evaluator,
            progress=lambda step, steps, loss: progress(title, step, steps),
        )
    if recipe.check is None:
        return generation
    progress(f"Checking {recipe.check} rows", 0, 1)
    started = time.perf_counter()
    runner = session.runner_for(generation.layout)
    generation = validate_adapter(generation, pool or (), runner, shrink=not check_only_reports)
    generation = replace(generation, check_seconds=time.perf_counter() - started)
    progress(f"Checking {recipe.check} rows", 1, 1)
    if check_only_reports:
        return replace(generation, plan=replace(generation.plan, recipe=unchecked(recipe)))
    _check_gain(generation.plan, "--check")
    return generation


def _read_pool(plan: Plan, session: Session, progress: StageProgress) -> list[Row]:
    """Read the labeled rows of the plan's dataset again."""
    info = plan.dataset
    if info.id is None:
        raise UsageError(
            "the plan's dataset is a local file, and its rows are needed to fit or check",
            hint="call generate(dataset, bank, recipe), or pass rows= to generate_from_plan",
        )
    dataset = session.open_dataset(
        info.id,
        config=info.config,
        split=info.split,
        revision=info.revision,
        columns=info.columns,
        limits=plan.recipe.reading_limits,
    )
    return labeled_pool(with_progress(dataset, progress).rows(), plan.recipe)


def check_possible(recipe: Recipe, pool: Sequence[Row]) -> None:
    """Refuse what the rows do not allow, before the base model is loaded.

    Args:
        recipe: states the numbers of rows to fit, train and check on.
        pool: labeled rows of the dataset.

    Raises:
        EmptyDatasetError: too few rows.
    """
    rows_to_fit(recipe, pool)
    rows_to_train(recipe, pool)
    if recipe.check is not None:
        rows_to_check(recipe, pool)


def _read_adapters(plan: Plan, progress: Progress) -> None:
    """Fetch and verify the plan's adapters; opening them again takes no time."""
    adapters = plan.bank.index.adapters
    plan.bank.adapters([adapters[i] for i in plan.active_indices if i < len(adapters)], progress)


def _check_gain(plan: Plan, option: str) -> None:
    """Refuse an adapter that was scaled down to zero, or is worse than the base model in a chat."""
    check = plan.check
    if check and check.chat is not None and check.chat < check.end:
        raise AdapterError(
            f"the base model with its own chat template is better: its loss on {check.rows} rows "
            f"is {check.chat:.3f}, that of the adapter {check.end:.3f}",
            hint=f"use the base model's chat template, or leave out {option} to generate it anyway",
        )
    if not plan.active_indices:
        raise AdapterError(
            "even at 1/8 strength the adapter is worse than the base model on the scored rows: the "
            "bank cannot help with this dataset",
            hint=f"name another --bank, or leave out {option} to generate it anyway",
        )
