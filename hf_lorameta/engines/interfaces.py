"""Protocols between the fit of coefficients and the engine that runs the base model.

No model and no torch in here: `hf_lorameta.engines.transformers.runner` implements them.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.types import Array, FactorPair, Row

if TYPE_CHECKING:
    from hf_lorameta.bank.weighted_sum import WeightedSum
    from hf_lorameta.engines.scoring import Tokens


class AdapterUpdate(Protocol):
    """An update of the base model for any coefficients: a `WeightedSum` or a finished adapter."""

    @property
    def layout(self) -> Layout:
        """The modules of the update, the first of those that the runner knows."""

    def pairs(self, coefficients: Coefficients) -> Iterator[FactorPair]:
        """Yield factors (k, in) and (out, k) of the update, module by module.

        A finished adapter has one coefficient.
        """


class BaseModelRunner(Protocol):
    """A base model with an update that can be set and scored."""

    def encode(self, rows: Sequence[Row]) -> "list[Tokens]":
        """Tokenize rows."""

    def chat_prompt(self, text: str) -> str | None:
        """Put a prompt into the base model's own chat template; None if it has none."""

    def set(self, update: AdapterUpdate, coefficients: Coefficients) -> None:
        """Apply an update with these coefficients to the base model."""

    def clear(self) -> None:
        """Remove the update."""

    def loss(self, tokens: "Sequence[Tokens]") -> float:
        """Mean loss of the output tokens, in nats."""

    def row_losses(self, tokens: "Sequence[Tokens]") -> Array:
        """(R,) losses of the rows in nats, each the sum over its output tokens."""

    def gradient(
        self, tokens: "Sequence[Tokens]", weighted_sum: "WeightedSum"
    ) -> tuple[Array, Array]:
        """(R,) mean losses of the rows, and their (R, M, K) derivatives by the coefficients."""
