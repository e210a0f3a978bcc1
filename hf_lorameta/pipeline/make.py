"""Make an adapter from a plan: combine a bank's adapters, and run the stages that follow."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hf_lorameta.bank.adapter_stack import AdapterStack
from hf_lorameta.cards.results import Interruption, Outcome
from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.method.merging import DEFAULT_RANK, exact
from hf_lorameta.method.registries import COMBINERS
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.stages import Context, Stage, Unseen, Work
from hf_lorameta.tables import plural
from hf_lorameta.types import FactorPair, Progress, StageProgress

logger = logging.getLogger(__name__)


def make_adapter(
    plan: Plan,
    rows: Rows | None = None,
    session: Session | None = None,
    stages: Sequence[Stage[Any]] = (),
    *,
    deadline: Deadline | None = None,
    lists_answers: bool = False,
) -> Generation:
    """Combine a plan's adapters, and run the stages that follow.

    An interruption (Ctrl-C) of a stage keeps an adapter that was trained.

    Args:
        plan: which adapters, and their coefficients.
        rows: drawn for it; None means no rows.
        session: runs the base model if a stage needs it; None makes one.
        stages: what is done after the adapters are combined.
        deadline: of all stages, and the time limit that is recorded; a download does not count.
            None is no limit.
        lists_answers: whether the adapter's `report` lists all checked rows with their answers.

    Raises:
        RecipeError: the combiner ``factors`` is asked for with ranks that differ, or with a rank
            other than the bank's.
        HubError: adapters of a Hub bank cannot be fetched.
        LoraMetaError: as a stage raises that is required.

    Example:
        >>> from hf_lorameta import plan
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> make_adapter(plan(TRAIN_FILE)).rank
        16
    """
    rows, session = rows or Rows(), session or Session(plan.bank)
    deadline = deadline or Deadline()
    combined, seconds_to_combine = _combine(plan, session.progress, deadline)
    work = Work(
        plan=plan,
        rank=len(combined.pairs[0][0]) if combined.pairs else plan.recipe.rank or DEFAULT_RANK,
        combined=combined,
        weights=combined,
        rows=rows,
        outcome=Outcome(),
        unseen=(Unseen(rows.held_out, None, rows.prompt),),
        lists_answers=lists_answers,
    )
    started = time.perf_counter()
    work, seconds_with_model = _run(stages, work, session, deadline)
    outcome = work.outcome
    if outcome != Outcome():
        asked = (stage.settings.model_dump(exclude_defaults=True) for stage in stages)
        outcome = replace(
            outcome,
            given_model=session.has_model,
            drawn=rows.drawn,
            to_count=len(rows.check or rows.foldable or rows.held_out),
            budget=deadline.seconds,
            pace=work.pace,
            asked={name: value for settings in asked for name, value in settings.items()},
        )
    return Generation(
        plan,
        work.weights.layout,
        work.rank,
        tuple(work.weights.pairs),
        seconds_to_combine + time.perf_counter() - started,
        outcome=outcome,
        seconds_with_model=seconds_with_model,
        seconds_of_steps=work.seconds_of_steps,
        report=work.report,
    )


def _run(
    stages: Sequence[Stage[Any]],
    work: Work,
    session: Session,
    deadline: Deadline,
) -> tuple[Work, float]:
    """Run stages; return also the seconds that they took with the base model in memory."""
    loaded, failed = None, False
    for place, stage in enumerate(stages):
        if failed and not stage.required:
            continue
        try:
            if loaded is None and stage.needs_model and (work.rows.train or work.rows.check):
                with deadline.paused():
                    session.fetch_base_model()
                session.evaluator  # noqa: B018 - loads it
                loaded = time.perf_counter()
            has_rows = stage.required or any(part.rows for part in work.unseen)
            if work.outcome.interrupted and has_rows:
                logger.warning("Interrupted. Next: %s; interrupt again to skip this", stage)
            reserved = partial(_reserved, stages[place + 1 :], work, seconds=deadline.left())
            work = stage.run(work, Context(session, deadline, reserved))
        except LoraMetaError as error:
            if stage.required:
                raise
            logger.warning("%s: %s", stage.failed, error)
            failed = True
        except KeyboardInterrupt:
            outcome = work.outcome
            if not outcome.training:
                raise
            stopped = outcome.interrupted or Interruption(stage.name, f"{stage.stopped}.")
            work = replace(work, outcome=replace(outcome, interrupted=stopped))
            break
    return work, 0.0 if loaded is None else time.perf_counter() - loaded


def _reserved(
    stages: Sequence[Stage[Any]], work: Work, step_seconds: float, *, seconds: float
) -> float:
    """Return the seconds of the time left that are kept for stages, see `Stage.seconds_for`."""
    return sum(stage.seconds_for(work, step_seconds, seconds) for stage in stages)


def _combine(plan: Plan, progress: StageProgress, deadline: Deadline) -> tuple[LoraWeights, float]:
    """Return the weighted sum of a plan's adapters, and how many seconds it took."""
    entries = [entry for entry, _ in plan.combined]
    with deadline.paused():
        plan.bank.adapters(entries, partial(progress, "Reading adapters"))
    started = time.perf_counter()
    pairs = combine_adapters(plan, partial(progress, "Combining")) if plan.layout else []
    seconds = time.perf_counter() - started
    if count := len(plan.neighbors()):
        logger.info("Combined %s in %.1f s", plural(count, "adapter"), seconds)
    return LoraWeights(plan.layout, tuple(pairs)), seconds


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
    entries, weights = [e for e, _ in plan.combined], [c for _, c in plan.combined]
    stack = AdapterStack(bank.adapters(entries), [entry.scaling for entry in entries])
    pairs: list[FactorPair] = []
    for pair in stack.combine(
        bank.stored_layout, weights, combiner, plan.recipe.rank, expand=bank.expand
    ):
        pairs.append(pair)
        progress(len(pairs), len(bank.layout))
    if plan.output_strength is not None and (prior := plan.output_prior()):
        A, B = prior
        pairs.append(exact([A], [B], [plan.output_strength], [1.0], len(pairs[0][0])))
    return pairs
