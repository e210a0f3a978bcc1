"""Train a finished adapter on labeled rows of its dataset, until a deadline."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hf_lorameta.cards.results import Outcome, Training
from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError, Option
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.training.further.settings import UPPER_FIFTH, UPPER_THREE_QUARTERS, Part
from hf_lorameta.types import Row, StageProgress, no_progress

if TYPE_CHECKING:
    from hf_lorameta.engines.transformers.forward import RowLosses


def improve(
    generation: Generation,
    rows: Rows,
    evaluator: TorchEvaluator,
    deadline: Deadline | None = None,
    progress: StageProgress = no_progress,
) -> Generation:
    """Train a finished adapter on rows, as long as held-out rows gain and time is left.

    On the rows to fit on, the upper fifth of the layers is trained; on the rows to train on, the
    upper three quarters. An interruption (Ctrl-C) ends the training with the best state
    so far, if steps have helped.

    Args:
        generation: the adapter. If its recipe has `steps`, these are taken instead, whatever the
            held-out rows say.
        rows: only those to fit and to train on are used.
        evaluator: the base model.
        deadline: when to stop; None stops when held-out rows no longer gain.
        progress: called after each step with (title, steps done, likely steps in all).

    Returns:
        The adapter with its `outcome`. If no step was taken, its weights are unchanged.

    Raises:
        KeyboardInterrupt: the training was interrupted before a step helped.
        RecipeError: more steps are given than a training has.
        UsageError: the base model cannot be trained here, or there is not enough memory.
        AdapterError: there was no deadline, and the base model is better on held-out rows.
    """
    deadline, steps, taken = deadline or Deadline(), generation.plan.recipe.given_steps, list[int]()
    parts = (("fit", rows.fit, UPPER_FIFTH), ("training", rows.train, UPPER_THREE_QUARTERS))
    numbers = steps or (None,) * len(parts)
    for name, of_name, part in (each for each in parts if each[1]):
        given = 0 if generation.outcome.interrupted else numbers[len(taken)]
        try:
            generation, count = _train(
                generation, name, of_name, part, given, evaluator, deadline, progress
            )
        except KeyboardInterrupt:
            fit = generation.outcome.fit
            if fit is None or not fit.steps:
                raise
            stopped = replace(fit, interrupted=True)
            generation, count = replace(generation, outcome=Outcome(stopped)), 0
        taken.append(count)
    outcome = generation.outcome
    if steps is None and not outcome.interrupted:
        _refuse_worse_training(outcome.training, deadline)
    if deadline.limited or outcome.interrupted:
        used = len(rows.train) if deadline.limited else None
        outcome = replace(outcome, rows=used, steps=tuple(taken))
    return replace(generation, outcome=outcome)


def _train(
    generation: Generation,
    name: str,
    rows: Sequence[Row],
    part: Part,
    steps: int | None,
    evaluator: TorchEvaluator,
    deadline: Deadline,
    progress: StageProgress,
) -> tuple[Generation, int]:
    """Return the adapter with its training recorded under a name, and the steps taken."""
    from hf_lorameta.training.bank.one_task import encode_rows
    from hf_lorameta.training.further.train_rows import divide, train_further
    from hf_lorameta.training.settings import Settings

    plan, model = generation.plan, evaluator.model
    divided = divide(encode_rows(evaluator, Settings.max_length, rows), plan.recipe.seed)
    try:
        result = train_further(
            model,
            generation.layout,
            generation.pairs,
            divided,
            generation.rank,
            plan.recipe.seed,
            part=part,
            steps=steps,
            deadline=deadline,
            progress=progress,
            hint=[Option("fit" if name == "fit" else "train", change="leave out")],
        )
    except KeyboardInterrupt as error:
        error.add_note("The training was interrupted before a step had helped: no adapter was made")
        raise
    if result.start is None or result.end is None:
        return generation, result.steps
    training = Training(
        rows=len(divided.train),
        held_out=len(result.end.rows),
        base=_mean(result.start.base),
        start=_mean(result.start.adapter),
        end=_mean(result.end.adapter),
        steps=result.steps,
        interrupted=result.interrupted,
        used_rows=len(rows),
        layers=result.layers,
        outputs=len({output.strip() for _, output in rows}),
    )
    before, pairs = generation.outcome, tuple(result.factors)
    outcome = Outcome(training) if name == "fit" else replace(before, training=training)
    trained = replace(generation, layout=result.layout, pairs=pairs, outcome=outcome)
    return trained, result.steps


def _mean(losses: "RowLosses") -> float:
    """Return the mean probability of rows; 0 if it is not a number."""
    return float(np.nan_to_num(losses.probabilities.mean()))


def _refuse_worse_training(training: Training | None, deadline: Deadline) -> None:
    """Raise `AdapterError` if the base model is better although there was no deadline."""
    if training and not deadline.limited and training.end < training.base:
        raise AdapterError(
            f"on {training.held_out} held-out rows, the adapter is worse than the base model: an "
            f"output token has a probability of {training.end:.3f}, with the base model "
            f"{training.base:.3f}",
            hint=[
                "train on more rows",
                Option("bank", change="name another"),
                Option("train", change="leave out"),
            ],
        )
