"""One adapter in training, in the upper layers of a base model: its steps, states and scores."""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.engines.transformers.decoder import decoder_layers, width
from hf_lorameta.engines.transformers.forward import PassRunner, RowLosses, count_tokens
from hf_lorameta.engines.transformers.joined_rows import JoinedRows
from hf_lorameta.engines.transformers.row_mode import rows_apart
from hf_lorameta.errors import Advice
from hf_lorameta.training.device import plan_device
from hf_lorameta.training.settings import UNTRAINED, Settings
from hf_lorameta.training.target_layers import with_all_projections
from hf_lorameta.training.trainable_adapters import TrainableAdapters
from hf_lorameta.training.upper_layers import (
    SHARES,
    UpperLayers,
    divide_layout,
    first_trained_layer,
)
from hf_lorameta.types import Array


class HeldOutLosses(NamedTuple):
    """Losses of rows that an adapter was not trained on.

    Attributes:
        rows: R of them.
        losses: of these, with the adapter.
    """

    rows: Sequence[Tokens]
    losses: RowLosses

    @property
    def by_row(self) -> Array:
        """What decides, (R,): the mean of the output's probability and of 1 for a right answer."""
        answers = zip(self.rows, self.losses.likeliest, strict=True)
        right = [float(row.output == answer) for row, answer in answers]
        return np.nan_to_num((np.array(right) + self.losses.probabilities) / 2)

    @property
    def probability(self) -> float:
        """Mean probability of the outputs; 0 if it is not a number."""
        return float(np.nan_to_num(self.losses.probabilities.mean()))


def joined(parts: Sequence[HeldOutLosses]) -> HeldOutLosses:
    """Return the scores of all rows of several parts."""
    losses = zip(*(part.losses for part in parts), strict=True)
    rows = [row for part in parts for row in part.rows]
    return HeldOutLosses(rows, RowLosses(*(list(chain.from_iterable(of)) for of in losses)))


def is_significant(gains: Array) -> bool:
    """Whether the mean of gains exceeds its standard error.

    Args:
        gains: (R,) in any unit, R at least 2.

    Example:
        >>> is_significant(np.array([1.0, 1.2, 0.8])), is_significant(np.array([3.0, -1.0, -1.0]))
        (True, False)
    """
    return bool(gains.mean() > gains.std(ddof=1) / math.sqrt(len(gains)))


@dataclass(frozen=True)
class TrainedPart:
    """Which layers of a model are trained.

    Attributes:
        first: index of the first of them.
        layers: number of all layers of the model.
    """

    first: int
    layers: int

    @classmethod
    def of(cls, model: Any) -> "TrainedPart":
        """Return the upper layers, or all if the model cannot begin in between."""
        return cls(first_trained_layer(model, UNTRAINED), len(decoder_layers(model)))

    def __str__(self) -> str:
        return f"{self.layers - self.first} of {self.layers} layers"


class AdapterTrainer:
    """Trains an adapter in all projections of the upper layers. A context manager.

    It changes the model's layers, and puts them back afterwards.

    Args:
        model: a causal LM of transformers with frozen weights.
        part: which of its layers are trained.
        start: the adapter that training starts from.
        settings: of the training; the modules that it adds have their rank.
        rows: all that will be trained on or scored, for the memory that they need.
        hint: what to do if there is not enough memory.

    Attributes:
        taken: steps since the start.

    Raises:
        UsageError: the model cannot be trained, or there is not enough memory.
    """

    def __init__(
        self,
        model: Any,
        part: TrainedPart,
        start: LoraWeights,
        settings: Settings,
        rows: Sequence[Tokens],
        hint: Sequence[Advice] = (),
    ) -> None:
        self.taken = 0
        self._model, self._context = model, ExitStack()
        first, given = part.first, dict(zip(start.layout, start.pairs, strict=True))
        self._below, _ = divide_layout(model, start.layout, first)
        _, self._layout = divide_layout(model, with_all_projections(model, start.layout), first)
        self._factors = [given[module] for module in self._below]
        kept = 4 * width(model) * count_tokens(rows) if first else 0
        rank, scaling = settings.rank, settings.scaling
        machine = plan_device(model, self._layout, rank, SHARES, first=first, kept=kept, hint=hint)
        self._slots = TrainableAdapters(model, self._layout, rank, scaling, SHARES, settings.clip)
        new = self._slots.factors(self._slots.initial(settings.seed))
        factors = [given.get(module, pair) for module, pair in zip(self._layout, new, strict=True)]
        self.start = self._slots.vector(factors)
        """Parameters before the first step, (P,)."""
        self._runner = PassRunner(model, machine.workers, machine.pass_tokens)
        self._upper = UpperLayers(model, first, self._below, self._factors, self._runner)
        self.restart()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            for changed in (rows_apart(self._model), self._slots.attached(), self._upper):
                undo.enter_context(changed)
            self._context = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def restart(self) -> None:
        """Begin again with the adapter that was given."""
        for slot in range(SHARES):
            self._slots.start(slot, self.start)
        self.taken = 0

    def step(self, batch: Sequence[Tokens], lr: float) -> None:
        """Take a step on the mean loss of the output tokens of rows, at a learning rate."""
        self._upper.store(batch)
        total = sum(len(row.output) for row in batch)

        def weights(joined: JoinedRows) -> list[float]:
            return [1 / total] * len(joined.targets)

        shares = {slot: batch[slot::SHARES] for slot in range(SHARES)}
        self._runner.backward(shares, weights)
        self._slots.update_together(lr)
        self.taken += 1

    def score(
        self, rows: Sequence[Tokens], parameters: torch.Tensor | None = None
    ) -> HeldOutLosses:
        """Score rows with the adapter as it is, or with other parameters, (P,)."""
        self._upper.store(rows)
        current = self.parameters()
        if parameters is not None:
            self._slots.parameters[0] = parameters
        try:
            return HeldOutLosses(rows, self._runner.losses({0: rows})[0])
        finally:
            self._slots.parameters[0] = current

    def parameters(self) -> torch.Tensor:
        """Return a copy of the parameters, (P,)."""
        return self._slots.parameters[0].clone()

    def weights(self, parameters: torch.Tensor) -> LoraWeights:
        """Return the adapter with these parameters, (P,), and that of the layers below."""
        factors = [*self._factors, *self._slots.factors(parameters)]
        return LoraWeights(self._below + self._layout, factors)


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
