"""Several LoRA adapters on one frozen base model, each for its own slice of the tokens.

A *slot* holds one adapter, finished or in training. For the tokens x of slot k, an adapted layer
computes ``y = x Wᵀ + s (x A_kᵀ) B_kᵀ``. The product with W is computed once for all tokens, as in
S-LoRA (arXiv 2311.03285). The gradients, where g is the gradient of y, and u = x Aᵀ is saved (in
the order of RunLoRA, arXiv 2312.03415, for a rank far below the number of tokens):

    z = g B      ∂A = s zᵀ x      ∂B = s gᵀ u      ∂x = g W + s z A
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from hf_lorameta.engines.transformers.joined_rows import current_boundaries
from hf_lorameta.engines.transformers.products import input_gradient, linear
from hf_lorameta.engines.transformers.suited_layers import frozen_weight
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.types import FactorPair

Factors = tuple[torch.Tensor, torch.Tensor]
"""A (r, in) and B (out, r) of a module."""


@contextmanager
def with_adapters(
    model: Any,
    adapters: Mapping[str, Mapping[int, Factors]],
    gradients: Mapping[str, Mapping[int, Factors]] | None = None,
    scaling: float = 1.0,
) -> Iterator[None]:
    """Apply the slots' adapters in a model's layers, and put its own layers back afterwards.

    Args:
        model: of transformers, with frozen weights.
        adapters: by module and slot.
        gradients: buffers of the same shapes, which the backward pass adds to; None if the adapters
            are finished.
        scaling: s.

    The slices of `hf_lorameta.engines.transformers.joined_rows.set_boundaries` say which tokens
    belong to which slot.
    """
    own = {name: model.get_submodule(name) for name in adapters}
    try:
        for name, layer in own.items():
            buffers = gradients[name] if gradients else {}
            model.set_submodule(name, AdaptedLinear(layer, adapters[name], buffers, scaling))
        yield
    finally:
        for name, layer in own.items():
            model.set_submodule(name, layer)


def adapter_applied(
    model: Any, layout: Layout, factors: Sequence[FactorPair]
) -> AbstractContextManager[None]:
    """Apply a finished adapter to the tokens of slot 0.

    Args:
        model: of transformers, with frozen weights.
        layout: the adapted modules.
        factors: A (r, in) and s·B (out, r) of each of them.

    Raises:
        AdapterError: the base model lacks a module of the layout, or it has another shape.
    """
    for module in layout:
        _check(model, module)
    pairs = ((torch.as_tensor(A), torch.as_tensor(B)) for A, B in factors)
    on_device = ((A.to(model.device), B.to(model.device)) for A, B in pairs)
    return with_adapters(model, {m.name: {0: p} for m, p in zip(layout, on_device, strict=True)})


def _check(model: Any, module: Module) -> None:
    try:
        weight = weight_of(model.get_submodule(module.name))
    except AttributeError:
        raise AdapterError(
            f"the base model has no module {module.name}", code="adapter.unknown-module"
        ) from None
    shape, expected = tuple(weight.shape), (module.out_features, module.in_features)
    if shape != expected:
        raise AdapterError(
            f"{module.name} of the base model has shape {shape}, expected {expected}",
            code="adapter.other-shape",
        )


def weight_of(layer: Any) -> torch.Tensor:
    """Return the weight (out, in) of a linear layer, which GPT-2 stores transposed."""
    weight: torch.Tensor = layer.weight
    return weight.T if isinstance(layer, Conv1D) else weight


class AdaptedLinear(torch.nn.Module):
    """A frozen linear layer with an adapter per slot; see `with_adapters`."""

    def __init__(
        self,
        base: Any,
        factors: Mapping[int, Factors],
        gradients: Mapping[int, Factors],
        scaling: float,
    ) -> None:
        super().__init__()
        self.base, self.factors, self.gradients, self.scaling = base, factors, gradients, scaling
        # an input that requires a gradient, so that autograd calls `backward`
        self._anchor = torch.zeros((), requires_grad=bool(gradients))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y (R, T, out) of x (R, T, in)."""
        flat, base = x.reshape(-1, x.shape[-1]), self.base
        apply: Any = _AdaptedFunction.apply
        slices = current_boundaries().slices
        weight = frozen_weight(base, weight_of(base))
        y: torch.Tensor = apply(flat, weight, base.bias, self._anchor, self, slices)
        return y.view(*x.shape[:-1], -1)


class _AdaptedFunction(torch.autograd.Function):
    """The adapted layer and its gradients, as the module's docstring states them.

    The gradients of A and B are added to the slots' buffers directly: returned to autograd, they
    would be tensors of all slots, mostly zero.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Any, weight: Any, bias: Any, anchor: Any, layer: Any, slices: Any
    ) -> Any:
        y, products = linear(x, weight, bias), []
        for slot, start, stop in slices:
            A, B = (factor.to(x.dtype) for factor in layer.factors[slot])
            products.append(x[start:stop] @ A.T)
            y[start:stop].addmm_(products[-1], B.T, alpha=layer.scaling)
        ctx.save_for_backward(x, *products)
        ctx.weight, ctx.layer, ctx.slices = weight, layer, slices
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (x, *products), g = ctx.saved_tensors, outputs[0]
        dx = input_gradient(g, ctx.weight) if ctx.needs_input_grad[0] else None
        layer = ctx.layer
        for (slot, start, stop), u in zip(ctx.slices, products, strict=True):
            A, B = (factor.to(x.dtype) for factor in layer.factors[slot])
            own, gradient = x[start:stop], g[start:stop]
            z = gradient @ B
            if slot in layer.gradients:
                dA, dB = layer.gradients[slot]
                _add(dA, z.T, own, layer.scaling)
                _add(dB, gradient.T, u, layer.scaling)
            if dx is not None:
                dx[start:stop].addmm_(z, A, alpha=layer.scaling)
        return dx, None, None, None, None, None


def _add(target: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scaling: float) -> None:
    """Add ``scaling · left @ right`` to a target whose dtype may be wider."""
    if target.dtype == left.dtype:
        target.addmm_(left, right, alpha=scaling)
    else:
        target.add_(left @ right, alpha=scaling)
