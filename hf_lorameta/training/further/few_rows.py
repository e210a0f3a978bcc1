"""Train a generated adapter further on a few rows of its dataset.

How long training helps is found on rows that it did not see: with few rows by cross-validation,
and then all of them are trained on for as many epochs, or on other rows; with many rows, some are
held out. Where the gain of the held-out rows is within its standard error, the adapter stays as it
was generated.

What counts is the probability of the held-out outputs, not their loss. A training goes on to raise
the share of right answers after it began to be too sure of a few wrong ones, which raise the loss.

With few rows, one row of each step has the output of another row of the dataset. That keeps outputs
possible that none of the few rows has, such as other labels, and the adapter from being too sure.
"""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from hf_lorameta.cards.results import Training
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.training.device import DevicePlan
from hf_lorameta.training.further.settings import FOLDS, held_out_rows
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.trainer import Run, Trainer
from hf_lorameta.types import Array, FactorPair, Progress, no_progress

Fold = tuple[list[Tokens], list[Tokens]]
"""Rows to train on, and held-out rows."""


class FewRows(NamedTuple):
    """Rows of a dataset, encoded.

    Attributes:
        train: at least 4 rows to train on.
        held_out: other rows, which decide how many steps help; none leaves it to some of `train`.
        outputs: those of other rows, one of which takes part in each step; none leaves them out.
    """

    train: Sequence[Tokens]
    held_out: Sequence[Tokens] = ()
    outputs: Sequence[list[int]] = ()


class Continued(NamedTuple):
    """An adapter after further training.

    Attributes:
        factors: A (r, in) and s·B (out, r) of every module, float32; the start if no step helped.
        training: what it took and brought.
    """

    factors: list[FactorPair]
    training: Training


def continue_training(
    model: Any,
    layout: Layout,
    factors: Sequence[FactorPair | None],
    rows: FewRows,
    settings: Settings,
    plan: DevicePlan,
    progress: Progress = no_progress,
) -> Continued:
    """Train an adapter further on a few rows.

    An interruption (Ctrl-C) ends the training with the best state so far, if steps have helped.

    Args:
        model: a causal LM of transformers with frozen weights.
        layout: the adapted modules.
        factors: A (r, in) and s·B (out, r) of every module, from which the training starts; None
            for one that starts with an update of zero.
        rows: to train on, and others that take part.
        settings: see `hf_lorameta.training.further.settings.settings_for`.
        plan: how the training uses the machine.
        progress: called after each step with (steps done, steps expected).

    Raises:
        KeyboardInterrupt: the training was interrupted before a step helped.
        UsageError: the architecture cannot be trained here.
    """
    parts = split(rows.train, settings.seed, rows.held_out)
    search = _run([train for train, _ in parts], [held_out for _, held_out in parts],
                  settings.steps, rows, settings)  # fmt: skip
    taken, trained_on, interrupted = search, len(parts[0][0]), False
    with Trainer(model, layout, settings, plan, FOLDS, start=factors) as trainer:
        try:
            for _ in trainer.train([search]):
                progress(search.step, settings.steps * len(parts))
            if len(parts) > 1 and _helps(search):
                # as many epochs: all rows are twice as many
                steps = min(2 * search.best_step, settings.steps)
                on_all = _run([rows.train], (), steps, rows, settings)
                for _ in trainer.train([on_all]):
                    progress(search.step + on_all.step, search.step + steps)
                taken, trained_on = on_all, len(rows.train)
        except KeyboardInterrupt:
            if math.isnan(search.loss) or not _helps(search):  # NaN: nothing was measured yet
                raise
            interrupted = True
        helps = _helps(search)
        adapter = trainer.slots.factors(taken.best[0] if helps else trainer.initial)
    start = _probability(search.mean(search.start))
    training = Training(
        rows=trained_on,
        held_out=sum(len(held_out) for _, held_out in parts),
        base=_probability(search.base_loss),
        start=start,
        end=_probability(search.loss) if helps else start,
        steps=taken.best_step if helps else 0,
        interrupted=interrupted,
        other_outputs=len(rows.outputs),
        on_other_rows=len(parts) == 1,
        used_rows=sum(map(len, parts[0])),
    )
    return Continued(adapter, training)


def _run(
    train: Sequence[Sequence[Tokens]],
    held_out: Sequence[Sequence[Tokens]],
    steps: int,
    rows: FewRows,
    settings: Settings,
) -> Run:
    """Return the training of an adapter on each list of rows, measured together."""
    orders = [batches(of_slot, settings, rows.outputs) for of_slot in train]
    return Run("few rows", zip(*orders, strict=True), held_out, steps, by_probability=True)


def _probability(loss: float) -> float:
    """Return the probability of a run's `loss`, which is infinite where it is not a number."""
    return max(1 - loss, 0.0)


def _helps(search: Run) -> bool:
    """Whether the best state is better than the start by more than chance."""
    return is_significant(search.lowest.probabilities - search.start.probabilities)


def is_significant(gains: Array) -> bool:
    """Whether the mean of gains exceeds its standard error.

    Args:
        gains: (R,) in any unit.

    Example:
        >>> import numpy as np
        >>> is_significant(np.array([1.0, 1.2, 0.8])), is_significant(np.array([3.0, -1.0, -1.0]))
        (True, False)
    """
    return bool(gains.mean() > gains.std(ddof=1) / math.sqrt(len(gains)))


# --- rows ---------------------------------------------------------------------------------------


def split(rows: Sequence[Tokens], seed: int, held_out: Sequence[Tokens] = ()) -> list[Fold]:
    """Return the rows to train on and to hold out: of each fold, or once if there are many rows.

    Rows with the same output are dealt to the folds in turn (stratified cross-validation), so that
    a label with several rows is in each of them.

    Args:
        rows: to train on.
        seed: of the order of the rows.
        held_out: other rows to hold out instead of some of `rows`.

    Example:
        >>> rows = [Tokens([i], [i]) for i in range(100)]
        >>> [(len(train), len(held_out)) for train, held_out in split(rows[:16], seed=0)]
        [(8, 8), (8, 8)]
        >>> [(len(train), len(held_out)) for train, held_out in split(rows, seed=0)]
        [(75, 25)]
    """
    if held_out:
        return [(list(rows), list(held_out))]
    shuffled = list(rows)
    random.Random(f"{seed} few rows").shuffle(shuffled)
    if count := held_out_rows(len(rows)):
        return [(shuffled[count:], shuffled[:count])]
    shuffled.sort(key=lambda row: tuple(row.output))
    one, other = shuffled[::FOLDS], shuffled[1::FOLDS]
    return [(other, one), (one, other)]


def batches(
    rows: Sequence[Tokens], settings: Settings, outputs: Sequence[list[int]] = ()
) -> Iterator[list[Tokens]]:
    """Yield the rows of step after step, from one shuffled epoch after another.

    Args:
        rows: to train on.
        settings: of the training.
        outputs: one of them after the other takes the place of that of a row in each step.
    """
    generator, waiting = random.Random(f"{settings.seed} order"), list[Tokens]()
    others, place = cycle(outputs), random.Random(f"{settings.seed} other outputs")
    count = min(settings.rows, len(rows))
    while True:
        while len(waiting) < count:
            epoch = list(rows)
            generator.shuffle(epoch)
            waiting += epoch
        batch, waiting = waiting[:count], waiting[count:]
        if outputs:
            row = place.randrange(count)
            room = settings.max_length - len(batch[row].prompt)
            batch[row] = batch[row]._replace(output=next(others)[:room])
        yield batch
