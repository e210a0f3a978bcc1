"""Train a finished adapter on rows of its dataset, in the upper layers of the base model.

Held-out rows decide which state is kept, by their right answers and by the probability of their
outputs. Their loss is not used: it rises when the adapter gets too sure of a few wrong answers,
while further training still raises the share of right ones. If the gain on the held-out rows is
within its standard error, the adapter stays as it was.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.transformers.decoder import decoder_layers, width
from hf_lorameta.engines.transformers.forward import PassRunner, RowLosses, count_tokens
from hf_lorameta.engines.transformers.joined_rows import JoinedRows
from hf_lorameta.engines.transformers.row_mode import rows_apart
from hf_lorameta.errors import Advice, Option, RecipeError
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.training.device import plan_device
from hf_lorameta.training.further.settings import UNTRAINED, held_out_rows, settings_for
from hf_lorameta.training.further.upper_layers import (
    SHARES,
    UpperLayers,
    divide_layout,
    first_trained_layer,
)
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.target_layers import with_all_projections
from hf_lorameta.training.trainable_adapters import TrainableAdapters
from hf_lorameta.types import Array, FactorPair, Progress, StageProgress, no_progress

_ROWS_AT_A_TIME = 8
_HELD_OUT_TIME = 0.2
"""Share of the remaining time to score held-out rows in, before the first step; 8 are always
scored."""
_EARLY_STEPS = (4, 8, 16)


class Divided(NamedTuple):
    """Rows of a dataset, encoded: to train on, and to hold out."""

    train: list[Tokens]
    held_out: list[Tokens]


class Scores(NamedTuple):
    """Losses of held-out rows.

    Attributes:
        rows: R of them.
        base: their losses with the base model.
        adapter: their losses with the adapter.
    """

    rows: Sequence[Tokens]
    base: RowLosses
    adapter: RowLosses

    @property
    def by_row(self) -> Array:
        """What decides, (R,): the mean of the output's probability and of 1 for a right answer."""
        answers = zip(self.rows, self.adapter.likeliest, strict=True)
        right = [float(row.output == answer) for row, answer in answers]
        return np.nan_to_num((np.array(right) + self.adapter.probabilities) / 2)


@dataclass
class Trained:
    """An adapter after a training.

    Attributes:
        layout: the adapted modules.
        factors: A (r, in) and s·B (out, r) of each of them, float32.
        steps: taken; 0 if none helped.
        layers: number of layers that were trained, the upper ones; 0 if all were.
        start: scores of the held-out rows before training; None if there was no time for a step.
        end: their scores with this adapter.
        interrupted: whether the user ended the training.
    """

    layout: Layout
    factors: Sequence[FactorPair]
    steps: int = 0
    layers: int = 0
    start: Scores | None = None
    end: Scores | None = None
    interrupted: bool = False


def train_further(
    model: Any,
    layout: Layout,
    factors: Sequence[FactorPair],
    rows: Divided,
    rank: int,
    seed: int,
    *,
    untrained: float = UNTRAINED,
    steps: int | None = None,
    deadline: Deadline | None = None,
    progress: StageProgress = no_progress,
    hint: Sequence[Advice] = (),
) -> Trained:
    """Train an adapter in all projections of the upper layers; keep the best state.

    An interruption (Ctrl-C) ends the training with the best state so far, if steps have helped.

    Args:
        model: a causal LM of transformers with frozen weights.
        layout: the adapted modules.
        factors: A (r, in) and s·B (out, r) of each of them.
        rows: to train on, and held-out rows that decide.
        rank: r of the modules that the training adds.
        seed: of these, and of the order of the rows.
        untrained: share of the layers, the lower ones, that are not trained; all are if the base
            model cannot begin in between.
        steps: how many to take, whatever the held-out rows say; not with a deadline.
        deadline: the training ends when less time is left than a step and scoring took.
        progress: called after each step with (title, steps done, likely steps in all).
        hint: what to do if there is not enough memory.

    Raises:
        KeyboardInterrupt: the training was interrupted before a step helped.
        RecipeError: more steps than the training has.
        UsageError: the model cannot be trained, or there is not enough memory.
    """
    state, deadline = Trained(layout, factors), deadline or Deadline()
    if deadline.passed or steps == 0:
        return state
    first, count = first_trained_layer(model, untrained), len(rows.train)
    settings = settings_for(count, width(model), rank, seed)
    if steps is not None and steps > settings.steps:
        expected = f"at most {settings.steps} on {count} rows"
        leave_out = Option("steps", change="leave out")
        raise RecipeError(f"got {steps} steps, expected {expected}", hint=leave_out)
    layers = len(decoder_layers(model))
    title = f"Training {layers - first} of {layers} layers on {count} rows"
    try:
        trainer = _Trainer(model, state, rows, settings, first, deadline, hint)
        trainer.train(steps, partial(progress, title))
    except KeyboardInterrupt:
        if not state.steps:
            raise
        state.interrupted = True
    return state


class _Trainer:
    """Trains all layers from a given one upwards.

    Args:
        state: gets the best adapter.
        settings: of the training.
        first: index of the first trained layer.

    The other arguments are as for `train_further`.
    """

    def __init__(
        self,
        model: Any,
        state: Trained,
        rows: Divided,
        settings: Settings,
        first: int,
        deadline: Deadline,
        hint: Sequence[Advice],
    ) -> None:
        self._model, self._state, self._rows = model, state, rows
        self._settings, self._first, self._deadline = settings, first, deadline
        self._trained = len(decoder_layers(model)) - first
        self._below, _ = divide_layout(model, state.layout, first)
        _, self._layout = divide_layout(model, with_all_projections(model, state.layout), first)
        given = dict(zip(state.layout, state.factors, strict=True))
        self._factors = [given[module] for module in self._below]
        tokens = count_tokens([*rows.train, *rows.held_out])
        kept = 4 * width(model) * tokens if first else 0
        rank, scaling = settings.rank, settings.scaling
        machine = plan_device(model, self._layout, rank, SHARES, first=first, kept=kept, hint=hint)
        self._slots = TrainableAdapters(model, self._layout, rank, scaling, SHARES, settings.clip)
        new = self._slots.factors(self._slots.initial(settings.seed))
        start = [given.get(module, pair) for module, pair in zip(self._layout, new, strict=True)]
        vector = self._slots.vector(start)
        for slot in range(SHARES):
            self._slots.start(slot, vector)
        self._runner = PassRunner(model, machine.workers, machine.pass_tokens)
        self._upper = UpperLayers(model, first, self._below, self._factors, self._runner)

    def train(self, given: int | None, progress: Progress) -> None:
        """Take steps until time runs out or all are taken.

        Args:
            given: steps to take, whatever the held-out rows say.
            progress: called after each step with (steps done, likely steps in all).
        """
        deadline, most = self._deadline, given or self._settings.steps
        with rows_apart(self._model), self._slots.attached(), self._upper:
            before, scoring = self._score_first()
            order, step, scored = batches(self._rows.train, self._settings), 0, 0
            stepping = 0.0
            while step < most and deadline.left() > stepping + scoring:
                started = deadline.clock()
                self._step(next(order), step)
                step += 1
                stepping = deadline.clock() - started
                progress(step, _likely_steps(step, most, stepping, deadline.left() - scoring))
                if given is None and self._is_due(step):
                    started, scored = deadline.clock(), step
                    self._keep_if_better(before, step)
                    scoring = deadline.clock() - started
            if given is not None:
                self._keep(before, self._score(before), step)
            elif scored < step:
                self._keep_if_better(before, step)
            if step and not self._state.steps:
                self._state.start = self._state.end = before

    def _score_first(self) -> tuple[Scores, float]:
        """Score before the first step, on as many rows as a share of the time allows.

        Returns:
            The scores, and the seconds that those of the adapter took.
        """
        deadline, held_out = self._deadline, self._rows.held_out
        enough = (1 - _HELD_OUT_TIME) * deadline.left()
        rows, base = list[Tokens](), list[RowLosses]()
        for i in range(0, len(held_out), _ROWS_AT_A_TIME):  # the time is checked between them
            part = held_out[i : i + _ROWS_AT_A_TIME]
            if rows and deadline.left() < enough:
                break
            self._upper.store(part)
            base.append(self._runner.losses({0: part}, adapters=False)[0])
            rows += part
        joined = RowLosses(*(list(chain.from_iterable(of)) for of in zip(*base, strict=True)))
        started = deadline.clock()
        scores = Scores(rows, joined, self._runner.losses({0: rows})[0])
        return scores, deadline.clock() - started

    def _is_due(self, step: int) -> bool:
        """Whether to score after a step: often at first, since the first steps gain the most."""
        return step % self._settings.evaluate_every == 0 or step in _EARLY_STEPS

    def _step(self, batch: Sequence[Tokens], number: int) -> None:
        self._upper.store(batch)
        total = sum(len(row.output) for row in batch)

        def weights(joined: JoinedRows) -> list[float]:
            return [1 / total] * len(joined.targets)

        shares = {slot: batch[slot::SHARES] for slot in range(SHARES)}
        self._runner.backward(shares, weights)
        self._slots.update_together(self._settings.learning_rate(number))

    def _score(self, before: Scores) -> Scores:
        return before._replace(adapter=self._runner.losses({0: before.rows})[0])

    def _keep_if_better(self, before: Scores, step: int) -> None:
        """Keep the adapter if it is the best so far, and better than before by more than chance."""
        now, best = self._score(before), self._state.end or before
        gains = now.by_row - before.by_row
        if now.by_row.mean() > best.by_row.mean() and is_significant(gains):
            self._keep(before, now, step)

    def _keep(self, before: Scores, now: Scores, step: int) -> None:
        state = self._state
        parameters = self._slots.parameters[0].clone()  # those of the slot change
        factors = [*self._factors, *self._slots.factors(parameters)]
        state.layout, state.factors = self._below + self._layout, factors
        state.layers = self._trained if self._first else 0
        state.steps, state.start, state.end = step, before, now


def _likely_steps(taken: int, most: int, seconds: float, left: float) -> int:
    """Return how many steps there will be, if each takes so many seconds of those left.

    Example:
        >>> _likely_steps(4, 94, 2.0, 9.0), _likely_steps(4, 94, 2.0, math.inf)
        (8, 94)
    """
    return int(min(most, taken + max(left, 0) / max(seconds, 1e-9)))


def is_significant(gains: Array) -> bool:
    """Whether the mean of gains exceeds its standard error.

    Args:
        gains: (R,) in any unit.

    Example:
        >>> is_significant(np.array([1.0, 1.2, 0.8])), is_significant(np.array([3.0, -1.0, -1.0]))
        (True, False)
    """
    return bool(gains.mean() > gains.std(ddof=1) / math.sqrt(len(gains)))


# --- rows ---------------------------------------------------------------------------------------


def divide(rows: Sequence[Tokens], seed: int) -> Divided:
    """Divide rows into those to train on and those to hold out.

    The same share of the rows of each output is held out.

    Args:
        rows: at least 8.
        seed: of the order of the rows.

    Example:
        >>> train, held_out = divide([Tokens([i], [i % 2]) for i in range(16)], seed=0)
        >>> len(train), sorted(row.output for row in held_out)
        (12, [[0], [0], [1], [1]])
    """
    shuffled = list(rows)
    random.Random(f"{seed} held out").shuffle(shuffled)
    shuffled.sort(key=lambda row: tuple(row.output))
    count = held_out_rows(len(rows))
    chosen = {(2 * i + 1) * len(rows) // (2 * count) for i in range(count)}
    parts: tuple[list[Tokens], list[Tokens]] = ([], [])
    for index, row in enumerate(shuffled):
        parts[index in chosen].append(row)
    return Divided(*parts)


def batches(rows: Sequence[Tokens], settings: Settings) -> Iterator[list[Tokens]]:
    """Yield the rows of one step after another, epoch after epoch.

    Each step has a share of every output, so that a training that ends early has seen all of them.

    Args:
        rows: to train on.
        settings: of the training.

    Example:
        >>> order = batches([Tokens([i], [i // 8]) for i in range(16)], Settings(rows=4))
        >>> sorted(row.output for row in next(order))
        [[0], [0], [1], [1]]
    """
    generator = random.Random(f"{settings.seed} order")
    while True:
        epoch = list(rows)
        generator.shuffle(epoch)
        epoch.sort(key=lambda row: tuple(row.output))
        count = math.ceil(len(epoch) / settings.rows)
        steps = [epoch[index::count] for index in range(count)]
        generator.shuffle(steps)
        yield from steps
