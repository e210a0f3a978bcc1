"""What training on rows of a dataset takes, how many fit into a time, and what is advised."""

import logging
import math
import re
import time
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from hf_lorameta.bank.bank import Bank
from hf_lorameta.errors import (
    BudgetError,
    EmptyDatasetError,
    LoraMetaError,
    Option,
    UnlabeledDatasetError,
    UsageError,
)
from hf_lorameta.pipeline.automatic import (
    Automatic,
    missing_extra,
    obstacle_to_running,
    possible,
)
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.progress import duration
from hf_lorameta.pipeline.rows import CHECK_ROWS, MIN_TRAINING_ROWS
from hf_lorameta.pipeline.session import Session
from hf_lorameta.recipe import MOST_FITTED, Recipe
from hf_lorameta.training.further.settings import STAGES, Stage, work
from hf_lorameta.types import Row

logger = logging.getLogger(__name__)

FIT = STAGES[:1]

ROWS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Numbers of rows that are considered."""
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
_MOST_TOKENS = 512
_SIZE = 256
"""Rows and columns of the matrices whose product is timed."""
_TRAINED, _SCORED = 3.5, 1.0
"""Cost of a row in training and of one that is only scored, in forward passes.

Training takes 3, forward and backward, and about half a pass for the factors of all projections.
"""
_TIMED_ROWS, _TIMED_OPERATIONS = 8, 1e12
"""Rows whose pass is timed, at most those of a training step, and their operations."""
_CHECKED = 8
"""Cost of a row to check on, in forward passes: three methods, one with examples in its prompt."""
FIT_ROWS = 300
"""Rows to fit on, at most, unless a recipe says how many."""
_LEAST_FITTED = 48
"""Fewer rows are not fitted on unasked; `CHECK_ROWS` more are to check on."""
LEAST_UNASKED = _LEAST_FITTED + CHECK_ROWS
"""Different labeled rows that a dataset has to have for both."""
_MOST_ADVISED = 100
"""Rows to train on that are advised, at most."""
_MOST_OPERATIONS = 3e13
"""Of a fit unasked: a minute or two on two cores."""
_LABEL_NOVELTY, _MOST_LABELS = 0.1, 32
"""Outputs are taken for labels if at most this share of them is new, see `OutputCounts`, and they
begin with at most so many different tokens."""


def parse_seconds(text: str) -> float:
    """Return the seconds of a time such as 90, 60s, 2m, 2min or 1h.

    Raises:
        UsageError: not a positive time.

    Example:
        >>> parse_seconds("60s"), parse_seconds("1.5 min"), parse_seconds("1h")
        (60.0, 90.0, 3600.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not found or found[2] not in _UNITS or not float(found[1]):
        raise UsageError(f"{text!r} is not a time", hint="write for example 60s, 2m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def budget_seconds(budget: float | str | None, recipe: Recipe) -> float | None:
    """Return a budget in seconds, if there is one and the recipe allows it.

    Raises:
        UsageError: it is no positive time; or the recipe says how many rows to train on, or asks
            for a mixture.

    Example:
        >>> budget_seconds("2m", Recipe())
        120.0
    """
    if budget is None:
        return None
    seconds = parse_seconds(budget) if isinstance(budget, str) else budget
    if not 0 < seconds < math.inf:
        raise UsageError(f"a budget of {seconds} s", hint="expected a positive number of seconds")
    leave_out = Option("budget", change="leave out")
    if recipe.train is not None:
        raise UsageError(
            "a budget chooses the number of rows to train on",
            hint=[leave_out, Option("train", change="leave out")],
        )
    if recipe.is_mixture:
        raise UsageError(
            "a budget is for training, but a mixture is not trained",
            hint=[leave_out, Option("emit", change="leave out")],
        )
    return seconds


def recipe_within(
    plan: Plan, pool: Sequence[Row], session: Session, seconds: float, *, may_fit: bool = True
) -> Recipe:
    """Choose the number of rows that can be trained or fitted on within a time on this machine.

    The base model is loaded, and a pass of some rows is timed; see `training_seconds`. What is
    chosen, and what more time would allow, is logged.

    Args:
        plan: its recipe's `train` is replaced, and its `fit` if it is None.
        pool: labeled rows of the dataset.
        session: runs the base model.
        seconds: for loading the base model, fitting as the recipe says, and training.
        may_fit: whether rows may be fitted on although the recipe does not say so.

    Returns:
        The plan's recipe with the number of rows.

    Raises:
        BudgetError: the time is too short.
        LoraMetaError: nothing can be trained here, see `obstacle_to_training`, or the base model
            cannot be loaded.
    """
    if obstacle := obstacle_to_training(plan, pool, session):
        obstacle.advise(Option("budget", change="leave out"))
        raise obstacle
    started = time.perf_counter()
    speed = _operations_of_a_pass(plan, pool, session)
    loading = time.perf_counter() - started
    fitted = min(plan.recipe.fit or 0, len(pool))
    fitting = training_seconds(plan, fitted, speed, FIT) if fitted else 0.0
    besides = f" besides the fit, {duration(fitting)}" if fitted else ""
    left, options = seconds - loading - fitting, possibilities(plan, pool, speed)
    options = [option for option in options if may_fit or option.field == "train"]
    chosen = max((option for option in options if option.seconds <= left), default=None)
    better = [option for option in options if chosen is None or option > chosen]
    needed = more = ""
    if better:
        next_one = min(better, key=lambda option: option.seconds)
        needed = f"{math.ceil((loading + fitting + next_one.seconds) / 60)}m"
        more = f"{next_one.title} would take at most about {duration(next_one.seconds)}"
    if chosen is None:
        raise BudgetError(
            f"a budget of {duration(seconds)} is too short{besides}: {more[0].lower()}{more[1:]}",
            hint=[Option("budget", needed), Option("budget", change="leave out")],
        )
    logger.info("%s: at most about %s%s", chosen.title, duration(chosen.seconds), besides)
    if better:
        logger.info("%s: --budget %s", more, needed)
    return plan.recipe.model_copy(update={"train": None, chosen.field: chosen.rows})


class Possible(NamedTuple):
    """A number of rows to fit or to train on; the larger of two is the better one."""

    value: int
    seconds: float
    field: str
    rows: int

    @property
    def title(self) -> str:
        """What is done, for the user."""
        return f"{'Fitting' if self.field == 'fit' else 'Training'} on {self.rows} rows"


def possibilities(plan: Plan, pool: Sequence[Row], speed: float) -> list[Possible]:
    """Return what a time may be spent on: a fit, where that is possible and not asked for, too.

    For labels, more rows are worth more than more layers, unless they are fewer than twice as many.
    For texts, any training is worth more than a fit.
    """
    available = _left(len(pool), plan.recipe)
    counts = {min(rows, available) for rows in ROWS}
    more = 0 if holds_labels(plan) else MOST_FITTED
    options = [Possible(2 * n + more, training_seconds(plan, n, speed), "train", n) for n in counts]
    if plan.recipe.fit is None and plan.output_counts is not None:
        options += [
            Possible(n, training_seconds(plan, n, speed, FIT), "fit", n)
            for n in counts
            if n <= MOST_FITTED
        ]
    return options


def _left(rows: int, recipe: Recipe) -> int:
    """Return how many rows are left besides those that a recipe fits and checks on."""
    return rows - sum((recipe.rows_asked | {"train": 0}).values())


def obstacle_to_training(plan: Plan, pool: Sequence[Row], session: Session) -> LoraMetaError | None:
    """Return why training is not possible, with advice; None if it is possible."""
    if plan.dataset.prompts_only:
        return UnlabeledDatasetError("the dataset has no outputs")
    free = _left(len(pool), plan.recipe)
    if free < MIN_TRAINING_ROWS:
        return EmptyDatasetError(
            f"{max(free, 0)} labeled rows to train on, expected at least {MIN_TRAINING_ROWS}"
        )
    return obstacle_to_running(session)


# --- time of a training ---------------------------------------------------------------------------


def training_seconds(
    plan: Plan, rows: int, operations_per_second: float, stages: Sequence[Stage] = STAGES
) -> float:
    """Estimate the time of training on a number of rows, at most, on an otherwise idle machine.

    A pass takes two operations per parameter and token. A layer of width h has about 12 h²
    parameters; the logits, of output tokens only, take h for each word of the vocabulary. Training
    on few rows that stops early takes half of it or less, and so do rows that share most of their
    tokens.

    Args:
        plan: of the dataset.
        rows: to train on.
        operations_per_second: of matrix products, see `measure_operations`.
        stages: of the training.
    """
    return _operations(plan, rows, stages) / operations_per_second


def _operations(plan: Plan, rows: int, stages: Sequence[Stage] = STAGES) -> float:
    in_layers, in_logits = forward_operations(plan)
    passes, of_logits = forward_passes(rows, plan.recipe.seed, stages)
    return in_layers * passes + in_logits * of_logits


def forward_operations(plan: Plan) -> tuple[float, float]:
    """Estimate the operations of a row's pass in all layers and in the logits.

    See `training_seconds`.
    """
    profile, (layers, width) = plan.profile, plan.bank.layers_and_width
    tokens = min((profile.input.total + profile.output.total) / profile.rows, _MOST_TOKENS)
    words = plan.bank.index.vocab_size * min(profile.output_length, _MOST_TOKENS)
    return 2 * 12 * layers * width**2 * tokens, 2 * width * words


@cache
def measure_operations(seconds: float = 0.1) -> float:
    """Measure the operations per second of matrix products in float32, on all cores, once.

    The fastest of many short ones, since other programs may slow most; where they use all cores,
    those on one core are the fastest.
    """
    on_all = _product_seconds(seconds)
    with threadpool_limits(1, "blas"):
        return 2 * _SIZE**3 / min(on_all, _product_seconds(seconds))


def _product_seconds(seconds: float) -> float:
    """Return the least time of a product of square matrices, of as many as fit into `seconds`."""
    left, right = (np.ones((_SIZE, _SIZE), np.float32) for _ in range(2))
    fastest, end = math.inf, time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        left @ right
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def _operations_of_a_pass(plan: Plan, pool: Sequence[Row], session: Session) -> float:
    """Load the base model; return the operations per second of a pass of some rows.

    Products alone are faster: up to four times on a CPU with matrix instructions for bfloat16.
    """
    of_row, evaluator = sum(forward_operations(plan)), session.evaluator
    rows = evaluator.encode(pool[: max(1, min(_TIMED_ROWS, int(_TIMED_OPERATIONS / of_row)))])
    seconds = []
    for _ in range(2):  # the first pass is slower
        started = time.perf_counter()
        evaluator.row_losses(rows)
        seconds.append(time.perf_counter() - started)
    return len(rows) * of_row / min(seconds)


def forward_passes(
    rows: int, seed: int = 0, stages: Sequence[Stage] = STAGES
) -> tuple[float, float]:
    """Return the work of training on a number of rows, at most, in passes of a row.

    Args:
        rows: to train on.
        seed: of the order of the rows.
        stages: of the training.

    Returns:
        Forward passes through all layers, and how many times logits are computed.

    Example:
        >>> forward_passes(16)
        (1229.6, 2124.0)
    """
    through_layers = in_logits = 0.0
    for stage in stages:
        of = work(rows, stage, seed)
        logits = _TRAINED * of.trained + _SCORED * of.scored
        through_layers += logits * (1 - stage.untrained) + of.passed * stage.untrained
        in_logits += logits
    return through_layers, in_logits


# --- a fit that nobody asked for -----------------------------------------------------------------


def rows_to_fit(plan: Plan, available: int) -> int:
    """Return the rows to fit on although nobody asked for it; 0 without a fit.

    The plan decides it, and not the speed of the machine.

    Args:
        plan: of the dataset.
        available: different labeled rows.
    """
    most = min(FIT_ROWS, available - CHECK_ROWS) if holds_labels(plan) else 0
    counts = range(most, _LEAST_FITTED - 1, -1)
    return next((n for n in counts if _operations(plan, n, FIT) <= _MOST_OPERATIONS), 0)


def holds_labels(plan: Plan) -> bool:
    """Whether the outputs are labels, and the bank is one whose upper layers can be fitted.

    A bank without an output prior, for which outputs are not counted, may have another
    architecture.
    """
    counts = plan.output_counts
    if counts is None:
        return False
    labels = int(np.count_nonzero(counts.first))
    return counts.novelty <= _LABEL_NOVELTY and labels <= _MOST_LABELS


def most_operations(bank: Bank, recipe: Recipe) -> float:
    """Return the operations of fitting, training and checking as a recipe says, at most.

    Where it says nothing, those of what is done where a base model is at hand. Rows are taken for
    the longest ones.

    Example:
        >>> from hf_lorameta import Bank
        >>> f"{most_operations(Bank.embedded(), Recipe(train=16)):.1e}"
        '1.5e+14'
    """
    layers, width = bank.layers_and_width
    of_row = 2.0 * 12 * layers * width**2 * _MOST_TOKENS
    asked = recipe.rows_asked or {"fit": FIT_ROWS, "check": CHECK_ROWS}
    operations = of_row * _CHECKED * asked.get("check", 0)
    if "train" in asked:
        operations += of_row * forward_passes(asked["train"], recipe.seed)[0]
    if "fit" in asked:
        fit = of_row * forward_passes(asked["fit"], recipe.seed, FIT)[0]
        operations += fit if recipe.fit else min(fit, _MOST_OPERATIONS)
    return operations


# --- the advice at the end of a plan ------------------------------------------------------------


def advise(plan: Plan, session: Session, *, may_fit: bool = True) -> str | None:
    """Say what `hf_lorameta.generate` fits unasked, or recommend to fit or train, and the time.

    The time is `training_seconds` on this machine. The base model need not be here.

    Args:
        plan: of the dataset.
        session: of the plan's bank.
        may_fit: whether rows may be fitted on although the recipe does not say so.

    Returns:
        The advice; None if the recipe says how many rows to fit, train or check on, or cannot.

    Example:
        >>> from hf_lorameta import Recipe, plan
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> advise(plan(TRAIN_FILE, recipe=Recipe(emit="mixture")), Session())
        'use the default: a mixture is not trained'
    """
    recipe, rows = plan.recipe, plan.profile.rows
    if recipe.rows_asked:
        return None
    without = "use the default" if plan.bank.index.number else "name a bank"
    if recipe.is_mixture:
        return f"{without}: a mixture is not trained"
    if not plan.profile.output.total:
        return (
            f"{without}: the dataset has no outputs to train on. Where answers are labels, label "
            f"{LEAST_UNASKED} rows first: without them the adapter rarely gives the right one"
        )
    if rows < MIN_TRAINING_ROWS:
        return f"{without}: the rows are too few to train on"
    count, stages = min(_MOST_ADVISED, rows), tuple[Stage, ...](STAGES)
    advice = f"--train {count}"
    if (fitted := min(FIT_ROWS, rows - CHECK_ROWS)) >= MIN_TRAINING_ROWS and holds_labels(plan):
        count, stages, advice = fitted, FIT, f"--fit {fitted}"
        unasked = possible(Automatic(may_fit, check=False), recipe, plan.dataset, session).fit
        if unasked and (automatic := rows_to_fit(plan, rows)):
            count, advice = automatic, f"use the default: its fit on {automatic} rows with labels"
    seconds = training_seconds(plan, count, measure_operations(), stages)
    missing = missing_extra()
    needed = f"; it needs the extra eval: {missing.hint}" if missing else ""
    return f"{advice} takes at most about {duration(seconds)} on this CPU{needed}"
