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

from hf_lorameta.engines.packing import Pass, using_row_attention
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.refine.fit import is_significant
from hf_lorameta.refine.results import Training
from hf_lorameta.training.few_rows_settings import FOLDS, held_out_rows
from hf_lorameta.training.lora_slots import LoraSlots
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.trainer import PassRunner
from hf_lorameta.types import Array, FactorPair, LossProgress, no_progress

_HALF_WAY = 0.5
Fold = tuple[list[Tokens], list[Tokens]]
"""Rows to train on, and held-out rows."""


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
    rows: Sequence[Tokens],
    settings: Settings,
    *,
    held_out: Sequence[Tokens] = (),
    outputs: Sequence[list[int]] = (),
    workers: int = 1,
    pass_tokens: int = 1024,
    progress: LossProgress = no_progress,
) -> Continued:
    """Train an adapter further on a few rows.

    An interruption (Ctrl-C) ends the training with the best state so far.

    Args:
        model: a causal LM of transformers with frozen weights.
        layout: the adapted modules.
        factors: A (r, in) and s·B (out, r) of every module, from which the training starts; None
            for one that starts with an update of zero.
        rows: at least 4 rows.
        settings: see `hf_lorameta.training.few_rows_settings.settings_for`.
        held_out: other rows, which decide how many steps help; none leaves it to some of `rows`.
        outputs: those of other rows of the dataset, one of which takes part in each step; none
            leaves them out.
        workers: threads that compute passes.
        pass_tokens: maximum tokens of a pass.
        progress: called after each step with (steps done, steps expected, lowest loss on held-out
            rows).

    Raises:
        UsageError: the architecture cannot be trained here.
    """
    with using_row_attention(model):
        slots = LoraSlots(model, layout, settings.rank, settings.scaling, FOLDS, settings.clip)
        runner = PassRunner(model, workers, pass_tokens)
        try:
            with runner:
                new = slots.factors(slots.initial(settings.seed))
                start = [given or fresh for given, fresh in zip(factors, new, strict=True)]
                vector = slots.vector(start)
                training = _Training(slots, runner, settings, vector, outputs, progress)
                return training.run(rows, split(rows, settings.seed, held_out))
        finally:
            slots.detach()


class _Training:
    def __init__(
        self,
        slots: LoraSlots,
        runner: PassRunner,
        settings: Settings,
        initial: torch.Tensor,
        outputs: Sequence[list[int]],
        progress: LossProgress,
    ) -> None:
        self._slots, self._runner, self._settings = slots, runner, settings
        self._initial, self._outputs, self._progress = initial, outputs, progress
        self._measured: list[_Measurement] = []  # on held-out rows
        self._done = self._expected_steps = 0
        for slot in range(slots.count):
            slots.start(slot, initial)
        self._best = slots.parameters.clone()  # of every slot

    def run(self, rows: Sequence[Tokens], parts: Sequence[Fold]) -> Continued:
        """Find how many steps help, and return the adapter after so many."""
        held_out = [held_out for _, held_out in parts]
        base, interrupted = self._measure(held_out, 0, adapters=False).loss, False
        self._measured.append(self._measure(held_out, 0))
        chosen: tuple[_Measurement, float] | None = None
        trained_on = len(parts[0][0])
        try:
            self._expected_steps = self._settings.steps * len(parts)
            self._search(parts)
            kept, fraction = self._kept()
            if not fraction and self._lowest.steps:
                kept, fraction = self._half_way(held_out)
            chosen, steps = (kept, fraction), kept.steps
            if len(parts) > 1 and steps:
                steps = steps_on_all(steps, len(parts), self._settings)
                self._expected_steps = self._done + steps
                self._train_on_all(rows, steps)
                trained_on = len(rows)
        except KeyboardInterrupt:
            interrupted, (kept, fraction) = True, chosen or self._kept()
            steps = kept.steps
        factors = self._slots.factors(torch.lerp(self._initial, self._best[0], fraction))
        training = Training(
            rows=trained_on,
            held_out=sum(map(len, held_out)),
            base=base,
            start=self._measured[0].loss,
            end=kept.loss,
            steps=steps,
            fraction=fraction,
            interrupted=interrupted,
            other_outputs=len(self._outputs),
            on_other_rows=len(parts) == 1,
            used_rows=len(parts[0][0]) + len(held_out[0]),
        )
        return Continued(factors, training)

    @property
    def _lowest(self) -> "_Measurement":
        return min(self._measured, key=lambda measured: (measured.loss, measured.steps))

    def _kept(self) -> tuple["_Measurement", float]:
        """Return the lowest measurement, or the start if its gain may be due to chance.

        With it, how far to go from the initial parameters to the best ones: 1 or 0.
        """
        start, lowest = self._measured[0], self._lowest
        gains = start.by_row - lowest.by_row
        return (lowest, 1.0) if is_significant(gains, lowest.sizes) else (start, 0.0)

    def _half_way(self, held_out: Sequence[Sequence[Tokens]]) -> tuple["_Measurement", float]:
        """Return what `_kept` does, with the measurement half way to the lowest one."""
        start, steps = self._measured[0], self._lowest.steps
        for slot, best in enumerate(self._best):
            self._slots.start(slot, torch.lerp(self._initial, best, _HALF_WAY))
        half_way = self._measure(held_out, steps)
        return (half_way, _HALF_WAY) if half_way.loss < start.loss else (start, 0.0)

    def _search(self, parts: Sequence[Fold]) -> None:
        """Train on the rows of each part, until the loss on its held-out rows rises."""
        settings, held_out = self._settings, [held_out for _, held_out in parts]
        for step in self._steps([train for train, _ in parts], settings.steps):
            if step % settings.evaluate_every and step != settings.steps:
                continue
            self._measured.append(self._measure(held_out, step))
            if self._lowest.steps == step:
                self._best = self._slots.parameters.clone()
            if step - self._lowest.steps >= settings.patience * settings.evaluate_every:
                return

    def _train_on_all(self, rows: Sequence[Tokens], steps: int) -> None:
        for _ in self._steps([rows], steps):
            pass
        self._best = self._slots.parameters.clone()

    def _steps(self, rows: Sequence[Sequence[Tokens]], count: int) -> Iterator[int]:
        """Train a slot on each list of rows; yield the number of steps after each step."""
        for slot in range(len(rows)):
            self._slots.start(slot, self._initial)
        orders = [batches(of_slot, self._settings, self._outputs) for of_slot in rows]
        for step in range(1, count + 1):
            self._step({slot: next(order) for slot, order in enumerate(orders)}, step)
            self._done += 1
            self._progress(self._done, self._expected_steps, self._lowest.loss)
            yield step

    def _step(self, rows: dict[int, list[Tokens]], step: int) -> None:
        """Take a step of every slot on the mean loss of its output tokens."""
        totals = {slot: sum(len(row.output) for row in of_slot) for slot, of_slot in rows.items()}

        def backward(packed: Pass, losses: torch.Tensor) -> None:
            parts = torch.split(losses, list(packed.outputs.values()))
            means = [
                part.sum() / totals[slot] for slot, part in zip(packed.outputs, parts, strict=True)
            ]
            torch.autograd.backward(torch.stack(means).sum())

        self._runner.run(rows, backward, gradients=True)
        for slot in rows:
            self._slots.update(slot, self._settings.learning_rate(step - 1))

    def _measure(
        self, rows: Sequence[Sequence[Tokens]], steps: int, adapters: bool = True
    ) -> "_Measurement":
        """Compute the losses of all slots' rows."""
        found: dict[int, list[tuple[int, float]]] = {}  # by first slot: threads end in any order

        def collect(packed: Pass, losses: torch.Tensor) -> None:
            sums = [float(row.sum()) for row in torch.split(losses.double(), list(packed.by_row))]
            pairs = found.setdefault(next(iter(packed.outputs)), [])
            pairs += zip(packed.by_row, sums, strict=True)

        self._runner.run(dict(enumerate(rows)), collect, adapters=adapters)
        sizes, sums = zip(*(pair for slot in sorted(found) for pair in found[slot]), strict=True)
        loss = math.fsum(sums) / sum(sizes)
        return _Measurement(math.inf if math.isnan(loss) else loss, steps, np.array(sums), sizes)


class _Measurement(NamedTuple):
    """Loss on held-out rows after some steps, per token; and losses and output tokens by row."""

    loss: float
    steps: int
    by_row: Array
    sizes: tuple[int, ...]


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
        >>> from hf_lorameta.training.few_rows_settings import settings_for
        >>> [steps_on_all(steps, 2, settings_for(16, rank=16, seed=0)) for steps in (3, 9, 24)]
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
