"""A base model in transformers under an update: losses and gradients, for `refine`.

The update is added to the weights of the adapted modules, so a pass costs as much as one of the
base model. The gradient with respect to the coefficients never forms a dense update: a module's
inputs x and the gradients g of its outputs, both (tokens, ·), suffice, and one backward pass
through the activations provides them. Needs the extra ``eval``.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.engines.transformers.packing import passes
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.types import Array, FactorPair, Row

if TYPE_CHECKING:
    import torch

    from hf_lorameta.bank.weighted_sum import ModuleFactors, WeightedSum
    from hf_lorameta.engines.interfaces import AdapterUpdate


_GRADIENT_TOKENS = 512
"""Maximum tokens in a sequence for gradients, whose activations stay in memory."""


class TorchRunner:
    """Runs a base model with an update; a `hf_lorameta.engines.interfaces.BaseModelRunner`.

    The model's own weights are never modified. During a computation the adapted modules use
    separate tensors W + ΔW; afterwards, also after an error, they use their own weights again.

    Memory besides the model and its activations: these tensors, in the model's dtype, from the
    first update on (53 MB for q, k and v of SmolLM2-135M in float32, 1.6 GB for Mistral-7B's in
    bfloat16; for all projections nearly as much as the model itself). A gradient adds the inputs x
    of the adapted modules, 4 bytes × tokens × features, once for modules with the same input, and
    one module's factors unless the sum has them all in memory.

    Raises:
        AdapterError: the base model lacks a module of the layout, or it has another shape.
    """

    def __init__(self, evaluator: TorchEvaluator, layout: Layout) -> None:
        self._evaluator = evaluator
        self._linears = [_linear(evaluator.model, module) for module in layout]
        self._updated_weights: list[torch.Tensor] = []
        self._updated = False

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Return rows as token ids, truncated to the evaluator's length."""
        return self._evaluator.encode(rows)

    def chat_prompt(self, text: str) -> str | None:
        """See `hf_lorameta.engines.scoring.ChatModel.chat_prompt`."""
        return self._evaluator.chat_prompt(text)

    def set(self, update: "AdapterUpdate", coefficients: Coefficients) -> None:
        """Apply an update with these coefficients."""
        self.update(update.pairs(coefficients), len(update.layout))

    def update(self, pairs: Iterable[FactorPair], modules: int | None = None) -> None:
        """Apply ``ΔW = B A``, from A (k, in) and B (out, k) of every module, in order.

        With `modules`, only this number of modules change, the first ones.

        W + ΔW is rounded to the model's dtype, in bfloat16 to 3 digits.
        """
        import torch

        self._updated = False
        if not self._updated_weights:
            self._updated_weights = [torch.empty_like(m.weight.data) for m in self._linears]
        for linear, target in zip(self._linears, self._updated_weights, strict=True):
            target.copy_(linear.weight.data)
        for target, (A, B) in zip(self._updated_weights[:modules], pairs, strict=True):
            total = target if target.dtype == torch.float32 else target.float()
            target.copy_(total.addmm_(torch.from_numpy(B), torch.from_numpy(A)))
        self._updated = True

    def clear(self) -> None:
        """Remove the update."""
        self._updated = False

    def loss(self, tokens: Sequence[Tokens]) -> float:
        """Return the mean cross entropy of the output tokens, in nats."""
        with self._update_applied():
            return self._evaluator.row_losses(tokens)[0].per_token

    def row_losses(self, tokens: Sequence[Tokens]) -> Array:
        """Return the cross entropy of each row in nats, (R,), summed over its output tokens."""
        with self._update_applied():
            return np.array(self._evaluator.row_losses(tokens)[0].sums)

    def gradient(
        self, tokens: Sequence[Tokens], weighted_sum: "WeightedSum"
    ) -> tuple[Array, Array]:
        """Return the loss of each row and its gradient by the coefficients of a weighted sum.

        With x the input of a module at a token and g the gradient of its output there,

            ∂L/∂c_j = s_j Σ_modules Σ_tokens (B_jᵀ g) · (A_j x),

        so one backward pass for many rows, which share no prefix, gives the gradient of each row,
        and of each of the M modules: the terms of the sum. Returns (R,) mean losses of the rows'
        output tokens, and their (R, M, K) derivatives. The applied update may be another one.
        """
        import torch

        from hf_lorameta.engines.transformers.forward import by_row, rows_apart, token_losses

        model, losses, gradients = self._evaluator.model, [], []
        budget = min(self._evaluator.sequence_budget, _GRADIENT_TOKENS)
        with torch.enable_grad(), self._update_applied(), rows_apart(model):
            for packed in passes({0: tokens}, budget, share=False):
                lengths = [length for length, _ in packed.segments]
                with self._gradient_hooks(weighted_sum, lengths) as gradient:
                    of_tokens = by_row(packed, token_losses(model, packed))
                    of_rows = torch.stack([row.mean() for row in of_tokens])
                    torch.autograd.backward(of_rows.sum())
                losses.append(of_rows.detach().double().numpy())
                gradients.append(gradient)
        return np.concatenate(losses), np.concatenate(gradients)

    @contextmanager
    def _update_applied(self) -> Iterator[None]:
        """Replace the modules' weights by W + ΔW, if there is an update."""
        own = [linear.weight.data for linear in self._linears]
        try:
            if self._updated:
                for linear, weight in zip(self._linears, self._updated_weights, strict=True):
                    linear.weight.data = weight
            yield
        finally:
            for linear, weight in zip(self._linears, own, strict=True):
                linear.weight.data = weight

    @contextmanager
    def _gradient_hooks(self, weighted_sum: "WeightedSum", lengths: list[int]) -> Iterator[Array]:
        """Yield an (R, M, K) array to which a backward pass adds the derivatives."""
        layout = weighted_sum.layout
        gradient = np.zeros((len(lengths), len(layout), weighted_sum.size))

        def forward_hook(index: int, module: str) -> Any:
            def hook(_: object, inputs: tuple["torch.Tensor"], output: Any) -> None:
                x = inputs[0].detach().flatten(0, -2)

                def add(g: "torch.Tensor") -> None:
                    by_rank = row_gradients(
                        x, g.flatten(0, -2), weighted_sum.factors(module), lengths
                    )
                    gradient[:, index] += weighted_sum.by_adapter(by_rank.double().numpy())

                if not output.requires_grad:  # modules of the first layer: the graph starts here
                    output.requires_grad_(True)
                output.register_hook(add)

            return hook

        hooks = [
            linear.register_forward_hook(forward_hook(index, module.name))
            for index, (module, linear) in enumerate(
                zip(layout, self._linears[: len(layout)], strict=True)
            )
        ]
        try:
            yield gradient
        finally:
            for hook in hooks:
                hook.remove()


def row_gradients(
    x: "torch.Tensor", g: "torch.Tensor", factors: "ModuleFactors", lengths: list[int]
) -> "torch.Tensor":
    """Return ``Σ_t (B_kᵀ g_t)(A_k x_t)`` over the tokens of each of R rows, for every rank k.

    x (T, in) are the inputs of a module and g (T, out) the gradients of its outputs. No (out, in)
    matrix is formed; for a packed bank everything happens in its small space.

    Returns:
        (R, Σr) float32.
    """
    import torch

    A, B = torch.from_numpy(factors.A), torch.from_numpy(factors.B)
    x, g = x.float(), g.float()
    if factors.bases is not None:
        x, g = x @ torch.from_numpy(factors.bases.V).T, g @ torch.from_numpy(factors.bases.U)
    products = (x @ A.T) * (g @ B)
    return torch.stack([row.sum(0) for row in torch.split(products, lengths)])


def _linear(model: Any, module: Module) -> Any:
    try:
        linear = model.get_submodule(module.name)
    except AttributeError:
        raise AdapterError(f"the base model has no module {module.name}") from None
    shape, expected = tuple(linear.weight.shape), (module.out_features, module.in_features)
    if shape != expected:
        raise AdapterError(
            f"{module.name} of the base model has shape {shape}, expected {expected}"
        )
    return linear
