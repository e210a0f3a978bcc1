"""Several LoRA adapters on one frozen base model, each for its own slice of the tokens.

A *slot* holds one adapter in training: its parameters, their gradients, and the state of its
optimizer. The parameters of all modules of a slot are one vector, so that the optimizer's update,
a copy and a checkpoint are each one operation; A and B of the modules are views of it.

For the tokens x of slot k, an adapted layer computes ``y = x Wᵀ + s (x A_kᵀ) B_kᵀ``. The product
with W is one for all tokens. The gradients, with g that of y and u = x Aᵀ computed anew instead of
saved (RunLoRA, arXiv 2312.03415; of its orders, the one for a rank far below the number of tokens):

    z = g B      ∂A = s zᵀ x      ∂B = s gᵀ u      ∂x = g W + s z A
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from hf_lorameta.engines.float32_products import input_gradient, linear
from hf_lorameta.engines.packing import LOOP_DEVICES, Slice, current_slices
from hf_lorameta.errors import UsageError
from hf_lorameta.formats.lora_layout import Layout, Module, canonical_order
from hf_lorameta.types import FactorPair

_BETAS, _EPSILON = (0.9, 0.999), 1e-8
_PROJECTIONS = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "o_proj", "out_proj", "dense",
    "gate_proj", "up_proj", "gate_up_proj", "down_proj", "fc1", "fc2", "c_fc", "c_proj",
    "dense_h_to_4h", "dense_4h_to_h",
)  # fmt: skip
_FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj",
          "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}  # fmt: skip
"""Names of layers that compute several projections at once."""


def find_layout(model: Any, targets: Sequence[str]) -> Layout:
    """Return the linear layers whose names end in one of the targets, in canonical order.

    Of a model of texts and images, these are layers of the text model. Where the base model has one
    layer for several targets, as Phi-3 has ``qkv_proj``, that is adapted.

    Raises:
        UsageError: there are none, or one of the targets names none.
    """
    layers = _linear_layers(model)
    leaves = {name.rpartition(".")[2] for name in layers}
    chosen = {target if target in leaves else _FUSED.get(target, target) for target in targets}
    missing = sorted(chosen - leaves)
    if missing:
        raise UsageError(
            f"the base model has no linear layers {', '.join(missing)}",
            hint=f"choose among --targets {','.join(sorted(leaves))}",
        )
    names = [name for name in layers if name.rpartition(".")[2] in chosen]
    return _layout(layers, names)


def with_all_projections(model: Any, layout: Layout) -> Layout:
    """Return a layout, and all projections of attention and MLP, in canonical order.

    Projections are known by their usual names. Experts are left out, whose tokens are not those of
    the sequence.
    """
    layers = _linear_layers(model)
    named = {n for n in layers if n.rpartition(".")[2] in _PROJECTIONS and ".experts." not in n}
    others = _layout(layers, named - {module.name for module in layout})
    return tuple(sorted((*layout, *others), key=lambda module: canonical_order(module.name)))


def _linear_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """Return the linear layers of the text model, with that of the output embeddings, by name."""
    text = {model.get_output_embeddings(), *model.get_decoder().modules()}
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m in text}


def _layout(layers: Mapping[str, torch.nn.Linear], names: Iterable[str]) -> Layout:
    return tuple(
        Module(name, layers[name].in_features, layers[name].out_features)
        for name in sorted(names, key=canonical_order)
    )


class LoraSlots:
    """K adapters in training on one base model, whose layers are replaced until `detach`.

    Memory: 4 · K · P values, P being the parameters of one adapter.

    Args:
        model: a causal LM of transformers with frozen weights.
        layout: the adapted modules.
        rank: r.
        scaling: s.
        count: K.
        clip: maximum norm of a slot's gradient; infinity does not clip.

    Attributes:
        parameters: (K, P). P is the concatenation of A (r, in) and B (out, r) of every module.
        gradients: (K, P), which the backward pass adds to.
        moments: two of (K, P), those of AdamW.
        steps: K numbers of steps that the optimizer has taken.
    """

    def __init__(
        self,
        model: Any,
        layout: Layout,
        rank: int,
        scaling: float,
        count: int,
        clip: float = math.inf,
    ) -> None:
        self.layout, self.rank, self.count = layout, rank, count
        self._model, self._clip = model, clip
        dtype = torch.promote_types(model.dtype, torch.float32)
        self.size = sum(rank * (m.in_features + m.out_features) for m in layout)
        self.parameters, self.gradients, first, second = (
            torch.zeros(count, self.size, dtype=dtype, device=model.device) for _ in range(4)
        )
        self.moments = (first, second)
        self.steps = [0] * count
        self._layers: list[SlotLinear] = []
        modules = zip(self._modules(self.parameters), self._modules(self.gradients), strict=True)
        for module, (values, gradients) in zip(layout, modules, strict=True):
            layer = SlotLinear(model.get_submodule(module.name), values, gradients, scaling)
            model.set_submodule(module.name, layer)
            self._layers.append(layer)

    def _modules(self, vectors: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return views of (n, P) parameters: A (n, r, in) and B (n, out, r) of every module."""
        views, start = [], 0
        for module in self.layout:
            factors = []
            for shape in (module.shape("A", self.rank), module.shape("B", self.rank)):
                stop = start + math.prod(shape)
                factors.append(torch.unflatten(vectors[:, start:stop], 1, shape))
                start = stop
            views.append((factors[0], factors[1]))
        return views

    def detach(self) -> None:
        """Put the model's own layers back."""
        for module, layer in zip(self.layout, self._layers, strict=True):
            self._model.set_submodule(module.name, layer.linear)

    def start(self, slot: int, initial: torch.Tensor) -> None:
        """Begin a new adapter, (P,), with a new state of the optimizer."""
        self.parameters[slot] = initial
        for buffer in (self.gradients, *self.moments):
            buffer[slot] = 0
        self.steps[slot] = 0

    def state(self, slot: int) -> dict[str, torch.Tensor]:
        """Return a copy of what training has changed, on the CPU."""
        rows = [self.parameters[slot], *(moment[slot] for moment in self.moments)]
        names = ("parameters", "first_moment", "second_moment")
        return {name: row.cpu().clone() for name, row in zip(names, rows, strict=True)}

    def restore(self, slot: int, state: Mapping[str, torch.Tensor], steps: int) -> None:
        """Continue an adapter from its `state` after a number of steps."""
        self.start(slot, state["parameters"])
        self.moments[0][slot] = state["first_moment"]
        self.moments[1][slot] = state["second_moment"]
        self.steps[slot] = steps

    def update(self, slot: int, lr: float) -> None:
        """Clip a slot's gradient, take a step of AdamW without weight decay, and clear it."""
        self.steps[slot] += 1
        gradient, values = self.gradients[slot], self.parameters[slot]
        first, second = (moment[slot] for moment in self.moments)
        if self._clip < math.inf:
            norm = torch.linalg.vector_norm(gradient)
            gradient.mul_((self._clip / (norm + 1e-6)).clamp(max=1.0))
        first.lerp_(gradient, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        scales = [1 - beta ** self.steps[slot] for beta in _BETAS]
        divisor = (second.sqrt() / math.sqrt(scales[1])).add_(_EPSILON)
        values.addcdiv_(first, divisor, value=-lr / scales[0])
        gradient.zero_()

    def initial(self, seed: int) -> torch.Tensor:
        """Return the start of an adapter, (P,): A as in PEFT, uniform within ±1/√in, and B zero.

        All adapters of a seed start with the same A: they stay closer to each other, which is what
        averaging them and packing them in a shared basis rely on.
        """
        digest = hashlib.sha256(f"lora_A {seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        vector = torch.zeros(1, self.size, dtype=torch.float64)
        for A, _ in self._modules(vector):
            A.uniform_(generator=generator).mul_(2).sub_(1).div_(math.sqrt(A.shape[-1]))
        return vector[0].to(self.parameters.dtype)

    def vector(self, factors: Sequence[FactorPair]) -> torch.Tensor:
        """Return the (P,) parameters of an adapter, the inverse of `factors`."""
        vector = torch.empty(1, self.size, dtype=self.parameters.dtype)
        views = zip(self._modules(vector), self._layers, factors, strict=True)
        for (A, B), layer, (A_values, B_values) in views:
            A[0], B[0] = torch.as_tensor(A_values), torch.as_tensor(B_values) / layer.scaling
        return vector[0].to(self.parameters.device)

    def factors(self, vector: torch.Tensor) -> list[FactorPair]:
        """Return A (r, in) and s·B (out, r) of every module from (P,) parameters, in float32."""
        return [
            (A[0].float().cpu().numpy(), (B[0] * layer.scaling).float().cpu().numpy())
            for (A, B), layer in zip(self._modules(vector[None]), self._layers, strict=True)
        ]


class SlotLinear(torch.nn.Module):
    """A frozen linear layer with an adapter per slot.

    Args:
        linear: the base model's layer.
        values: A (K, r, in) and B (K, out, r).
        gradients: buffers of the same shapes.
        scaling: s.

    The tokens of each slot are those of `hf_lorameta.engines.packing.using`.
    """

    def __init__(
        self,
        linear: torch.nn.Linear,
        values: tuple[torch.Tensor, torch.Tensor],
        gradients: tuple[torch.Tensor, torch.Tensor],
        scaling: float,
    ) -> None:
        super().__init__()
        self.linear = linear
        self.values, self.gradients, self.scaling = values, gradients, scaling
        # an input that requires a gradient, so that autograd calls `backward`
        self._anchor = torch.zeros((), requires_grad=True)

    def stacked(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the factors of all slots side by side: A (K · r, in) and B (out, K · r)."""
        A, B = (factor.to(dtype) for factor in self.values)
        return A.flatten(0, 1), B.transpose(0, 1).flatten(1)

    def mask(self, slices: tuple[Slice, ...], x: torch.Tensor) -> torch.Tensor:
        """Return the mask that leaves each token (T, in) the rows of its own slot, times s."""
        count, rank, _ = self.values[0].shape
        return _mask(slices, len(x), count, rank, self.scaling, (x.dtype, x.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y (1, T, out) of x (1, T, in)."""
        linear = self.linear
        apply: Any = _SlotFunction.apply
        y: torch.Tensor = apply(x, linear.weight, linear.bias, self._anchor, self, current_slices())
        return y


@lru_cache(maxsize=4)
def _mask(
    slices: tuple[Slice, ...], tokens: int, count: int, rank: int, scaling: float, like: Any
) -> torch.Tensor:
    """Return s where a token belongs to the slot of a row of A, else 0: (tokens, count · rank)."""
    mask = torch.zeros(tokens, count, rank, dtype=like[0])
    for slot, start, stop in slices:
        mask[start:stop, slot] = scaling
    return mask.flatten(1).to(like[1])


class _SlotFunction(torch.autograd.Function):
    """The adapted layer and its gradients, as the module's docstring states them.

    The gradients of A and B are added to the slots' buffers directly: returned to autograd, they
    would be tensors of all slots, mostly zero.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Any, weight: Any, bias: Any, anchor: Any, layer: Any, slices: Any
    ) -> Any:
        flat = x.reshape(-1, x.shape[-1])
        y = linear(flat, weight, bias)
        if x.device.type in LOOP_DEVICES:
            for slot, start, stop in slices:
                A, B = (factor[slot].to(x.dtype) for factor in layer.values)
                y[start:stop].addmm_(flat[start:stop] @ A.T, B.T, alpha=layer.scaling)
        elif slices:
            A, B = layer.stacked(x.dtype)
            y.addmm_((flat @ A.T) * layer.mask(slices, flat), B.T)
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.slices = layer, slices
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        x, weight = ctx.saved_tensors
        layer, scaling = ctx.layer, ctx.layer.scaling
        g, flat = outputs[0].reshape(-1, weight.shape[0]), x.reshape(-1, x.shape[-1])
        dx = input_gradient(g, weight) if ctx.needs_input_grad[0] else None
        if x.device.type not in LOOP_DEVICES and ctx.slices:
            A, B = layer.stacked(x.dtype)
            mask = layer.mask(ctx.slices, flat)
            z = (g @ B) * mask
            dA, dB = layer.gradients
            dA.add_((z.T @ flat).view_as(dA))
            u = (flat @ A.T) * mask
            dB.add_((g.T @ u).view(-1, *dB.shape[::2]).transpose(0, 1))
            if dx is not None:
                dx.addmm_(z, A)
            return None if dx is None else dx.view_as(x), None, None, None, None, None
        for slot, start, stop in ctx.slices:
            A, B = (factor[slot].to(x.dtype) for factor in layer.values)
            dA, dB = (factor[slot] for factor in layer.gradients)
            own, gradient = flat[start:stop], g[start:stop]
            z = gradient @ B
            _add(dA, z.T, own, scaling)
            _add(dB, gradient.T, own @ A.T, scaling)
            if dx is not None:
                dx[start:stop].addmm_(z, A, alpha=scaling)
        return None if dx is None else dx.view_as(x), None, None, None, None, None


def _add(target: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scaling: float) -> None:
    """Add ``scaling · left @ right`` to a target whose dtype may be wider."""
    if target.dtype == left.dtype:
        target.addmm_(left, right, alpha=scaling)
    else:
        target.add_(left @ right, alpha=scaling)
