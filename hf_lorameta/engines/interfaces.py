"""What a check of an adapter measures, and what is known of greedy answers; no torch in here."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeVar

from hf_lorameta.data.prompt import shared_length

T = TypeVar("T")


class RowScores(NamedTuple):
    """Scores of rows.

    Attributes:
        loss: mean over all output tokens, in nats.
        right: number of rows whose output is the greedy answer but for case, and for space at its
            ends.
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


def known_answer(
    best: Sequence[int], output: Sequence[int], ends: Collection[int]
) -> tuple[int, ...]:
    """Return what is known of a greedy answer, from the likeliest tokens after those of an output.

    Up to the first that is another than the output's, they are what the model would write.

    Example:
        >>> known_answer([5, 8, 9], [5, 6, 0], {0}), known_answer([5, 6, 0], [5, 6, 0], {0})
        ((5, 8), (5, 6))
    """
    same = shared_length([best, output])
    written = tuple(best[: same + 1])
    return written[:-1] if written[-1] in ends else written
