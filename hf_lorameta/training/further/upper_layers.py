"""Train the upper layers of a base model alone, on what the layers below them put out.

What the lower layers put out for a row is the same in every step. So each row passes through them
once, when it is first needed, and its states are kept: passes with the adapter in training begin at
the first trained layer. Forward and backward through half of the layers cost half as much, through
a fifth a fifth.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate, pairwise
from typing import Any, Self

import torch

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.forward import run_decoder
from hf_lorameta.engines.transformers.joined_rows import Segment, current_boundaries, join_rows
from hf_lorameta.engines.transformers.lora_layer import applied
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.method.output_prior import PLAIN_DECODERS
from hf_lorameta.types import FactorPair


def first_trained_layer(model: Any, share: float) -> int:
    """Return the index of the first layer above a share of them; 0 if a model is trained whole."""
    plain = model.config.get_text_config().model_type in PLAIN_DECODERS
    return int(share * len(model.get_decoder().layers)) if plain else 0


def divide_layout(model: Any, layout: Layout, first: int) -> tuple[Layout, Layout]:
    """Divide modules into those of the layers below the first trained one, and all others."""
    lower = {module for layer in model.get_decoder().layers[:first] for module in layer.modules()}
    below, others = list[Module](), list[Module]()
    for module in layout:
        (below if model.get_submodule(module.name) in lower else others).append(module)
    return tuple(below), tuple(others)


class UpperLayers:
    """Lets passes with adapters begin at a layer, on stored states. A context manager.

    Passes without adapters go through all layers. Memory: d values for each token of the rows, 1.2
    kB in bfloat16 for SmolLM2-135M.

    Args:
        model: a causal LM of transformers with frozen weights, inside `using_row_attention`. Layers
            that are replaced by name, as `TrainableAdapters.attached` does, have to be so before.
        first: index of the layer; 0 changes nothing.
        layout: modules of the layers below it that have an adapter.
        factors: A (r, in) and s·B (out, r) of each of them.
        pass_tokens: maximum tokens of a pass through the layers below.
    """

    def __init__(
        self,
        model: Any,
        first: int,
        layout: Layout,
        factors: Sequence[FactorPair],
        pass_tokens: int = 1024,
    ) -> None:
        self._model, self._first, self._pass_tokens = model, first, pass_tokens
        self._layout, self._factors = layout, factors
        self._states: dict[tuple[int, ...], torch.Tensor] = {}
        self._context = ExitStack()
        self.below = False
        """Whether the layers below are run, and no others."""
        self.output: torch.Tensor
        """What they put out in the last pass, (T, d)."""

    def __enter__(self) -> Self:
        if not self._first:
            return self
        layers, embeddings = self._model.get_decoder().layers, self._model.get_input_embeddings()
        with ExitStack() as undo:  # what an exception leaves half done, too
            undo.enter_context(applied(self._model, self._layout, self._factors))
            undo.callback(self._model.set_input_embeddings, embeddings)
            self._model.set_input_embeddings(_StoredStates(embeddings, self, self._states))
            for index, layer in enumerate(layers):
                undo.callback(layers.__setitem__, index, layer)
                layers[index] = _Layer(layer, self, is_below=index < self._first)
            self._context = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def store(self, rows: Sequence[Tokens]) -> None:
        """Run rows through the layers below, unless their states are stored."""
        new = [row for row in rows if (*row.prompt, *row.output[:-1]) not in self._states]
        if not self._first or not new:
            return
        self.below = True
        try:
            for joined in join_rows({0: new}, self._pass_tokens):
                run_decoder(self._model, joined)
                for row, places in _rows(joined.ids, joined.segments):
                    self._states[row] = self.output[places].cpu()
        finally:
            self.below = False


def _rows(
    ids: Sequence[int], segments: Sequence[Segment]
) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Yield the tokens of each row of a pass, and their places in it.

    Example:
        >>> list(_rows([7, 1, 2], [Segment(1), Segment(1, 0), Segment(1, 0)]))
        [((7, 1), [0, 1]), ((7, 2), [0, 2])]
    """
    borders = accumulate((segment.length for segment in segments), initial=0)
    spans = [list(range(start, stop)) for start, stop in pairwise(borders)]
    prefixes = {segment.prefix for segment in segments}
    for index, segment in enumerate(segments):
        if index not in prefixes:
            shared = [] if segment.prefix is None else spans[segment.prefix]
            places = shared + spans[index]
            yield tuple(ids[place] for place in places), places


class _Layer(torch.nn.Module):
    """A layer; it passes on what it is given in passes that leave it out."""

    def __init__(self, layer: torch.nn.Module, upper: UpperLayers, is_below: bool) -> None:
        super().__init__()
        self._layer, self._upper, self._is_below = layer, upper, is_below

    def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if current_boundaries().slices and self._is_below != self._upper.below:
            if self._upper.below:
                self._upper.output = states[0]
            return states
        result: torch.Tensor = self._layer(states, *args, **kwargs)
        return result


class _StoredStates(torch.nn.Module):
    """Embeddings of tokens; in passes through the upper layers, the stored states instead."""

    def __init__(
        self,
        embeddings: torch.nn.Module,
        upper: UpperLayers,
        states: dict[tuple[int, ...], torch.Tensor],
    ) -> None:
        super().__init__()
        self._embeddings, self._upper, self._states = embeddings, upper, states

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        parts = current_boundaries()
        if not parts.slices or self._upper.below:
            result: torch.Tensor = self._embeddings(ids)
            return result
        rows = list(_rows(ids[0].tolist(), parts.segments))
        values = torch.cat([self._states[row] for row, _ in rows]).to(ids.device)
        states = values.new_empty(ids.shape[1], values.shape[1])
        states[[place for _, places in rows for place in places]] = values
        return states[None]
