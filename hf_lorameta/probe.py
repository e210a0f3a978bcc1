"""The base model with an update that can be set, scored and differentiated, for `refine`.

An update is a dense ΔW of every adapted module, as large as the adapted weights themselves,
whatever the number of adapters it is a sum of. Needs the extra ``eval``.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_lorameta.adapter import FloatArray, Layout
from hf_lorameta.errors import AdapterError
from hf_lorameta.evaluate import Evaluator
from hf_lorameta.profile import Row
from hf_lorameta.scores import Tokens

if TYPE_CHECKING:
    import torch


class Probe:
    """Scores updates of a base model on a few rows.

    Memory beside the model: ΔW in the model's dtype, and its gradient once one was asked for;
    for SmolLM2-135M's q, k and v 33 MB each, for Mistral-7B's 1.6 GB each.

    Args:
        evaluator: holds the base model.
        layout: the modules that are adapted.

    Raises:
        AdapterError: the base model has no such module, or one of another shape.
    """

    def __init__(self, evaluator: Evaluator, layout: Layout) -> None:
        import torch

        self._evaluator = evaluator
        self._layout = layout
        self._modules = [_linear(evaluator.model, m.name) for m in layout]
        self._updates: list[torch.Tensor] = []
        for module, linear in zip(layout, self._modules, strict=True):
            if tuple(linear.weight.shape) != (module.out_features, module.in_features):
                raise AdapterError(
                    f"{module.name} of the base model has shape {tuple(linear.weight.shape)}, "
                    f"expected {(module.out_features, module.in_features)}"
                )
            self._updates.append(torch.zeros_like(linear.weight))

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Rows as token ids, cut to the evaluator's length."""
        return self._evaluator.encode(rows)

    def set(self, pairs: Iterable[tuple[FloatArray, FloatArray]]) -> None:
        """Make ``ΔW = B A`` the update: (A (k, in), B (out, k)) of every module, in order."""
        import torch

        for update, (A, B) in zip(self._updates, pairs, strict=True):
            dense = torch.from_numpy(np.ascontiguousarray(B)) @ torch.from_numpy(A)
            update.copy_(dense)

    def clear(self) -> None:
        """Be the base model itself."""
        for update in self._updates:
            update.zero_()

    def loss(self, tokens: Sequence[Tokens]) -> float:
        """Mean cross entropy of the output tokens, in nats, under the update."""
        import torch

        with torch.no_grad(), self._attached():
            total = sum(float(loss) for loss in self._evaluator.losses(tokens))
        return total / _outputs(tokens)

    def gradient(self, tokens: Sequence[Tokens]) -> tuple[float, list[FloatArray]]:
        """The same loss, and its gradient by ΔW: (out, in) float32 of every module."""
        import torch

        for update in self._updates:
            update.requires_grad_(True)
            update.grad = None
        count, total = _outputs(tokens), 0.0
        try:
            with self._attached():
                for loss in self._evaluator.losses(tokens):
                    torch.autograd.backward(loss / count)
                    total += float(loss.detach())
            grads = [u.grad.float().numpy() for u in self._updates if u.grad is not None]
        finally:
            for update in self._updates:
                update.requires_grad_(False)
                update.grad = None
        return total / count, grads

    @contextmanager
    def _attached(self) -> Iterator[None]:
        hooks = [
            linear.register_forward_hook(_adder(update))
            for linear, update in zip(self._modules, self._updates, strict=True)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _outputs(tokens: Sequence[Tokens]) -> int:
    return sum(len(row.output) for row in tokens)


def _adder(update: "torch.Tensor") -> Any:
    def add(_: object, inputs: tuple["torch.Tensor"], output: "torch.Tensor") -> "torch.Tensor":
        import torch

        return output + torch.nn.functional.linear(inputs[0], update)

    return add


def _linear(model: Any, name: str) -> Any:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise AdapterError(f"the base model has no module {name}") from None
