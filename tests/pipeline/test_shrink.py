"""Shrinking an adapter until it is not worse than its base model."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from hf_lorameta.cards.results import Check, RightAnswers
from hf_lorameta.engines.interfaces import RowScores
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.pipeline.make import check_update

ROWS = [(f"input {i}", f"output {i}") for i in range(16)]


class Slope:
    """An adapter and its base model in one: the loss of every row is 8 times the scale squared."""

    def __init__(self, base: float) -> None:
        self.base, self.scale = base, 0.0

    @property
    def cleared(self) -> bool:
        return not self.scale

    def scaled(self, scale: float) -> None:
        self.scale = scale

    def apply(self, layout: Any, pairs: Any) -> None:
        raise NotImplementedError

    def clear(self) -> None:
        self.scale = 0.0

    def chat_prompt(self, text: str) -> str | None:
        return None

    def encode(self, rows: Sequence[Any]) -> list[Tokens]:
        """Outputs of 1, 2 or 3 tokens."""
        return [Tokens([i], [0] * (1 + i % 3)) for i, _ in enumerate(rows)]

    def score(self, tokens: Sequence[Tokens]) -> RowScores:
        return RowScores(self.loss(tokens), len(tokens) // 2)

    def loss(self, tokens: Sequence[Tokens]) -> float:
        return self.base if self.cleared else 8 * self.scale**2


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (9.0, Check(16, 9.0, 8.0, 8.0, 1.0)),
        (5.0, Check(16, 5.0, 8.0, 2.0, 0.5)),
        (1.5, Check(16, 1.5, 8.0, 0.5, 0.25)),
        (0.1, Check(16, 0.1, 8.0, 0.1, 0.0)),
        (0.01, Check(16, 0.01, 8.0, 0.01, 0.0)),
    ],
)
def test_an_adapter_is_halved_until_it_is_not_worse(base: float, expected: Check) -> None:
    model = Slope(base)
    checked = check_update(model.scaled, model, ROWS)
    assert checked == replace(expected, right=RightAnswers(1, 8, 8))


class Unstable(Slope):
    """Its loss is not a number with the whole adapter."""

    def loss(self, tokens: Sequence[Tokens]) -> float:
        loss = super().loss(tokens)
        return math.nan if loss == 8.0 else loss


def test_a_loss_that_is_not_a_number_is_worse_than_any() -> None:
    model = Unstable(base=5.0)
    right = RightAnswers(1, 8, 8)
    assert check_update(model.scaled, model, ROWS) == Check(
        16, 5.0, math.inf, 2.0, 0.5, right=right
    )
    reported = check_update(model.scaled, model, ROWS, shrink=False)
    assert reported == Check(16, 5.0, math.inf, math.inf, 1.0, right=right)


class Chat(Slope):
    """A base model that is better if its prompts are in a chat template."""

    def chat_prompt(self, text: str) -> str:
        return f"<user>{text}<assistant>"

    def encode(self, rows: Sequence[Any]) -> list[Tokens]:
        return [Tokens([prompt.startswith("<user>")], [0]) for prompt, _ in rows]

    def loss(self, tokens: Sequence[Tokens]) -> float:
        in_chat = all(row.prompt[0] for row in tokens)
        return 7.0 if self.cleared and in_chat else super().loss(tokens)


def test_the_base_model_is_scored_with_its_chat_template() -> None:
    model = Chat(9.0)
    expected = Check(16, 9.0, 8.0, 8.0, 1.0, chat=7.0, right=RightAnswers(1, 8, 8, chat=8))
    assert check_update(model.scaled, model, ROWS) == expected
