"""What a check of an adapter needs of the engine that runs the base model; no torch in here."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.types import FactorPair, Row

if TYPE_CHECKING:
    from hf_lorameta.engines.scoring import Tokens

T = TypeVar("T")


class RowScores(NamedTuple):
    """Scores of rows.

    Attributes:
        loss: mean over all output tokens, in nats.
        right: number of rows whose output is the greedy answer, word for word.
        alike: whether all greedy answers begin alike, while outputs differ, see `all_alike`.
    """

    loss: float
    right: int
    alike: bool = False


def all_alike(answers: Sequence[Sequence[T]], outputs: Sequence[Sequence[T]]) -> bool:
    """Whether of any two answers one is the start of the other, while outputs differ.

    Args:
        answers: texts or token ids; of an answer that is not known to its end, the start.
        outputs: of the same rows.

    Example:
        >>> all_alike(["yes", "yes", "ye"], ["no", "yes", "yes"]), all_alike(["a", "a"], ["a", "a"])
        (True, False)
        >>> all_alike(["yes", "no"], ["yes", "no"]), all_alike(["", ""], ["yes", "no"])
        (False, True)
    """
    longest = max(answers, key=len, default=())
    same = all(longest[: len(answer)] == answer for answer in answers)
    return same and any(output != outputs[0] for output in outputs)


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
