"""An adapter in training: its parameters, its gradients, and the state of its optimizer.

The parameters of all modules are one vector, so that the optimizer's update, a copy and a
checkpoint are each one operation; A and B of the modules are views of it, on which
`hf_lorameta.engines.transformers.lora_layer` computes.
"""

import hashlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.optim.adamw import adamw

from hf_lorameta.engines.transformers.lora_layer import Factors, with_adapters
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.types import FactorPair

_ADAMW: dict[str, Any] = {
    "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False,
    "maximize": False, "fused": True,
}  # fmt: skip


class TrainableAdapter:
    """An adapter in training on a frozen base model.

    The rows of a step are divided into shares, which threads compute. Each share has gradients of
    its own; the update takes their sum.

    Memory: (3 + shares) · P values in float32, P being the number of parameters.

    Args:
        model: a causal LM of transformers with frozen weights.
        layout: the adapted modules.
        rank: r.
        scaling: s.
        shares: S.
        clip: maximum norm of the gradient; infinity does not clip.

    Attributes:
        vectors: (3, P), the parameters and the two moments of AdamW.
        parameters: (P,), the concatenation of A (r, in) and B (out, r) of every module.
        gradients: (S, P), which the backward pass adds to.
        steps: number of steps that the optimizer has taken.
    """

    def __init__(
        self,
        model: Any,
        layout: Layout,
        rank: int,
        scaling: float,
        shares: int = 1,
        clip: float = math.inf,
    ) -> None:
        self.layout, self.rank, self.steps = layout, rank, 0
        self._model, self._scaling, self._clip = model, scaling, clip
        dtype = torch.promote_types(model.dtype, torch.float32)
        self.size = sum(rank * (m.in_features + m.out_features) for m in layout)
        self.vectors = torch.zeros(3, self.size, dtype=dtype, device=model.device)
        self.gradients = torch.zeros(shares, self.size, dtype=dtype, device=model.device)
        self.parameters, *self._moments = self.vectors.unbind()

    def attached(self) -> AbstractContextManager[None]:
        """Let the model's layers apply the adapter, and put its own layers back afterwards."""
        values = self._by_share(self.parameters.expand_as(self.gradients))
        return with_adapters(self._model, values, self._by_share(self.gradients), self._scaling)

    def _by_share(self, vectors: torch.Tensor) -> dict[str, dict[int, Factors]]:
        """Return views of (S, P) parameters by module and share."""
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

    def start(self, initial: torch.Tensor) -> None:
        """Start from (P,) parameters, with a new optimizer state."""
        self.vectors.zero_()
        self.gradients.zero_()
        self.parameters.copy_(initial)
        self.steps = 0

    def update(self, lr: float) -> None:
        """Clip the gradient, take a step of AdamW without weight decay, and clear the gradient."""
        gradient, (first, second) = self.gradients.sum(0), self._moments
        norm = torch.linalg.vector_norm(gradient)
        gradient.mul_((self._clip / (norm + 1e-6)).clamp(max=1.0))
        taken = torch.tensor(float(self.steps), device=gradient.device)
        # the optimizer's class would import torch._dynamo, which takes a second
        own, state = ([self.parameters], [gradient]), ([first], [second])
        adamw(*own, *state, max_exp_avg_sqs=[], state_steps=[taken], lr=lr, **_ADAMW)
        self.steps += 1
        self.gradients.zero_()

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
