"""Make an adapter from a plan: fetch, refine, combine, train, check. Each step is a function."""

import time
from dataclasses import replace
from functools import partial

from hf_lorameta.pipeline.check import check_adapter, require_gain
from hf_lorameta.pipeline.combine_adapters import combine_adapters
from hf_lorameta.pipeline.generation import Generation
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.refine import refine_plan
from hf_lorameta.pipeline.rows import Rows, require_rows
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.train import check_trainable, train_adapter
from hf_lorameta.types import LossProgress, StageProgress, no_progress


def make_adapter(
    plan: Plan,
    rows: Rows | None = None,
    session: Session | None = None,
    progress: StageProgress = no_progress,
) -> Generation:
    """Combine a plan's adapters, module by module.

    If the recipe says so, the coefficients are refined first, and the adapter is trained further
    and checked at the end. Rows to check on that the recipe does not ask for only make a report.

    Args:
        plan: the plan, of one adapter.
        rows: drawn for the recipe; None are none.
        session: runs the base model if it is needed; None makes one.
        progress: called after each step with (stage, done, total).

    Raises:
        EmptyDatasetError: the rows are too few for the recipe.
        RecipeError: the combiner ``factors`` with differing ranks or another rank than the bank's.
        AdapterError: the adapter was refined or checked, and at no scale it is as good as the base
            model; or it was trained, and is worse.
        HubError: adapters of a Hub bank cannot be fetched.
        MissingExtraError: the recipe needs the base model and the extra ``eval`` is missing.

    Example:
        >>> from hf_lorameta import plan
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> make_adapter(plan(TRAIN_FILE)).rank
        16
    """
    rows, session, recipe = rows or Rows(), session or Session(plan.bank), plan.recipe
    require_rows(rows, recipe)  # before the base model is loaded
    _fetch_adapters(plan, progress)
    if recipe.refine is not None:
        if recipe.train is not None:
            check_trainable(session.evaluator)  # not only after the fit
        fitting = _of_stage(progress, f"Fitting {recipe.refine} rows")
        plan = refine_plan(plan, rows, session.runner, progress=fitting)
        require_gain(plan, "refine")
    generation = _combine(plan, progress)
    if recipe.train is not None:
        training = _of_stage(progress, f"Training on {recipe.train} rows")
        generation = train_adapter(generation, rows, session.evaluator, progress=training)
    if rows.check:
        title, started = f"Checking {len(rows.check)} rows", time.perf_counter()
        progress(title, 0, 1)
        generation = check_adapter(generation, rows, session.runner_for(generation.layout))
        generation = replace(generation, check_seconds=time.perf_counter() - started)
        progress(title, 1, 1)
        if recipe.check is not None:
            require_gain(generation.plan, "check")
    return generation


def _fetch_adapters(plan: Plan, progress: StageProgress) -> None:
    """Fetch and verify the plan's adapters; opening them again takes no time."""
    adapters = plan.bank.index.adapters
    entries = [adapters[i] for i in plan.active_indices if i < len(adapters)]
    plan.bank.adapters(entries, partial(progress, "Reading adapters"))


def _combine(plan: Plan, progress: StageProgress) -> Generation:
    started = time.perf_counter()
    pairs = combine_adapters(plan, partial(progress, "Combining"))
    seconds = time.perf_counter() - started
    return Generation(plan, plan.layout, pairs[0][0].shape[0], tuple(pairs), seconds)


def _of_stage(progress: StageProgress, title: str) -> LossProgress:
    return lambda step, steps, loss: progress(title, step, steps)
