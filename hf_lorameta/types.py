"""Types that many modules share."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""float64 of any shape."""

FloatArray = NDArray[np.float32]
"""float32 of any shape."""

FactorPair = tuple[FloatArray, FloatArray]
"""lora_A (r, in_features) and lora_B (out_features, r) of one module."""

Row = tuple[str, str]
"""(input, output) of one example; the output may be an `Output`."""


class Output(str):
    """An output of a row with others that are as right, such as further references.

    It is trained on as the text that it is; an answer is right if it is any of them.

    Args:
        text: the output.
        others: the other right ones.

    Example:
        >>> Output("a", ["b"]) == "a", right_outputs(Output("a", ["b"])), right_outputs("a")
        (True, ('a', 'b'), ('a',))
    """

    others: tuple[str, ...]

    def __new__(cls, text: str, others: Iterable[str] = ()) -> "Output":  # noqa: D102
        output = super().__new__(cls, text)
        output.others = tuple(others)
        return output


def right_outputs(output: str) -> tuple[str, ...]:
    """Return an output, and those that are as right."""
    return (str(output), *(output.others if isinstance(output, Output) else ()))


Encode = Callable[[Sequence[str]], Iterable[Sequence[int]]]
"""Maps texts to their token ids, without special tokens."""

Progress = Callable[[int, int], None]
"""Called with (steps done, all steps)."""

StageProgress = Callable[[str, int, int], None]
"""Called with (title of the stage, steps done, all steps, or 0 if their number is not known)."""


def no_progress(*_: object) -> None:
    """Report nothing: the default of an argument ``progress``."""
