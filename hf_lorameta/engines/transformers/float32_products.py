"""Compute in float32 with a base model whose weights stay in bfloat16.

CPUs without instructions for bfloat16 multiply it slowly: with AVX2, a layer of SmolLM2-135M takes
10 times as long as here in a forward pass and 46 times in a backward pass, with AVX-512 4 times.
Every layer therefore converts its weights block by block when it uses them; all other values are
float32. Needs the extra ``eval``.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from hf_lorameta.engines.transformers.dtype import available_memory, bfloat16_is_faster

_BLOCK_VALUES = 1 << 21
"""Weights that are converted at a time: 8 MB, which stay in the processor's cache."""


def prefer_float32(model: Any) -> Callable[[], None]:
    """Let a model compute in float32 if its weights have 16 bits and this CPU is slow with them.

    Models with weights other than those of linear layers, embeddings and norms are converted as a
    whole if they then fit in half of the memory that is free.

    Args:
        model: of transformers, on the CPU, with frozen weights.

    Returns:
        A function that undoes it.
    """
    dtype, kinds = model.dtype, (torch.nn.Linear, torch.nn.Embedding)
    if not is_slow(dtype):
        return lambda: None
    of_layers = {p for m in model.modules() if isinstance(m, kinds) for p in m.parameters()}
    others = [p for p in model.parameters() if p not in of_layers and p.is_floating_point()]
    if all(p.dim() <= 1 for p in others):
        return _compute_in_float32(model, others)
    if 4 * model.num_parameters() <= available_memory() / 2:
        model.float()
    return lambda: model.to(dtype)


def is_slow(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies a dtype of 16 bits slowly."""
    return dtype in (torch.bfloat16, torch.float16) and not bfloat16_is_faster()


def _compute_in_float32(model: Any, others: list[torch.nn.Parameter]) -> Callable[[], None]:
    """Convert `others` and replace the products of linear layers and the results of embeddings.

    A model that computes in float32 already stays as it is, so that two users can share it.
    """
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    embeddings = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    if any("forward" in vars(module) for module in linears):
        return lambda: None
    for module in linears:
        vars(module)["forward"] = partial(_forward, module)
    hooks = [m.register_forward_hook(lambda _, inputs, y: y.float()) for m in embeddings]
    dtypes = [parameter.dtype for parameter in others]
    for parameter in others:
        parameter.data = parameter.data.float()

    def undo() -> None:
        for module in linears:
            del vars(module)["forward"]
        for hook in hooks:
            hook.remove()
        for parameter, dtype in zip(others, dtypes, strict=True):
            parameter.data = parameter.data.to(dtype)

    return undo


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``x Wᵀ + b``, (T, out), of x (T, in); W (out, in) may be narrower. No gradients."""
    if weight.dtype == x.dtype:
        return torch.nn.functional.linear(x, weight, bias)
    transposed = x.new_empty(len(weight), len(x))  # of few rows, twice as fast as ``x Wᵀ``
    for block in _blocks(weight):
        torch.mm(weight[block].to(x.dtype), x.T, out=transposed[block])
    y = transposed.T.contiguous()
    return y if bias is None else y.add_(bias)


def input_gradient(g: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return ``g W``, (T, in), of g (T, out); W (out, in) may be narrower. No gradients."""
    if weight.dtype == g.dtype:
        return g @ weight
    x = g.new_zeros(len(g), weight.shape[1])
    for block in _blocks(weight):
        x.addmm_(g[:, block], weight[block].to(g.dtype))
    return x


def _blocks(weight: torch.Tensor) -> Iterator[slice]:
    """Yield slices of a matrix's rows."""
    rows = max(_BLOCK_VALUES // weight.shape[1], 1)
    return (slice(start, start + rows) for start in range(0, len(weight), rows))


class _Product(torch.autograd.Function):
    """A linear layer; for the backward pass it keeps its weights, not the converted ones."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
        ctx.save_for_backward(weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (weight,) = ctx.saved_tensors
        return input_gradient(outputs[0], weight), None, None


def _forward(module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Compute a linear layer on inputs (…, in) of any dtype."""
    product: Any = _Product.apply
    y: torch.Tensor = product(x.reshape(-1, x.shape[-1]), module.weight, module.bias)
    return y.view(*x.shape[:-1], -1)
