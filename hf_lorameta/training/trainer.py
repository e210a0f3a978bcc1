"""One adapter in training, from a layer of the base model upwards: its steps and its scores."""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.engines.transformers.decoder import decoder_layers
from hf_lorameta.engines.transformers.forward import PassRunner, RowLosses
from hf_lorameta.engines.transformers.joined_rows import JoinedRows
from hf_lorameta.engines.transformers.row_mode import rows_apart
from hf_lorameta.errors import Advice
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.training.device import plan_device
from hf_lorameta.training.settings import UNTRAINED, Settings
from hf_lorameta.training.target_layers import with_all_projections
from hf_lorameta.training.trainable_adapter import TrainableAdapter
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


@dataclass(frozen=True)
class TrainedPart:
    """Which part of a model is trained.

    Attributes:
        layout: the adapted modules. Those of the layers below `first` keep the adapter that
            training starts from, if it has them.
        first: index of the first layer that is trained.
        layers: number of all layers of the model.
    """

    layout: Layout
    first: int
    layers: int

    @classmethod
    def upper(cls, model: Any, layout: Layout) -> "TrainedPart":
        """Return all projections of the upper layers, or of all if it cannot begin in between.

        Args:
            model: a causal LM of transformers.
            layout: other modules that are adapted already.

        Raises:
            UsageError: the model has no layers that can be adapted.
        """
        first = first_trained_layer(model, UNTRAINED)
        return cls(with_all_projections(model, layout), first, len(decoder_layers(model)))

    @classmethod
    def whole(cls, model: Any, layout: Layout) -> "TrainedPart":
        """Return modules in any layers of a model."""
        return cls(layout, 0, len(decoder_layers(model)))

    def __str__(self) -> str:
        return f"{self.layers - self.first} of {self.layers} layers"


class Trainer:
    """Trains an adapter. A context manager.

    It changes the model's layers, and puts them back afterwards.

    Args:
        model: a causal LM of transformers with frozen weights.
        part: what of it is trained.
        start: the adapter that training starts from. Modules that it lacks start with a random A
            and B = 0.
        settings: of the training; the modules that it adds have their rank.
        rows: all that will be trained on or scored, for the memory that they need.
        hint: what to do if there is not enough memory.

    Attributes:
        part: as given.
        given: the adapter that training starts from.
        adapter: in the layers that are trained.

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
        self._model, self._context, self._equal_rows = model, ExitStack(), settings.equal_rows
        self.part, self.given = part, start
        first, given = part.first, dict(zip(start.layout, start.pairs, strict=True))
        self._below, _ = divide_layout(model, start.layout, first)
        _, layout = divide_layout(model, part.layout, first)
        self._factors = [given[module] for module in self._below]
        machine = plan_device(model, layout, settings.rank, first=first, rows=rows, hint=hint)
        self.adapter = TrainableAdapter(
            model, layout, settings.rank, settings.scaling, SHARES, settings.clip
        )
        new = self.adapter.factors(self.adapter.initial(settings.seed))
        factors = [given.get(module, pair) for module, pair in zip(layout, new, strict=True)]
        self.start = self.adapter.vector(factors)
        """Parameters before the first step, (P,)."""
        self._runner = PassRunner(model, machine.workers, machine.pass_tokens)
        self.threads = self._runner.threads(SHARES)
        """Threads that the shares of a step are computed in."""
        self._upper = UpperLayers(model, first, self._below, self._factors, self._runner)
        self.restart()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            for changed in (rows_apart(self._model), self.adapter.attached(), self._upper):
                undo.enter_context(changed)
            self._context = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    @property
    def taken(self) -> int:
        """Number of steps since the start."""
        return self.adapter.steps

    def restart(self) -> None:
        """Begin again with the adapter that was given."""
        self.adapter.start(self.start)
        self.rows_taken = 0
        """Rows of all steps since then; one that was in two of them counts twice."""

    def resume(self, taken: int, vectors: torch.Tensor) -> None:
        """Go on from the `TrainableAdapter.vectors` after so many steps."""
        self.adapter.vectors.copy_(vectors)
        self.adapter.steps = taken

    def step(self, batch: Sequence[Tokens], lr: float) -> None:
        """Take a step on the mean loss of rows, at a learning rate.

        It is the mean over output tokens or, as the settings say, over rows of that.
        """
        self._upper.store(batch)
        self.rows_taken += len(batch)
        total = sum(len(row.output) for row in batch)

        def weights(joined: JoinedRows) -> list[float]:
            if self._equal_rows:
                return [1 / (len(batch) * size) for size in joined.by_row for _ in range(size)]
            return [1 / total] * len(joined.targets)

        shares = {share: batch[share::SHARES] for share in range(min(SHARES, len(batch)))}
        self._runner.backward(shares, weights)
        self.adapter.update(lr)

    def score(
        self, rows: Sequence[Tokens], parameters: torch.Tensor | None = None
    ) -> HeldOutLosses:
        """Score rows with the adapter as it is, or with other parameters, (P,)."""
        self._upper.store(rows)
        current = self.parameters()
        if parameters is not None:
            self.adapter.parameters.copy_(parameters)
        try:
            return HeldOutLosses(rows, self._runner.losses({0: rows})[0])
        finally:
            self.adapter.parameters.copy_(current)

    def parameters(self) -> torch.Tensor:
        """Return a copy of the parameters, (P,)."""
        return self.adapter.parameters.clone()

    def weights(self, parameters: torch.Tensor) -> LoraWeights:
        """Return the adapter with these parameters, (P,), and that of the layers below."""
        factors = [*self._factors, *self.adapter.factors(parameters)]
        return LoraWeights(self._below + self.adapter.layout, factors)


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
