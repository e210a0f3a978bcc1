"""Loss and answers of several adapters on the same rows, in passes that they share.

The base model's weights work on the tokens of all adapters together, and each LoRA on its own
slice, as in S-LoRA (arXiv 2311.03285). The hidden states of the adapters differ from the first
adapted layer on, so nothing is computed once for all of them. What is saved: answers are generated
for many sequences at a time, where a few would wait for memory and not for arithmetic; rows share
the beginning of their prompts over longer sequences, and each core computes passes of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hf_lorameta.engines.float32_products import compute_dtype
from hf_lorameta.engines.packing import (
    Pass,
    check_row_attention,
    current_slices,
    passes,
    using,
    using_row_attention,
)
from hf_lorameta.engines.peft_adapter import attached
from hf_lorameta.engines.scoring import StepCounter, Tokens
from hf_lorameta.engines.torch_forward import token_losses
from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.formats.lora_file import open_adapter

_PASS_TOKENS = 1024
"""Maximum tokens of a pass, output tokens counting half more: products are no faster with more."""
_MAX_PASSES = 4
"""Passes at a time, each with the memory of its own activations."""

LoraFactors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""By module, A (r, in) and s·B (out, r) of an adapter, in the dtype of the layers' inputs."""


class SliceLinear(torch.nn.Module):
    """A frozen linear layer with finished adapters, each for its own slice of the tokens.

    Args:
        linear: the base model's layer.
        factors: by slot, A (r, in) and s·B (out, r); ranks may differ. Other slots have no adapter.

    The slices of `using` count the tokens of a single sequence, or the sequences of a batch.
    """

    def __init__(
        self, linear: torch.nn.Linear, factors: Mapping[int, tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        super().__init__()
        self.linear, self._factors = linear, factors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y (R, T, out) of x (R, T, in)."""
        y: torch.Tensor = self.linear(x)
        flat, result = x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        slices = current_slices()
        length = len(flat) // slices[-1].stop if slices else 0
        for slot, start, stop in slices:
            if slot in self._factors:
                A, B = self._factors[slot]
                own = slice(start * length, stop * length)
                result[own].addmm_(flat[own] @ A.T, B.T)
        return y


def load_adapters(
    model: Any, folders: Sequence[Path], base_model: str = ""
) -> list[LoraFactors] | None:
    """Return the factors of adapters, as PEFT loads them.

    None if they cannot share passes: one of them is not a plain LoRA of linear layers, or adapts
    the output layer, or rows of the base model cannot share a sequence. Arguments are those of
    `hf_lorameta.engines.peft_adapter.attached`.

    Raises:
        AdapterError: an adapter is broken, for another base model, or does not fit it.
    """
    try:
        check_row_attention(model)
        for folder in folders:
            open_adapter(folder)
    except (AdapterError, UsageError):
        return None
    loaded = []
    for folder in folders:
        with attached(model, folder, base_model):
            factors = _factors(model)
        if factors is None:
            return None
        loaded.append(factors)
    return loaded


def _factors(model: Any) -> LoraFactors | None:
    """Return the factors of the adapter that PEFT has attached; None unless all are plain."""
    from peft.tuners.lora import Linear, LoraLayer

    factors, dtype, head = {}, compute_dtype(model), model.get_output_embeddings()
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if type(layer) is not Linear or type(layer.base_layer) is not torch.nn.Linear:
            return None
        if ".experts." in name or layer is head:  # gets some of the tokens, maybe in another order
            return None
        [adapter] = layer.active_adapters
        A, B = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        factors[name] = A.to(dtype), (B * layer.scaling[adapter]).to(dtype)
    return factors


@contextmanager
def in_slots(model: Any, adapters: Sequence[LoraFactors]) -> Iterator[None]:
    """Give slot k of the model's layers adapter k, and put the model's own layers back afterwards.

    The slices of `using` say which tokens are whose.
    """
    names = {name for factors in adapters for name in factors}
    own = {name: model.get_submodule(name) for name in names}
    try:
        for name, linear in own.items():
            by_slot = {k: factors[name] for k, factors in enumerate(adapters) if name in factors}
            model.set_submodule(name, SliceLinear(linear, by_slot))
        yield
    finally:
        for name, linear in own.items():
            model.set_submodule(name, linear)


def losses(model: Any, rows: Sequence[Tokens], count: int, steps: StepCounter) -> list[float]:
    """Return the mean loss of the rows' output tokens, in nats, with the adapter of each slot.

    Args:
        model: the base model, `in_slots`.
        rows: the same for all adapters.
        count: number of adapters.
        steps: counts rows, each once for every adapter.
    """
    packed = list(passes(dict.fromkeys(range(count), rows), _PASS_TOKENS))
    all_threads = torch.get_num_threads()
    workers = min(all_threads, len(packed), _MAX_PASSES)
    threads = all_threads // workers

    def compute(one: Pass) -> dict[int, float]:
        torch.set_num_threads(threads)  # of this thread, and of threads that start later
        with torch.inference_mode(), using(one.slices):
            by_slot = torch.split(token_losses(model, one).double(), list(one.outputs.values()))
            return {
                slot: float(part.sum()) for slot, part in zip(one.outputs, by_slot, strict=True)
            }

    sums = [0.0] * count
    try:
        with using_row_attention(model), ThreadPoolExecutor(workers) as pool:
            for one, of_pass in zip(packed, pool.map(compute, packed), strict=True):
                for slot, total in of_pass.items():
                    sums[slot] += total
                steps.advance(len(one.by_row))
    finally:
        torch.set_num_threads(all_threads)
    return [total / sum(len(row.output) for row in rows) for total in sums]
