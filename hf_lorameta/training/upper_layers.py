"""Train only the upper layers of a base model, on the outputs of the layers below them.

The output of the lower layers for a row is the same in every step. So each row passes through them
once, when it is first needed, and its states are kept: passes with the adapter in training begin at
the first trained layer. Forward and backward passes through half of the layers cost half as much,
through a fifth of them a fifth.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.transformers.decoder import decoder_layers
from hf_lorameta.engines.transformers.forward import PassRunner
from hf_lorameta.engines.transformers.joined_rows import current_boundaries
from hf_lorameta.engines.transformers.lora_layer import adapter_applied
from hf_lorameta.engines.transformers.one_pass import output_logits, run_decoder
from hf_lorameta.engines.transformers.row_mode import (
    agree,
    is_tested,
    passes,
    rows_apart,
    sample_rows,
)
from hf_lorameta.engines.transformers.threads import fastest_threads
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.hub.packaged_model import quiet_transformers
from hf_lorameta.types import FactorPair

SHARES = 2
"""Parts of a step's rows. Each is computed in a thread of its own where there are several cores:
threads within an operation wait for each other, which takes long beside other programs."""
_starts: WeakKeyDictionary[Any, dict[int, bool]] = WeakKeyDictionary()
"""Whether passes can start at a layer, by model and layer."""

logger = logging.getLogger(__name__)


def first_trained_layer(model: Any, share: float) -> int:
    """Return the index of the first layer above a share of the layers; 0 to train the whole model.

    The whole model is trained if its upper layers, started from stored states, give other results.
    """
    first = int(share * len(decoder_layers(model)))
    if is_tested(model):
        return first
    known = _starts.setdefault(model, {})
    if first and first not in known:
        with torch.no_grad(), quiet_transformers(), fastest_threads(model):
            known[first] = _can_start(model, first)
        if not known[first]:
            logger.info(
                "All layers of %s are trained, since the upper ones need more than the output of "
                "those below: a step takes longer",
                type(model).__name__,
            )
    return first if known.get(first) else 0


def _can_start(model: Any, first: int) -> bool:
    """Whether passes that start at a layer give the results of passes through all layers."""
    rows = sample_rows(model)
    together = [*passes(model, {0: rows}, sys.maxsize)]
    with rows_apart(model):
        whole = [output_logits(model, one, adapters=False)[0] for one in together]
        try:
            runner = PassRunner(model, 1, sys.maxsize)
            with UpperLayers(model, first, (), (), runner) as upper:
                for row in rows:  # one by one, so that layers keep no state of two rows
                    upper.store([row])
                found = [output_logits(model, one)[0] for one in together]
        except Exception:  # noqa: BLE001 - an architecture that cannot do it may raise anything
            return False
    return all(agree(model, *pair) for pair in zip(found, whole, strict=True))


def divide_layout(model: Any, layout: Layout, first: int) -> tuple[Layout, Layout]:
    """Divide modules into those of the layers below the first trained one, and all others."""
    lower = {module for layer in decoder_layers(model)[:first] for module in layer.modules()}
    below, others = list[Module](), list[Module]()
    for module in layout:
        (below if model.get_submodule(module.name) in lower else others).append(module)
    return tuple(below), tuple(others)


class UpperLayers:
    """Lets passes with adapters begin at a layer, on stored states. A context manager.

    Passes without adapters go through all layers. Memory: d values for each token of the rows, 1.2
    kB in bfloat16 for SmolLM2-135M.

    Args:
        model: a causal LM of transformers with frozen weights, inside `rows_apart`.
        first: index of the layer, as `first_trained_layer` returns it; 0 changes nothing.
        layout: modules of the layers below it that have an adapter.
        factors: A (r, in) and s·B (out, r) of each of them.
        runner: computes the passes through the layers below.
    """

    def __init__(
        self,
        model: Any,
        first: int,
        layout: Layout,
        factors: Sequence[FactorPair],
        runner: PassRunner,
    ) -> None:
        self._model, self._first, self._runner = model, first, runner
        self._layout, self._factors = layout, factors
        self._states: dict[tuple[int, ...], torch.Tensor] = {}
        self._context = ExitStack()
        self._below = False
        """Whether the layers below are run, and no others."""
        self._others: tuple[None, ...] | None = None
        """Placeholders for the other values that layers return, if they return tuples."""

    def __enter__(self) -> Self:
        if not self._first:
            return self
        with ExitStack() as undo:  # what an exception leaves half done, too
            undo.enter_context(adapter_applied(self._model, self._layout, self._factors))
            for index, layer in enumerate(decoder_layers(self._model)):
                own = layer.forward
                layer.forward = partial(self._run_layer, index, own)
                undo.callback(vars(layer).pop, "forward")
            self._context = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def store(self, rows: Sequence[Tokens]) -> None:
        """Run rows through the layers below, unless their states are stored."""
        new = [row for row in rows if row.read not in self._states]
        if not self._first or not new:
            return
        shares = [new[i::SHARES] for i in range(min(SHARES, len(new)))]
        self._below = True
        try:
            self._runner.run(shares, partial(run_decoder, self._model))
        finally:
            self._below = False

    def _run_layer(
        self, index: int, layer: Callable[..., Any], states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """Run a layer, unless this pass skips it; the first stores states or uses stored ones."""
        parts = current_boundaries()
        if not parts.slices:
            return layer(states, *args, **kwargs)
        if index == self._first:
            if self._below:
                self._keep(states)
            else:
                states = self._stored(states)
        if self._below == (index < self._first):
            result = layer(states, *args, **kwargs)
            self._others = (None,) * (len(result) - 1) if isinstance(result, tuple) else None
            return result
        return states if self._others is None else (states, *self._others)

    def _keep(self, states: torch.Tensor) -> None:
        flat = states.flatten(0, 1)
        for row, places in current_boundaries().rows:
            self._states[row] = flat[list(places)].cpu()

    def _stored(self, like: torch.Tensor) -> torch.Tensor:
        """Return the stored states of the rows of a pass, in its shape; zeros for padding."""
        rows = current_boundaries().rows
        values = torch.cat([self._states[row] for row, _ in rows]).to(like.device)
        states = values.new_zeros(like.shape[0] * like.shape[1], *values.shape[1:])
        states[[place for _, places in rows for place in places]] = values
        return states.view(like.shape[:2] + values.shape[1:])
