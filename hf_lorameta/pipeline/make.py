"""Make an adapter from a plan: fetch, combine, fit, train, check. Each step is a function."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from hf_lorameta.bank.adapter_stack import AdapterStack
from hf_lorameta.cards.results import Check, RightAnswers
from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.scoring import RowScores, Tokens, chat_rows, folded, prompt_text
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError, LoraMetaError, Option
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.merging import COMBINERS, DEFAULT_RANK, exact
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.train import improve
from hf_lorameta.tables import plural
from hf_lorameta.types import FactorPair, Progress, StageProgress, no_progress

logger = logging.getLogger(__name__)

_MIN_SCALE = 1 / 8


def make_adapter(
    plan: Plan, rows: Rows | None = None, session: Session | None = None, *, seconds: float = 0.0
) -> Generation:
    """Combine a plan's adapters, train the result, and count its right answers.

    Args:
        plan: of one adapter, not of a mixture.
        rows: drawn for it; None are none. Rows to check on that the recipe does not ask for only
            make a report.
        session: runs the base model if it is needed; None makes one.
        seconds: wall-clock time to train in, from when the base model is loaded; without, the
            adapter is fitted and trained as the recipe says.

    Raises:
        RecipeError: the combiner ``factors`` with differing ranks or another rank than the bank's.
        AdapterError: the adapter was checked, and at no scale it is as good as the base model; or
            it was trained, and is worse; or without a bank, no training helped.
        UsageError: the base model cannot be fitted or trained.
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
    if seconds and rows.train:
        recipe = recipe.model_copy(update={"train": len(rows.train)})
        plan = replace(plan, recipe=recipe)
    generation = _combine(plan, progress)
    if rows.fit or rows.train:
        evaluator, deadline = session.evaluator, Deadline(seconds or None)
        generation = improve(generation, rows, evaluator, deadline, progress)
    if not generation.pairs:
        raise AdapterError(
            "no training step helped on held-out rows, and there is no bank to make an adapter of",
            hint=[Option("train", 100), Option("budget", "10m"), "name a bank"],
        )
    if recipe.check is not None:
        generation = _check(generation, rows, session)
        _require_gain(generation.plan)
    elif rows.check:
        try:
            generation = _check(generation, rows, session)
        except LoraMetaError as error:  # a check that nobody asked for never costs the adapter
            logger.warning("The adapter was not checked: %s", error)
    return generation


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


def _check(generation: Generation, rows: Rows, session: Session) -> Generation:
    title = f"Checking {len(rows.check)} rows"
    session.progress(title, 0, len(rows.check))
    return check_adapter(generation, rows, session.evaluator, partial(session.progress, title))


# --- combine --------------------------------------------------------------------------------------


def combine_adapters(plan: Plan, progress: Progress) -> list[FactorPair]:
    """Combine a plan's adapters into (lora_A, lora_B) of every module of ``plan.layout``.

    A combiner that chooses among the entries of the updates gets their differences from the general
    adapter, if the bank has one, since the others were trained from it.

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
    start = combiner.entrywise and bank.index.general is not None
    if start:
        active = [i for i in active if i < len(bank)] + [len(bank)]
    entries = bank.index.chosen(active)
    stack = AdapterStack(bank.adapters(entries), [entry.scaling for entry in entries])
    weights = plan.coefficients[active]
    pairs: list[FactorPair] = []
    for pair in stack.combine(
        bank.stored_layout, weights, combiner, plan.recipe.rank, expand=bank.expand, start=start
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
    evaluator: TorchEvaluator,
    progress: Progress = no_progress,
) -> Generation:
    """Score a finished adapter as it would be written, and halve it while the base is better.

    It is halved down to 1/8. A check that the recipe does not ask for only reports: it leaves the
    adapter as it is. The base model is also scored with its own chat template, if it has one, and
    with a prompt of examples, if there are some.

    Args:
        generation: the adapter.
        rows: its rows to check on and those of the prompt count.
        evaluator: the base model.
        progress: called with (rows scored, rows); a row counts when all methods have scored it.

    Returns:
        The adapter with its plan's `check`; all coefficients are zero if no scale helps.
    """
    plan, layout, shots = generation.plan, generation.layout, rows.prompt
    tokens, in_chat = evaluator.encode(rows.check), chat_rows(evaluator, rows.check)
    in_prompt = [(prompt_text(text, shots), output) for text, output in rows.check if shots]
    methods, scored = 2 + bool(in_chat) + bool(in_prompt), 0

    def done(passed: int) -> None:
        nonlocal scored
        scored += passed
        progress(scored // methods, len(tokens))

    base = _score(evaluator, tokens, done=done)
    chat = _score(evaluator, evaluator.encode(in_chat), done=done) if in_chat else None
    prompt = _score(evaluator, evaluator.encode(in_prompt), done=done) if in_prompt else None
    scale = 1.0
    start = end = _score(evaluator, tokens, layout, generation.pairs, done)
    while plan.recipe.check is not None and end.loss > base.loss:
        scale /= 2
        if scale < _MIN_SCALE:
            scale, end = 0.0, base
            break
        end = _score(evaluator, tokens, layout, _scaled(generation, scale))
    most_frequent = Counter(folded(output) for _, output in rows.check).most_common(1)[0][1]
    right = RightAnswers(
        most_frequent, base.right, end.right, chat and chat.right, prompt and prompt.right
    )
    check = Check(
        len(tokens), base.loss, start.loss, end.loss, scale, right, chat and chat.loss,
        prompt and prompt.loss, len(shots),
    )  # fmt: skip
    plan = replace(plan, coefficients=scale * plan.coefficients, check=check)
    return replace(generation, plan=plan, pairs=_scaled(generation, scale))


def _scaled(generation: Generation, scale: float) -> tuple[FactorPair, ...]:
    """Return an adapter's factors with its coefficients scaled; of `factors` both are sums."""
    plan = generation.plan
    changed = any(training.steps for training in plan.trainings)
    linear = COMBINERS[plan.recipe.combine].linear or changed
    scale_A, scale_B = np.float32(1 if linear else scale), np.float32(scale)
    return tuple((A * scale_A, B * scale_B) for A, B in generation.pairs)


def _score(
    evaluator: TorchEvaluator,
    tokens: Sequence[Tokens],
    layout: Layout = (),
    pairs: Sequence[FactorPair] = (),
    done: Callable[[int], None] = no_progress,
) -> RowScores:
    """Return the scores of rows; a loss that is not a number is infinite: worse than any other."""
    scores = evaluator.score(tokens, layout, pairs, done)
    return scores._replace(loss=math.inf) if math.isnan(scores.loss) else scores


def _require_gain(plan: Plan) -> None:
    """Raise AdapterError if an adapter that was checked is not better than the base model."""
    check = plan.check
    anyway = Option("check", change="leave out")
    if check and check.chat is not None and check.chat < check.end:
        raise AdapterError(
            f"the base model with its own chat template is better: its loss on {check.rows} rows "
            f"is {check.chat:.3f}, that of the adapter {check.end:.3f}",
            hint=["use the base model's chat template", anyway],
        )
    if check and not check.scale:
        raise AdapterError(
            "even at 1/8 strength the adapter is worse than the base model on the scored rows: it "
            "cannot help with this dataset",
            hint=[Option("bank", change="name another"), anyway],
        )
