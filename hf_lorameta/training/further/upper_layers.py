"""Train the upper layers of a base model alone, on what the layers below them put out.

What the lower layers put out for a row is the same in every step. So each row passes through them
once, its states are kept, and passes with the adapter in training begin at the first trained layer:
forward and backward through half of the layers cost half as much, through a fifth a fifth.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any

import torch

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.forward import output_logits
from hf_lorameta.engines.transformers.lora_layer import applied
from hf_lorameta.engines.transformers.packing import (
    Segment,
    current_parts,
    passes,
    using_row_attention,
)
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.method.output_prior import PLAIN_DECODERS
from hf_lorameta.types import FactorPair, Progress, no_progress

StatesByRow = Mapping[tuple[int, ...], torch.Tensor]
"""The states (T, d) that the first trained layer takes, by the T tokens of a row."""


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


def states_below(
    model: Any,
    first: int,
    layout: Layout,
    factors: Sequence[FactorPair],
    rows: Sequence[Tokens],
    pass_tokens: int = 1024,
    progress: Progress = no_progress,
) -> StatesByRow:
    """Run rows once through the layers below the first trained one.

    Memory: that of a pass, and d values for each token, 1.2 kB in bfloat16 for SmolLM2-135M.

    Args:
        model: a causal LM of transformers with frozen weights; it is the same afterwards.
        first: index of the layer.
        layout: modules of the layers below it that have an adapter.
        factors: A (r, in) and s·B (out, r) of each of them.
        rows: at least one, each within the model's context.
        pass_tokens: maximum tokens of a pass.
        progress: called with (rows done, rows).
    """
    decoder, seen = model.get_decoder(), list[torch.Tensor]()
    hook = decoder.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    found, done = dict[tuple[int, ...], torch.Tensor](), 0
    upper = range(first, len(decoder.layers))
    try:
        with using_row_attention(model), applied(model, layout, factors), _skipping(model, upper):
            for packed in passes({0: rows}, pass_tokens):
                with torch.no_grad():
                    output_logits(model, packed)
                states = seen.pop()
                for row, places in _rows(packed.ids, packed.segments):
                    found[row] = states[places].cpu()
                done += len(packed.by_row)
                progress(done, len(rows))
    finally:
        hook.remove()
    return found


@contextmanager
def beginning_at(model: Any, first: int, states: StatesByRow) -> Iterator[None]:
    """Let passes with adapters begin at a layer, with the states of their rows.

    Passes without adapters go through all layers.
    """
    embeddings = model.get_input_embeddings()
    with _skipping(model, range(first)):
        model.set_input_embeddings(_Known(embeddings, states))
        try:
            yield
        finally:
            model.set_input_embeddings(embeddings)


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


@contextmanager
def _skipping(model: Any, indices: range) -> Iterator[None]:
    """Leave out layers of a model in passes with adapters."""
    layers = model.get_decoder().layers
    own = {index: layers[index] for index in indices}
    for index, layer in own.items():
        layers[index] = _Skipped(layer)
    try:
        yield
    finally:
        for index, layer in own.items():
            layers[index] = layer


class _Skipped(torch.nn.Module):
    """A layer that passes on what it is given where adapters are applied."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self._layer = layer

    def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if current_parts().slices:
            return states
        result: torch.Tensor = self._layer(states, *args, **kwargs)
        return result


class _Known(torch.nn.Module):
    """Embeddings of tokens; where adapters are applied, the states of rows instead."""

    def __init__(self, embeddings: torch.nn.Module, states: StatesByRow) -> None:
        super().__init__()
        self._embeddings, self._states = embeddings, states

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        parts = current_parts()
        if not parts.slices:
            result: torch.Tensor = self._embeddings(ids)
            return result
        rows = list(_rows(ids[0].tolist(), parts.segments))
        values = torch.cat([self._states[row] for row, _ in rows]).to(ids.device)
        states = values.new_empty(ids.shape[1], values.shape[1])
        states[[place for _, places in rows for place in places]] = values
        return states[None]
