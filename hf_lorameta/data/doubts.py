"""Signs in the first rows that a model of texts may not be able to answer from the inputs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_lorameta.types import Row

_NUMBER = re.compile(r"[-+−$€]?\d[\d.,\s]*%?")
_LEAST = 4
"""Rows whose outputs are compared, at least."""


def doubts(raw: Sequence[Mapping[str, Any]], rows: Sequence[Row], blank: int) -> Iterator[str]:
    """Yield the doubts about a dataset, as sentences without its text.

    Args:
        raw: the first rows as the files have them.
        rows: the same rows as they are read.
        blank: how many of them have a blank input.

    Example:
        >>> rows = [(f"{n} + {n} =", f"{2 * n}") for n in range(4)]
        >>> list(doubts([], rows, 0))
        ['The outputs are all different numbers, which such small models rarely compute.']
    """
    if any(_is_image(value) for row in raw for value in row.values()):
        yield "The dataset holds images, which are not read."
    if blank:
        yield f"Of the first {len(rows)} inputs, {blank} are blank."
    outputs = [output.strip() for _, output in rows if output.strip()]
    different = len(outputs) >= _LEAST and len(set(outputs)) == len(outputs)
    if different and all(map(_NUMBER.fullmatch, outputs)):
        yield "The outputs are all different numbers, which such small models rarely compute."


def _is_image(value: object) -> bool:
    """Whether a value is an image: of the library `datasets`, not decoded, or of PIL."""
    stored = isinstance(value, Mapping) and {"bytes", "path"} <= value.keys()
    return stored or type(value).__module__.partition(".")[0] == "PIL"
