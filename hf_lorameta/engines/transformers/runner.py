"""A base model in transformers with an adapter in memory; needs the extra ``eval``."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from hf_lorameta.data.prompt import shared_length
from hf_lorameta.engines.interfaces import RowScores, all_alike
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.types import FactorPair, Row


class TorchRunner:
    """Scores a base model with an adapter; a `hf_lorameta.engines.interfaces.BaseModelRunner`.

    The model has the adapter while it computes a loss, and its own layers otherwise, also after an
    error.
    """

    def __init__(self, evaluator: TorchEvaluator) -> None:
        self._evaluator = evaluator
        self._layout: Layout = ()
        self._pairs: list[FactorPair] = []

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Return rows as token ids, truncated to the evaluator's length."""
        return self._evaluator.encode(rows)

    def chat_prompt(self, text: str) -> str | None:
        """See `hf_lorameta.engines.scoring.ChatModel.chat_prompt`."""
        return self._evaluator.chat_prompt(text)

    def apply(self, layout: Layout, pairs: Iterable[FactorPair]) -> None:
        """Use an adapter: A (r, in) and B (out, r) of the modules of a layout, in order.

        Raises:
            AdapterError: the base model lacks a module of the layout, or it has another shape.
        """
        self.clear()
        for module in layout:
            _check(self._evaluator.model, module)
        self._pairs = list(pairs)
        self._layout = layout

    def clear(self) -> None:
        """Use no adapter."""
        self._layout, self._pairs = (), []

    def loss(self, tokens: Sequence[Tokens]) -> float:
        """Return the mean cross entropy of the output tokens, in nats."""
        return self.score(tokens).loss

    def score(self, tokens: Sequence[Tokens]) -> RowScores:
        """Return the mean cross entropy of the output tokens, in nats, and the right answers."""
        from hf_lorameta.engines.transformers.lora_layer import applied

        with applied(self._evaluator.model, self._layout, self._pairs):
            [losses] = self._evaluator.row_losses(tokens)
        ends = self._evaluator.answer_ends
        pairs = list(zip(tokens, losses.likeliest, strict=True))
        right = sum(best[:-1] == row.output[:-1] and best[-1] in ends for row, best in pairs)
        known = [_known_answer(best, row.output, ends) for row, best in pairs]
        alike = all_alike(known, [row.output for row in tokens])
        return RowScores(losses.per_token, right, alike)


def _known_answer(
    best: Sequence[int], output: Sequence[int], ends: Collection[int]
) -> tuple[int, ...]:
    """Return what is known of a greedy answer, from the likeliest tokens after those of an output.

    Up to the first that is another than the output's, they are what the model would write.

    Example:
        >>> _known_answer([5, 8, 9], [5, 6, 0], {0}), _known_answer([5, 6, 0], [5, 6, 0], {0})
        ((5, 8), (5, 6))
    """
    same = shared_length([best, output])
    written = tuple(best[: same + 1])
    return written[:-1] if written[-1] in ends else written


def _check(model: Any, module: Module) -> None:
    try:
        linear = model.get_submodule(module.name)
    except AttributeError:
        raise AdapterError(f"the base model has no module {module.name}") from None
    shape, expected = tuple(linear.weight.shape), (module.out_features, module.in_features)
    if shape != expected:
        raise AdapterError(
            f"{module.name} of the base model has shape {shape}, expected {expected}"
        )
