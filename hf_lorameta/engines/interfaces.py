"""What a check of an adapter needs of the engine that runs the base model; no torch in here."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.types import FactorPair, Row

if TYPE_CHECKING:
    from hf_lorameta.engines.scoring import Tokens


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

    def loss(self, tokens: "Sequence[Tokens]") -> float:
        """Mean loss of the output tokens, in nats."""
