"""The base model with an update that can be set, scored and differentiated, for `refine`.

The update is added to the weights of the adapted modules, so that a pass costs what one of the base
model costs. The gradient by the coefficients never goes through a dense one: a module's inputs x
and the gradients g of its outputs, both (tokens, ·), are enough, and one backward pass through the
activations gives them. Needs the extra ``eval``.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.torch_evaluate import Evaluator
from hf_lorameta.engines.torch_forward import row_lengths, row_nll
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.types import FloatArray, Row

if TYPE_CHECKING:
    import torch

    from hf_lorameta.bank.weighted_sum import ModuleFactors, WeightedSum
    from hf_lorameta.engines.interfaces import AdapterUpdate


class Probe:
    """Scores updates of a base model on a few rows.

    The model's own weights are never written to: while a score is computed, the adapted modules
    point to sums W + ΔW that lie elsewhere, and afterwards, come what may, to their own again.

    Memory beside the model and its activations: those sums, in the model's dtype, once an update
    was set; for SmolLM2-135M's q, k and v 53 MB in float32, for Mistral-7B's 1.6 GB in bfloat16. A
    gradient adds the inputs x of the adapted modules, 4 bytes × tokens × features, where modules
    with the same input share it; and one module's factors, if the mixture does not hold them all.

    Args:
        evaluator: holds the base model.
        layout: the modules that are adapted.

    Raises:
        AdapterError: the base model has no such module, or one of another shape.
    """

    engine = "transformers"
    finite_difference_step = 0.05

    def __init__(self, evaluator: Evaluator, layout: Layout) -> None:
        self._evaluator = evaluator
        self._layout = layout
        self._linears = [_linear(evaluator.model, module.name) for module in layout]
        self._sums: list[torch.Tensor] = []
        self._updated = False
        for module, linear in zip(layout, self._linears, strict=True):
            if tuple(linear.weight.shape) != (module.out_features, module.in_features):
                raise AdapterError(
                    f"{module.name} of the base model has shape {tuple(linear.weight.shape)}, "
                    f"expected {(module.out_features, module.in_features)}"
                )

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Rows as token ids, cut to the evaluator's length."""
        return self._evaluator.encode(rows)

    def set(self, update: "AdapterUpdate", coefficients: Coefficients) -> None:
        """Apply an update with these coefficients."""
        self.update(update.pairs(coefficients))

    def update(self, pairs: Iterable[tuple[FloatArray, FloatArray]]) -> None:
        """Make ``ΔW = B A`` the update: (A (k, in), B (out, k)) of every module, in order.

        Sums are rounded to the model's dtype: in bfloat16 to 3 digits of W + ΔW.
        """
        import torch

        self._updated = False
        self._sums = self._sums or [torch.empty_like(m.weight.data) for m in self._linears]
        for linear, total, (A, B) in zip(self._linears, self._sums, pairs, strict=True):
            total.copy_(linear.weight.data)
            wide = total if total.dtype == torch.float32 else total.float()
            total.copy_(wide.addmm_(torch.from_numpy(B), torch.from_numpy(A)))
        self._updated = True

    def clear(self) -> None:
        """Be the base model itself."""
        self._updated = False

    def loss(self, tokens: Sequence[Tokens]) -> float:
        """Mean cross entropy of the output tokens, in nats, under the update."""
        import torch

        with torch.no_grad(), self._pointed():
            total = sum(float(loss) for loss in self._evaluator.losses(tokens))
        return total / _outputs(tokens)

    def gradient(
        self, tokens: Sequence[Tokens], mixture: "WeightedSum"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The loss of each row under the update, and its gradient by a mixture's coefficients.

        With x the input of a module at a token and g the gradient of its output there,

            ∂L/∂c_j = s_j Σ_modules Σ_tokens (B_jᵀ g) · (A_j x),

        so that one backward pass for many rows gives the gradients of all of them apart, and those
        of the M modules too: the terms of the sum.

        Args:
            tokens: R rows.
            mixture: of K adapters for the same modules; the update need not be one of its sums.

        Returns:
            (R,) mean losses of the rows' output tokens, and their (R, M, K) derivatives by
            the coefficients in each module.
        """
        import torch

        losses, slopes = [], []
        with torch.enable_grad(), self._pointed():
            for part in self._evaluator.lines(tokens, share=False):
                with self._watched(mixture, row_lengths(part)) as found:
                    each = row_nll(self._evaluator.model, part)
                    torch.autograd.backward(each.sum())
                losses.append(each.detach().double().numpy())
                slopes.append(found)
        return np.concatenate(losses), np.concatenate(slopes)

    def log_odds(self, tokens: Sequence[Tokens]) -> NDArray[np.float64]:
        """``log p / (1 − p)`` of each output token under the update, row after row."""
        import torch

        with torch.no_grad(), self._pointed():
            found: NDArray[np.float64] = self._evaluator.log_odds(tokens).numpy()
        return found

    @contextmanager
    def _pointed(self) -> Iterator[None]:
        """The modules with the sums in place of their weights, if there is an update."""
        own = [linear.weight.data for linear in self._linears]
        try:
            if self._updated:
                for linear, total in zip(self._linears, self._sums, strict=True):
                    linear.weight.data = total
            yield
        finally:
            for linear, weight in zip(self._linears, own, strict=True):
                linear.weight.data = weight

    @contextmanager
    def _watched(self, mixture: "WeightedSum", lengths: list[int]) -> Iterator[NDArray[np.float64]]:
        """Within it, a backward pass fills in the (R, M, K) derivatives by a mixture."""
        found = np.zeros((len(lengths), len(self._layout), mixture.size))

        def watcher(place: int, module: str) -> Any:
            def watch(_: object, inputs: tuple["torch.Tensor"], output: Any) -> None:
                x = inputs[0].detach().flatten(0, -2)

                def add(g: "torch.Tensor") -> None:
                    by_row = row_slopes(x, g.flatten(0, -2), mixture.factors(module), lengths)
                    found[:, place] += mixture.by_adapter(by_row.double().numpy())

                if not output.requires_grad:  # of the first layer's modules: the chain begins here
                    output.requires_grad_(True)
                output.register_hook(add)

            return watch

        hooks = [
            linear.register_forward_hook(watcher(place, module.name))
            for place, (module, linear) in enumerate(zip(self._layout, self._linears, strict=True))
        ]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()


def row_slopes(
    x: "torch.Tensor", g: "torch.Tensor", factors: "ModuleFactors", lengths: list[int]
) -> "torch.Tensor":
    """``Σ_t (B_kᵀ g_t)(A_k x_t)`` over the tokens of each row, for every rank k.

    No (out, in) matrix is formed; of a pack, all of it happens inside its small space.

    Args:
        x: (T, in) inputs of a module.
        g: (T, out) gradients of its outputs.
        factors: A (Σr, in) and B (out, Σr), or smaller ones with their space.
        lengths: number of tokens of each of the R rows, T together.

    Returns:
        (R, Σr) float32.
    """
    import torch

    A, B = torch.from_numpy(factors.A), torch.from_numpy(factors.B)
    x, g = x.float(), g.float()
    if factors.space is not None:
        x, g = x @ torch.from_numpy(factors.space.V).T, g @ torch.from_numpy(factors.space.U)
    products = (x @ A.T) * (g @ B)
    return torch.stack([row.sum(0) for row in torch.split(products, lengths)])


def _outputs(tokens: Sequence[Tokens]) -> int:
    return sum(len(row.output) for row in tokens)


def _linear(model: Any, name: str) -> Any:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise AdapterError(f"the base model has no module {name}") from None
