"""Let a base model compute its large products in what this CPU multiplies fastest.

CPUs without instructions for bfloat16 multiply it slowly: with AVX2, a layer of SmolLM2-135M takes
10 times as long as here in a forward pass and 46 times in a backward pass, with AVX-512 4 times.
Layers with weights in 16 bits therefore convert them block by block when they use them, or are
rounded to 8 bits once, if products of these are faster; all other values are float32. Needs the
extra ``eval``.

A layer is rounded if its output and its input gradient stay nearly the same. This is found by a
pass through the model: each layer computes both with both weights, and keeps one of these.
"""

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_lorameta.engines.transformers.dtype import available_memory
from hf_lorameta.engines.transformers.products import (
    Arithmetic,
    Int8,
    Weight,
    fastest_arithmetic,
    input_gradient,
    is_slow,
    linear,
    quantized,
)
from hf_lorameta.errors import first_line

_MOST_ERROR = 0.05
"""Most error of a rounded layer's output and gradient, relative to these, the mean over tokens."""
_SCALES = ("int8_scale", "int8_inputs")
"""Names of the buffers in which a rounded layer has the scales of its weight."""

logger = logging.getLogger(__name__)


def suit(model: Any, ids: torch.Tensor | None = None, keep: bool = False) -> Callable[[], None]:
    """Let a model with weights in 16 bits compute in what is fastest here.

    Models with weights other than those of linear layers, embeddings and norms are converted to
    float32 as a whole if they then fit in half of the memory that is free.

    Args:
        model: of transformers, on the CPU, with frozen weights.
        ids: tokens of two rows, (2, T), on which rounded layers are tried; None rounds none.
        keep: whether to keep the weights of rounded layers, to be able to undo it.

    Returns:
        A function that undoes it; without `keep`, rounded layers stay as they are.
    """
    dtype = model.dtype
    rounds = ids is not None and fastest_arithmetic() is Arithmetic.INT8
    if dtype.itemsize != 2 or not (rounds or is_slow(dtype)) or is_suited(model):
        return lambda: None
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    of_layers = {p for m in model.modules() if isinstance(m, kinds) for p in m.parameters()}
    others = [p for p in model.parameters() if p not in of_layers and p.is_floating_point()]
    if all(p.dim() <= 1 for p in others):
        with ExitStack() as undo:
            _compute_in_float32(model, others, undo)
            if ids is not None and rounds:
                _round_layers(model, ids, undo if keep else None)
            return undo.pop_all().close
    if not is_slow(dtype):
        return lambda: None
    if 4 * model.num_parameters() <= available_memory() / 2:
        model.float()
    return lambda: model.to(dtype)


def is_suited(model: Any) -> bool:
    """Whether a model computes in float32 with weights of 16 or 8 bits."""
    return any("forward" in vars(module) for module in _linears(model))


def arithmetic_of(model: Any) -> str:
    """Return int8 if some layer of a model is rounded, else the torch name of its values' dtype."""
    if any(hasattr(module, _SCALES[0]) for module in model.modules()):
        return Arithmetic.INT8.value
    return "float32" if is_suited(model) else str(model.dtype).removeprefix("torch.")


def frozen_weight(layer: Any, weight: torch.Tensor) -> Weight:
    """Return the weight (out, in) of a linear layer with its scales, if it has these."""
    if not hasattr(layer, _SCALES[0]):
        return weight
    scale, inputs = (getattr(layer, name) for name in _SCALES)
    return Int8(weight, scale, inputs)


def _linears(model: Any) -> list[torch.nn.Linear]:
    return [m for m in model.modules() if isinstance(m, torch.nn.Linear)]


# --- float32 --------------------------------------------------------------------------------------


def _compute_in_float32(model: Any, others: list[torch.nn.Parameter], undo: ExitStack) -> None:
    """Convert `others` and replace the products of linear layers and the results of embeddings."""
    for module in _linears(model):
        vars(module)["forward"] = partial(_forward, module)
        undo.callback(vars(module).pop, "forward")
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            hook = module.register_forward_hook(lambda _, inputs, y: y.float())
            undo.callback(hook.remove)
    for parameter in others:
        undo.callback(setattr, parameter, "data", parameter.data)
        parameter.data = parameter.data.float()


class _Product(torch.autograd.Function):
    """A linear layer; for the backward pass it keeps its weights, not the converted ones.

    Gradients are not rounded: those of the output layer, probabilities of all words, would be zero
    but for a few. With them rounded, 24 steps of SmolLM2-135M reached a loss of 2.9 instead of 1.7.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
        ctx.weight = weight
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        return input_gradient(outputs[0], ctx.weight, rounds=False), None, None


def _forward(module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Compute a linear layer on inputs (…, in) of any dtype."""
    product: Any = _Product.apply
    weight = frozen_weight(module, module.weight)
    y: torch.Tensor = product(x.reshape(-1, x.shape[-1]), weight, module.bias)
    return y.view(*x.shape[:-1], -1)


# --- int8 -----------------------------------------------------------------------------------------


def _round_layers(model: Any, ids: torch.Tensor, undo: ExitStack | None) -> None:
    """Round the weights of the linear layers that a pass uses, unless this changes their output.

    A layer that cannot be rounded, or that the pass does not reach, keeps its weight.
    """
    linears = [m for m in _linears(model) if type(m) is torch.nn.Linear and m.weight.itemsize == 2]
    mappings, errors = _file_mappings() if undo is None else [], dict[int, float]()

    def first_forward(module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        vars(module)["forward"] = partial(_forward, module)
        flat = x.reshape(-1, x.shape[-1])
        weight = _read_again(module.weight, mappings)
        y, rounded = linear(flat, weight), quantized(weight, flat)
        gradient = input_gradient(y, rounded), input_gradient(y, weight)  # y stands for one of it
        pairs = (linear(flat, rounded), y), gradient
        errors[id(module)] = max(relative_error(*pair) for pair in pairs)
        if errors[id(module)] <= _MOST_ERROR:
            _replace(model, module, rounded, undo)
        y = y if module.bias is None else y + module.bias
        return y.view(*x.shape[:-1], -1)

    for module in linears:
        vars(module)["forward"] = partial(first_forward, module)
    problem = ""
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except Exception as error:  # noqa: BLE001 - a kernel or an architecture may raise anything
        problem = f": {first_line(error)[:300]}"
    finally:
        for module in linears:
            vars(module)["forward"] = partial(_forward, module)
    kept = len(linears) - sum(error <= _MOST_ERROR for error in errors.values())
    if kept or problem:
        logger.info("%d of %d layers keep 16 bits%s", kept, len(linears), problem)
    else:
        logger.debug("%d layers have 8 bits", len(linears))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the error of outputs (T, n), relative to their norm, the mean over tokens.

    Example:
        >>> relative_error(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.eye(2))
        1.0
    """
    norm = torch.linalg.vector_norm
    error = float((norm(found - expected, dim=1) / norm(expected, dim=1)).nan_to_num(0.0).mean())
    return error if bool(found.isfinite().all()) else math.inf


def _replace(model: Any, module: torch.nn.Linear, rounded: Int8, undo: ExitStack | None) -> None:
    """Give a layer its rounded weight, and an embedding that shares it."""
    own = module.weight
    shared = [m for m in model.modules() if type(m) is torch.nn.Embedding and m.weight is own]
    weight = torch.nn.Parameter(rounded.values, requires_grad=False)
    for one in (module, *shared):
        one.weight = weight
        for name, scale in zip(_SCALES, rounded[1:], strict=True):
            one.register_buffer(name, scale, persistent=False)
            if undo is not None:
                undo.callback(delattr, one, name)
        if undo is not None:
            undo.callback(setattr, one, "weight", own)
    for embedding in shared:
        vars(embedding)["forward"] = partial(_embed, embedding)
        if undo is not None:
            undo.callback(vars(embedding).pop, "forward")


def _embed(embedding: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
    scale, inputs = (getattr(embedding, name) for name in _SCALES)
    values: torch.Tensor = embedding.weight[ids] * scale[ids][..., None] * inputs
    return values


# --- files in memory ------------------------------------------------------------------------------

_Mapping = tuple[int, int, int, str]
"""Begin and end of a part of the memory that shows a file, its place in the file, and the path."""


def _file_mappings() -> list[_Mapping]:
    """Return the safetensors files in this process's memory; none where that cannot be known."""
    found = list[_Mapping]()
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text("utf-8").splitlines():
            if line.endswith(".safetensors"):
                span, _, offset, _, _, path = line.split(maxsplit=5)
                begin, end = (int(address, 16) for address in span.split("-"))
                found.append((begin, end, int(offset, 16), path))
    return found


def _read_again(weight: torch.Tensor, mappings: list[_Mapping]) -> torch.Tensor:
    """Return a weight as read from its file, if it is there.

    What is used of a file that is shown in memory counts as the process's memory from then on.
    """
    first, size = weight.data_ptr(), weight.nbytes
    for begin, end, offset, path in mappings:
        if begin <= first and first + size <= end and weight.is_contiguous():
            read = np.fromfile(path, np.uint8, size, offset=first - begin + offset)
            return torch.from_numpy(read).view(weight.dtype).view(weight.shape)
    return weight
