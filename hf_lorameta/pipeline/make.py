"""Make an adapter from a plan: fetch, combine, train, check. Each step is a function."""

import logging
import time
from dataclasses import replace
from functools import partial

from hf_lorameta.bank.adapter_stack import AdapterStack
from hf_lorameta.cards.results import Check, check_of
from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.scoring import (
    ADAPTER_METHOD,
    BASE_METHOD,
    MEASURES,
    Adapter,
    Evaluator,
    LoraWeights,
    compare,
    measure_of,
)
from hf_lorameta.errors import AdapterError, LoraMetaError, Option
from hf_lorameta.method.merging import COMBINERS, DEFAULT_RANK, exact
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.remarks import more_time
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.train import improve
from hf_lorameta.tables import plural
from hf_lorameta.types import FactorPair, Progress, StageProgress, no_progress

logger = logging.getLogger(__name__)

_TRAINING_SHARE = 0.8
"""Share of a time limit that is for training; the rest is for the check."""
_GENERATION_SECONDS = 10.0
"""Least time for a check in which all answers are generated."""


def make_adapter(
    plan: Plan,
    rows: Rows | None = None,
    session: Session | None = None,
    *,
    seconds: float = 0.0,
    by_default: bool = False,
) -> Generation:
    """Combine a plan's adapters, train the result, and count its right answers.

    Args:
        plan: which adapters, and their coefficients.
        rows: drawn for it; None means no rows. Rows to check on are scored and reported; their
            scores may refuse the adapter only if the recipe has `check`.
        session: runs the base model if it is needed; None makes one.
        seconds: wall-clock time for loading the base model and training; a download does not
            count. If there are rows to check on, a fifth of the time is left for the check, which
            scores as many of them as the time allows, at least 4. 0 trains as the recipe says.
        by_default: whether the training in that time is the default, not asked for: if it is not
            possible, the adapter is the combination alone, with a warning.

    An interruption (Ctrl-C) of the check keeps an adapter that was trained.

    Raises:
        RecipeError: the combiner ``factors`` is asked for with ranks that differ, or with a rank
            other than the bank's.
        AdapterError: the recipe has `check`, and the base model is better; or the adapter was
            trained, and is worse; or there is no bank, and no training helped.
        UsageError: the base model cannot be trained.
        HubError: adapters of a Hub bank cannot be fetched.
        MissingExtraError: the base model is needed and the extra ``eval`` is missing.

    Example:
        >>> from hf_lorameta import plan
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> make_adapter(plan(TRAIN_FILE)).rank
        16
    """
    rows, session, recipe = rows or Rows(), session or Session(plan.bank), plan.recipe
    progress = session.progress
    generation, end = _combine(plan, progress), Deadline(seconds or None)
    combined = time.perf_counter()
    if rows.train:
        try:
            if seconds:
                session.fetch_base_model()  # a download does not count
                end = Deadline(seconds)
            deadline = Deadline(seconds * (_TRAINING_SHARE if rows.check else 1) or None)
            generation = improve(generation, rows, session.evaluator, deadline, progress)
        except LoraMetaError as error:
            if not (seconds and by_default and generation.pairs):
                raise
            logger.warning("Not trained on your rows: %s", error)
            rows = replace(rows, check=())
    if not generation.pairs:
        raise AdapterError(
            f"{_why_untrained(generation, rows)}, and there is no bank to make an adapter from",
            hint=[Option("train", 100), more_time(seconds), "name a bank"],
        )
    if rows.check and generation.outcome.interrupted:
        logger.warning("The training was interrupted. Counting right answers; Ctrl-C skips this")
    try:
        if recipe.check is not None:
            generation = check_adapter(generation, rows, session.evaluator, progress)
            _refuse_failed_check(generation.outcome.check)
        elif rows.check:
            generation = check_adapter(generation, rows, session.evaluator, progress, end)
    except LoraMetaError as error:
        if recipe.check is not None:
            raise
        logger.warning("The adapter was not checked: %s", error)  # keep it: nobody asked for this
    except KeyboardInterrupt:
        outcome = generation.outcome
        if outcome.training is None or not outcome.training.steps:
            raise
        stopped = replace(outcome, interrupted=outcome.interrupted or "check")
        generation = replace(generation, outcome=stopped)
    outcome = generation.outcome
    if session.has_model and (outcome.training or outcome.check):
        outcome = replace(outcome, given_model=True)
    if outcome.steps is not None:
        outcome = replace(outcome, budget=seconds)
    spent = generation.seconds + time.perf_counter() - combined
    return replace(generation, outcome=outcome, seconds=spent)


def _why_untrained(generation: Generation, rows: Rows) -> str:
    if not rows.train:
        return "there are too few labeled rows to train on"
    if not generation.outcome.training:
        return "time ran out before the first training step"
    return "no training step helped on held-out rows"


def _combine(plan: Plan, progress: StageProgress) -> Generation:
    index = plan.bank.index
    entries = index.chosen(i for i in plan.active_indices if i < index.number)
    plan.bank.adapters(entries, partial(progress, "Reading adapters"))  # opening them takes no time
    started = time.perf_counter()
    pairs = combine_adapters(plan, partial(progress, "Combining")) if plan.layout else []
    rank = len(pairs[0][0]) if pairs else plan.recipe.rank or DEFAULT_RANK
    seconds = time.perf_counter() - started
    if count := len(plan.neighbors()):
        logger.info("Combined %s in %.1f s", plural(count, "adapter"), seconds)
    return Generation(plan, plan.layout, rank, tuple(pairs), seconds)


# --- combine --------------------------------------------------------------------------------------


def combine_adapters(plan: Plan, progress: Progress) -> list[FactorPair]:
    """Combine a plan's adapters; return (lora_A, lora_B) of every module of ``plan.layout``.

    Args:
        plan: the plan.
        progress: called after each module with (done, total).

    Raises:
        RecipeError: the combiner cannot combine these ranks.
        IntegrityError: an adapter's file is damaged.
        HubError: an adapter cannot be fetched.
    """
    bank, combiner = plan.bank, COMBINERS[plan.recipe.combine]
    active = [i for i in plan.active_indices if i < bank.index.number]
    entries = bank.index.chosen(active)
    stack = AdapterStack(bank.adapters(entries), [entry.scaling for entry in entries])
    weights = plan.coefficients[active]
    pairs: list[FactorPair] = []
    for pair in stack.combine(
        bank.stored_layout, weights, combiner, plan.recipe.rank, expand=bank.expand
    ):
        pairs.append(pair)
        progress(len(pairs), len(bank.layout))
    if prior := plan.output_prior():
        weight = float(plan.coefficients[-1])
        pairs.append(exact([prior[0]], [prior[1]], [weight], [1.0], len(pairs[0][0])))
    return pairs


# --- check ----------------------------------------------------------------------------------------


def check_adapter(
    generation: Generation,
    rows: Rows,
    evaluator: Evaluator,
    progress: StageProgress = no_progress,
    deadline: Deadline | None = None,
) -> Generation:
    """Score a finished adapter as it would be saved, beside the base model.

    Args:
        generation: the adapter.
        rows: only its rows to check on and those of the prompt are used.
        evaluator: the base model.
        progress: called with (stage, rows scored, rows).
        deadline: limits how many rows are scored. Outputs that are texts or have several labels
            need all answers, which are generated if at least 10 s are left.

    Returns:
        The adapter with the check in its `outcome`.
    """
    title, form = f"Checking {len(rows.check)} rows", generation.plan.dataset.form
    adapters: dict[str, Adapter | None] = {
        BASE_METHOD: None,
        ADAPTER_METHOD: LoraWeights(generation.layout, generation.pairs),
    }
    deadline = deadline or Deadline()
    graded = measure_of(rows.check, form) in MEASURES
    generate = graded and deadline.left() >= _GENERATION_SECONDS
    report = compare(
        evaluator, rows.check, adapters, rows.prompt, generate, samples=0, form=form,
        deadline=deadline,
        row_progress=lambda method, *counts: progress(f"{title}, {method}", *counts),
    )  # fmt: skip
    check = check_of(report, len(rows.prompt))
    if check.rows < len(rows.check):
        logger.info("Time ran out after %d of %d rows to check on", check.rows, len(rows.check))
    return replace(generation, outcome=replace(generation.outcome, check=check))


def _refuse_failed_check(check: Check | None) -> None:
    """Raise AdapterError if the base model is better than an adapter that was checked."""
    if check is None:
        return
    for name, loss in (("", check.base), (" with its own chat template", check.chat)):
        if loss is not None and not check.end <= loss:
            raise AdapterError(
                f"the base model{name} is better: its loss on {check.rows} rows is {loss:.3f}, "
                f"that of the adapter {check.end:.3f}",
                hint=["add labeled rows", Option("check", change="leave out")],
            )
