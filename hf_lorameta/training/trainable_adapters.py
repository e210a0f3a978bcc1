"""Adapters in training: their parameters, their gradients, and the state of their optimizer.

The parameters of all modules of a slot are one vector, so that the optimizer's update, a copy and a
checkpoint are each one operation; A and B of the modules are views of it, on which
`hf_lorameta.engines.transformers.lora_layer` computes.
"""

import hashlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from hf_lorameta.engines.transformers.lora_layer import Factors, with_adapters
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.types import FactorPair

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class TrainableAdapters:
    """K adapters in training on one base model.

    Memory: 4 · K · P values, P being the parameters of one adapter.

    Args:
        model: a causal LM of transformers with frozen weights.
        layout: the adapted modules.
        rank: r.
        scaling: s.
        count: K.
        clip: maximum norm of a slot's gradient; infinity does not clip.

    Attributes:
        vectors: (4, K, P), the parameters, the gradients and the two moments of AdamW, as follows.
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
        self._model, self._scaling, self._clip = model, scaling, clip
        dtype = torch.promote_types(model.dtype, torch.float32)
        self.size = sum(rank * (m.in_features + m.out_features) for m in layout)
        self.vectors = torch.zeros(4, count, self.size, dtype=dtype, device=model.device)
        self.parameters, self.gradients, *self.moments = self.vectors.unbind()
        self.steps = [0] * count

    def attached(self) -> AbstractContextManager[None]:
        """Let the model's layers apply the adapters, and put its own layers back afterwards."""
        values, gradients = self._by_slot(self.parameters), self._by_slot(self.gradients)
        return with_adapters(self._model, values, gradients, self._scaling)

    def _by_slot(self, vectors: torch.Tensor) -> dict[str, dict[int, Factors]]:
        """Return views of (K, P) parameters by module and slot."""
        modules = zip(self.layout, self.modules(vectors), strict=True)
        return {m.name: dict(enumerate(zip(A, B, strict=True))) for m, (A, B) in modules}

    def modules(self, vectors: torch.Tensor) -> list[Factors]:
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

    def start(self, slot: int, initial: torch.Tensor) -> None:
        """Start a new adapter from (P,) parameters, with a new optimizer state."""
        self.vectors[:, slot] = 0
        self.parameters[slot] = initial
        self.steps[slot] = 0

    def update(self, slot: int, lr: float) -> None:
        """Clip a slot's gradient, take a step of AdamW without weight decay, and clear it."""
        self.steps[slot] += 1
        gradient, values = self.gradients[slot], self.parameters[slot]
        first, second = (moment[slot] for moment in self.moments)
        norm = torch.linalg.vector_norm(gradient)
        gradient.mul_((self._clip / (norm + 1e-6)).clamp(max=1.0))
        first.lerp_(gradient, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        scales = [1 - beta ** self.steps[slot] for beta in _BETAS]
        divisor = (second.sqrt() / math.sqrt(scales[1])).add_(_EPSILON)
        values.addcdiv_(first, divisor, value=-lr / scales[0])
        gradient.zero_()

    def update_together(self, lr: float) -> None:
        """Take a step of the one adapter whose copies are in all slots, on all their gradients."""
        self.gradients[0] = self.gradients.sum(0)
        self.gradients[1:] = 0
        self.update(0, lr)
        self.parameters[1:] = self.parameters[0]

    def initial(self, seed: int) -> torch.Tensor:
        """Return the start of an adapter, (P,): A as in PEFT, uniform within ±1/√in, and B zero.

        All adapters of a seed start with the same A: they stay closer to each other, which is what
        averaging them and packing them in a shared basis rely on.
        """
        digest = hashlib.sha256(f"lora_A {seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        vector = torch.zeros(1, self.size, dtype=torch.float64)
        for A, _ in self.modules(vector):
            A.uniform_(generator=generator).mul_(2).sub_(1).div_(math.sqrt(A.shape[-1]))
        return vector[0].to(self.parameters)

    def vector(self, factors: Sequence[FactorPair]) -> torch.Tensor:
        """Return the (P,) parameters of an adapter, the inverse of `factors`."""
        vector = torch.empty(1, self.size, dtype=self.parameters.dtype)
        for (A, B), (A_values, B_values) in zip(self.modules(vector), factors, strict=True):
            A[0], B[0] = torch.as_tensor(A_values), torch.as_tensor(B_values) / self._scaling
        return vector[0].to(self.parameters)

    def factors(self, vector: torch.Tensor) -> list[FactorPair]:
        """Return A (r, in) and s·B (out, r) of every module from (P,) parameters, in float32."""
        return [
            (A[0].float().cpu().numpy(), (B[0] * self._scaling).float().cpu().numpy())
            for A, B in self.modules(vector[None])
        ]
