"""What a check of an adapter needs of the engine that runs the base model; no torch in here."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.types import FactorPair, Row

if TYPE_CHECKING:
    from hf_lorameta.engines.scoring import Tokens


class RowScores(NamedTuple):
    """Scores of rows.

    Attributes:
        loss: mean over all output tokens, in nats.
        right: number of rows whose output is the greedy answer, word for word.
    """

    loss: float
    right: int


class BaseModelRunner(Protocol):
    """A base model that is scored with an adapter or without one."""

    def encode(self, rows: Sequence[Row]) -> "list[Tokens]":
        """Tokenize rows."""

    def chat_prompt(self, text: str) -> str | None:
        """Put a prompt into the base model's own chat template; None if it has none."""

    def apply(self, layout: Layout, pairs: Iterable[FactorPair]) -> None:
        """Use an adapter: A (r, in) and B (out, r) of the modules of a layout, in order."""

    def clear(self) -> None:
        """Use no adapter."""

    def score(self, tokens: "Sequence[Tokens]") -> RowScores:
        """Score rows."""
