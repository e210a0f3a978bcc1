"""Train a finished adapter on labeled rows of its dataset, until a deadline."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hf_lorameta.cards.results import Training
from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError, Option
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.types import Row, StageProgress, no_progress

if TYPE_CHECKING:
    from hf_lorameta.engines.transformers.forward import RowLosses
    from hf_lorameta.training.further.train_rows import Divided, Trained


def improve(
    generation: Generation,
    rows: Rows,
    evaluator: TorchEvaluator,
    deadline: Deadline | None = None,
    progress: StageProgress = no_progress,
) -> Generation:
    """Train a finished adapter on rows, as long as held-out rows gain and time is left.

    An interruption (Ctrl-C) ends the training with the best state so far, if steps have helped.

    Args:
        generation: the adapter. If its recipe has `steps`, these are taken instead, whatever the
            held-out rows say.
        rows: only those to train on are used.
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
    from hf_lorameta.training.bank.one_task import encode_rows
    from hf_lorameta.training.further.train_rows import divide, train_further
    from hf_lorameta.training.settings import Settings

    recipe, deadline = generation.plan.recipe, deadline or Deadline()
    encoded = encode_rows(evaluator, Settings.max_length, rows.train)
    divided = divide(encoded, recipe.seed)
    try:
        result = train_further(
            evaluator.model,
            generation.layout,
            generation.pairs,
            divided,
            generation.rank,
            recipe.seed,
            steps=recipe.steps,
            deadline=deadline,
            progress=progress,
            hint=[Option("train", change="leave out")],
        )
    except KeyboardInterrupt as error:
        error.add_note("The training was interrupted before a step had helped: no adapter was made")
        raise
    training = _record(result, divided, rows.train) or generation.outcome.training
    outcome = replace(generation.outcome, training=training)
    if result.interrupted:
        outcome = replace(outcome, interrupted="training")
    elif recipe.steps is None:
        _refuse_worse_training(training, deadline)
    if deadline.limited or result.interrupted:
        used = len(rows.train) if deadline.limited else None
        outcome = replace(outcome, rows=used, steps=result.steps)
    pairs = tuple(result.factors)
    return replace(generation, layout=result.layout, pairs=pairs, outcome=outcome)


def _record(result: "Trained", divided: "Divided", rows: Sequence[Row]) -> Training | None:
    """Return what is recorded of a training on rows; None if there was no time for a step."""
    if result.start is None or result.end is None:
        return None
    return Training(
        rows=len(divided.train),
        held_out=len(result.end.rows),
        base=_mean(result.start.base),
        start=_mean(result.start.adapter),
        end=_mean(result.end.adapter),
        steps=result.steps,
        used_rows=len(rows),
        layers=result.layers,
        outputs=len({output.strip() for _, output in rows}),
    )


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
