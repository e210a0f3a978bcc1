"""Train a generated adapter further on a few rows of its dataset.

How long training helps is found on rows that it did not see: with few rows by cross-validation,
and then all of them are trained on for as many epochs, or on other rows; with many rows, some are
held out. Where the gain of the held-out rows is within its standard error, training goes half way,
if these rows gain from that; otherwise the adapter stays as it was generated.

With few rows, one row of each step has the output of another row of the dataset. That keeps outputs
possible that none of the few rows has, such as other labels, and the adapter from being too sure.
"""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_lorameta.cards.results import Training
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.training.device import DevicePlan
from hf_lorameta.training.further.settings import FOLDS, held_out_rows
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.trainer import Run, Trainer
from hf_lorameta.types import Array, FactorPair, LossProgress, no_progress

_HALF_WAY = 0.5
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
    progress: LossProgress = no_progress,
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
        progress: called after each step with (steps done, steps expected, lowest loss on held-out
            rows).

    Raises:
        KeyboardInterrupt: the training was interrupted before a step helped.
        UsageError: the architecture cannot be trained here.
    """
    parts = split(rows.train, settings.seed, rows.held_out)
    search = _run([train for train, _ in parts], [held_out for _, held_out in parts],
                  settings.steps, rows, settings)  # fmt: skip
    taken, chosen, trained_on, interrupted = search, None, len(parts[0][0]), False
    with Trainer(model, layout, settings, plan, FOLDS, start=factors) as trainer:
        try:
            _take(trainer, search, progress, 0, settings.steps * len(parts))
            chosen = _whole_way(search) or _half_way(trainer, search)
            if len(parts) > 1 and chosen.steps:
                steps = steps_on_all(chosen.steps, len(parts), settings)
                on_all = _run([rows.train], (), steps, rows, settings)
                _take(trainer, on_all, progress, search.step, search.step + steps, search.loss)
                taken, trained_on = on_all, len(rows.train)
        except KeyboardInterrupt:
            if math.isnan(search.loss):  # nothing was measured yet
                raise
            interrupted = True
        chosen = chosen or _whole_way(search) or _start(search)
        if interrupted and not chosen.steps:
            raise KeyboardInterrupt
        vector = torch.lerp(trainer.initial, taken.best[0], chosen.fraction)
        adapter = trainer.slots.factors(vector)
    training = Training(
        rows=trained_on,
        held_out=sum(len(held_out) for _, held_out in parts),
        base=search.base_loss,
        start=search.mean(search.start),
        end=chosen.loss,
        steps=taken.best_step if chosen.steps else 0,
        fraction=chosen.fraction,
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
    return Run("few rows", zip(*orders, strict=True), held_out, steps)


def _take(
    trainer: Trainer,
    run: Run,
    progress: LossProgress,
    done: int,
    expected: int,
    lowest: float | None = None,
) -> None:
    """Take the steps of a run."""
    for _ in trainer.train([run]):
        progress(done + run.step, expected, run.loss if lowest is None else lowest)


# --- how far to go ------------------------------------------------------------------------------


class _Choice(NamedTuple):
    """Loss of held-out rows, the steps that it takes, and how far to go to where these end."""

    loss: float
    steps: int
    fraction: float


def _start(search: Run) -> _Choice:
    return _Choice(search.mean(search.start), 0, 0.0)


def _whole_way(search: Run) -> _Choice | None:
    """Return the best state; None if its gain may be due to chance."""
    gains = np.array(search.start.sums) - np.array(search.lowest.sums)
    if not is_significant(gains, search.lowest.sizes):
        return None
    return _Choice(search.loss, search.best_step, 1.0)


def _half_way(trainer: Trainer, search: Run) -> _Choice:
    """Return the state half way to the best one if it is better than the start."""
    start = _start(search)
    if not search.best_step:
        return start
    parameters = torch.lerp(trainer.initial, search.best, _HALF_WAY)
    loss = search.mean(trainer.losses(search.held_out, parameters))
    return _Choice(loss, search.best_step, _HALF_WAY) if loss < start.loss else start


def is_significant(gains: Array, sizes: Sequence[int]) -> bool:
    """Whether the mean gain per token exceeds its standard error.

    The standard error is that of a ratio of sums over rows (Cochran, Sampling Techniques, 1977,
    section 6.3).

    Args:
        gains: (R,) gain of each row, the sum over its tokens, in nats.
        sizes: R numbers of tokens.

    Example:
        >>> is_significant(np.array([1.0, 1.2, 0.8]), [1, 1, 1])
        True
        >>> is_significant(np.array([3.0, -1.0, -1.0]), [1, 1, 1])
        False
    """
    mean = gains.sum() / sum(sizes)
    residuals = gains - mean * np.array(sizes)
    count = len(gains)
    error = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / sum(sizes)
    return bool(mean > error)


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
    folds = [shuffled[fold::FOLDS] for fold in range(FOLDS)]
    return [
        ([row for other in folds if other is not fold for row in other], fold) for fold in folds
    ]


def steps_on_all(steps: int, folds: int, settings: Settings) -> int:
    """Return the steps on all rows that are as many epochs as `steps` on all folds but one.

    At most those of the settings.

    Example:
        >>> [steps_on_all(steps, 2, Settings(steps=24)) for steps in (3, 9, 24)]
        [6, 18, 24]
    """
    return min(round(steps * folds / (folds - 1)), settings.steps)


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
