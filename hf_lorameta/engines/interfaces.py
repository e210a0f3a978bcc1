"""What is compared, whatever runs the model: prompts, answers, scores and reports.

No model and no torch in here; torch (`evaluate`) and llama.cpp (`llama_cpp_eval`) score with it.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.types import Array, FloatArray, Row

# --- several methods ----------------------------------------------------------------------------


SEARCH_DIMENSIONS = 32


class AdapterUpdate(Protocol):
    """Something that is an update for any coefficients; `WeightedSum`, or a finished adapter."""

    @property
    def linear(self) -> bool:
        """Whether the update is the sum of those of its coefficients one by one."""
        ...

    def pairs(self, c: Array) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Factors of every module in turn, (k, in) and (out, k).

        Args:
            c: (K,) coefficients; where it is a `WeightedSum`, (M, K) too.
        """
        ...


class BaseModelRunner(Protocol):
    """A base model with an update: `hf_lorameta.engines.torch_probe.Probe`, or llama.cpp's."""

    @property
    def engine(self) -> str:
        """What runs it, as a card says it."""
        ...

    @property
    def finite_difference_step(self) -> float:
        """How far `search` goes along an axis for a slope: beyond rounding, hardly bent."""
        ...

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Rows as token ids."""
        ...

    def set(self, summed: AdapterUpdate, c: Array) -> None:
        """Make a sum with these coefficients, as its `pairs` takes them, the update."""
        ...

    def clear(self) -> None:
        """Be the base model itself."""
        ...

    def loss(self, tokens: Sequence[Tokens]) -> float:
        """Mean loss of the output tokens, in nats."""
        ...

    def log_odds(self, tokens: Sequence[Tokens]) -> Array:
        """``log p / (1 − p)`` of each output token, row after row."""
        ...


class GradientRunner(BaseModelRunner, Protocol):
    """One that can tell slopes, too."""

    def gradient(self, tokens: Sequence[Tokens], mixture: "WeightedSum") -> tuple[Array, Array]:
        """(R,) losses of the rows apart, and their (R, M, K) derivatives by the coefficients."""
        ...
